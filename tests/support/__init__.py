"""What several tests need: data to train on, and servers to get it from."""
