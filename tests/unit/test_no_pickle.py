"""Nothing in the package loads a pickle, but the one program whose only purpose it is."""

from __future__ import annotations

import ast
from pathlib import Path

import gen_dist

ROOT = Path(gen_dist.__file__).parent
LOADERS = {
    ("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("cloudpickle", "load"),
    ("cloudpickle", "loads"), ("joblib", "load"), ("np", "load"), ("numpy", "load"), ("pd", "read_pickle"),
}  # fmt: skip
ALLOWED = {"checkpoint/deepspeed_unpickle.py"}


def test_only_the_import_of_deepspeeds_checkpoints_unpickles() -> None:
    found = set()
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value
            if isinstance(owner, ast.Name) and (owner.id, node.func.attr) in LOADERS and not _refuses(node):
                found.add(file.relative_to(ROOT).as_posix())
    assert found == ALLOWED


def _refuses(call: ast.Call) -> bool:
    """np.load(..., allow_pickle=False) loads arrays alone."""
    return any(
        word.arg == "allow_pickle" and isinstance(word.value, ast.Constant) and word.value.value is False
        for word in call.keywords
    )
