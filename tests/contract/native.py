"""DeepSpeed's own checkpoints of the two groups of `reshard.py`. Runs on ranks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from gen_dist.checkpoint.deepspeed_import import SECTIONS, Imported
from tests.contract import reshard


def save(ways: list[reshard.Way], folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """DeepSpeed's checkpoint of each engine of each way, and the truth by its name."""
    found = {}
    for way in ways:
        made = reshard.Made(way, seed=5)
        made.train()
        for name, member in made.engines.items():
            member.freeze(False)
            member.engine.save_checkpoint(str(folder / way.name / name), tag="tag")
        found[way.name] = reshard.truth(made)
    return found


def trained(truth: dict[str, np.ndarray], group: str) -> list[str]:
    """What the optimizer of a group updates."""
    head = f"weight/{group}/"
    return [key.removeprefix(head) for key in truth if key.startswith(head)]


def read(folder: Path, out: Path, truth: dict[str, np.ndarray], group: str) -> Imported:
    """Read in this process: one of its own, as an import starts, takes seconds each."""
    from gen_dist.checkpoint import deepspeed_unpickle

    out.mkdir()
    deepspeed_unpickle.main(folder, out, trained(truth, group))
    steps = int(re.findall(r"\d+", (out / "facts.json").read_text())[0])
    return Imported(steps, {section: load_file(out / f"{section}.safetensors") for section in SECTIONS})


def assert_is(imported: Imported, truth: dict[str, np.ndarray], group: str) -> None:
    """Bit for bit, nothing missing and nothing more."""
    assert imported.steps == reshard.STEPS
    ours = {f"{one}/{group}/{name}": value for one in SECTIONS for name, value in imported.sections[one].items()}
    heads = tuple(f"{section}/{group}/" for section in SECTIONS)
    wanted = {key: value for key, value in truth.items() if key.startswith(heads)}
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():
        found = ours[key].float() if ours[key].is_floating_point() else ours[key]
        assert found.shape == value.shape, key
        assert np.array_equal(found.numpy(), value), key
