"""The command line: one verb for each step of the flow."""

from gen_dist.cli.app import app, main

__all__ = ["app", "main"]
