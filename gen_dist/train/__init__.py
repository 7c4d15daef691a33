"""The Ray trainer, the loop, and the DeepSpeed engines it drives."""
