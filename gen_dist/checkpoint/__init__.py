"""What survives a run: checkpoints in a store, committed whole or not at all, and read in slices by any workers.

README.md tells the protocol.
"""

from gen_dist.checkpoint.attempts import begin_attempt, highest_attempt, note_base
from gen_dist.checkpoint.errors import CheckpointError, FencedError
from gen_dist.checkpoint.history import candidates
from gen_dist.checkpoint.inventory import Entry, inventory
from gen_dist.checkpoint.keep import Keep, Removal, prune
from gen_dist.checkpoint.manifest import Manifest
from gen_dist.checkpoint.model import export_safetensors, read_model, read_recipe, verify_model
from gen_dist.checkpoint.names import MANIFEST, Name
from gen_dist.checkpoint.piece import Piece
from gen_dist.checkpoint.pins import pin, pinned, unpin
from gen_dist.checkpoint.read import Checkpoint, Slice, open_checkpoint
from gen_dist.checkpoint.saver import Saver

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "CheckpointError",
    "Entry",
    "FencedError",
    "Keep",
    "Manifest",
    "Name",
    "Piece",
    "Removal",
    "Saver",
    "Slice",
    "begin_attempt",
    "candidates",
    "export_safetensors",
    "highest_attempt",
    "inventory",
    "note_base",
    "open_checkpoint",
    "pin",
    "pinned",
    "prune",
    "read_model",
    "read_recipe",
    "unpin",
    "verify_model",
]
