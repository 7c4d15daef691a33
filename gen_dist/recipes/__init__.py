"""One file = one way to train: networks, losses and sampling in plain torch, nothing else."""
