"""What survives a run: checkpoints, written whole or not at all, and how they are found again."""

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.folder import checkpoints, keep_newest, newest
from gen_dist.checkpoint.read import Manifest, read_manifest, read_model, read_recipe, read_training
from gen_dist.checkpoint.write import CheckpointWriter

__all__ = [
    "CheckpointError",
    "CheckpointWriter",
    "Manifest",
    "checkpoints",
    "keep_newest",
    "newest",
    "read_manifest",
    "read_model",
    "read_recipe",
    "read_training",
]
