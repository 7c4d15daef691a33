"""Weights compare by their bits, and an export is read back only as it was written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gen_dist.registry import exports, weights
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.home import Home
from gen_dist.store import open_store

BASE = {"a": torch.tensor([1.0, float("nan")]), "b": torch.zeros(2, 3), "n": torch.tensor(5)}


def but(**changes: Tensor) -> dict[str, Tensor]:
    return {**{key: value.clone() for key, value in BASE.items()}, **changes}


def test_equal_bits_are_equal_also_where_they_are_no_numbers() -> None:
    assert weights.difference(BASE, but()) == ""
    assert weights.digest(BASE) == weights.digest(but())
    half = {"a": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)}
    assert weights.difference(half, {"a": half["a"].T.contiguous().T}) == ""


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (but(b=torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, -0.0]])), "b differs in 1 bytes"),
        (but(b=torch.zeros(3, 2)), r"b is torch.float32 \(2, 3\) in one and torch.float32 \(3, 2\) in the other"),
        (but(b=torch.zeros(2, 3, dtype=torch.bfloat16)), "torch.bfloat16"),
        (but(c=torch.zeros(1)), "c is in only one of them"),
        ({"a": BASE["a"]}, "b is in only one of them"),
        (but(n=torch.tensor(6)), "n differs"),
    ],
)
def test_the_smallest_difference_is_seen(other: dict[str, Tensor], words: str) -> None:
    assert re.search(words, weights.difference(BASE, other))
    assert weights.digest(BASE) != weights.digest(other)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "model" / "MLmodel").write_text("flavors: {}\n")
    (tmp_path / "model" / "deep" / "er" / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return tmp_path / "model"


def test_an_export_comes_back_as_it_went(folder: Path, tmp_path: Path) -> None:
    store, home = open_store(str(tmp_path)), Home(str(tmp_path))
    exports.put(folder, store, "registry/small/x")
    assert exports.fault_of(store, "registry/small/x") == ""
    got = exports.fetch(store, "registry/small/x", tmp_path / "got")
    for path in folder.rglob("*"):
        if path.is_file():
            assert (got / path.relative_to(folder)).read_bytes() == path.read_bytes()
    source = exports.address(home, "registry/small/x")
    assert exports.prefix_of(home, source) == "registry/small/x"
    assert exports.prefix_of(Home("s3://b/p"), exports.address(Home("s3://b/p"), "registry/y")) == "registry/y"
    assert exports.prefix_of(home, "mlflow-artifacts:/1/models/m-1") == ""
    exports.remove(store, home, "registry/small/x")
    exports.remove(store, home, "registry/small/x")
    assert not (tmp_path / "registry" / "small" / "x").exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def test_a_changed_byte_a_lost_file_and_half_an_export_are_seen(folder: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    file = tmp_path / "x" / "deep" / "er" / "model.safetensors"
    for damage, words in (
        (flip, "deep/er/model.safetensors has other bytes than were published"),
        (lambda path: path.write_bytes(b"short"), "has 5 bytes, 10240 were published"),
        (lambda path: path.unlink(), "model.safetensors: No such file"),
        (lambda path: (tmp_path / "x" / exports.INDEX).unlink(), "the export is not whole"),
    ):
        exports.put(folder, store, "x")
        damage(file)
        assert words in exports.fault_of(store, "x")
        with pytest.raises(RegistryError) as refused:
            exports.fetch(store, "x", tmp_path / f"got-{len(words)}")
        assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "..\\up"])
def test_a_list_of_files_that_leads_out_of_the_export_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    exports.put(folder, store, "x")
    index = tmp_path / "x" / exports.INDEX
    facts = json.loads(index.read_text())
    facts["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    index.write_text(json.dumps(facts))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RegistryError, match="leads out of the export"):
        exports.fetch(store, "x", tmp_path / "got")
    assert sorted(tmp_path.rglob("*")) == before
