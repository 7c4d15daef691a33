"""Distributed training of generative image models: one TOML file is one run."""

__version__ = "0.1.0"
