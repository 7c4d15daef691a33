"""A manifest is believed only where it adds up: nothing outside the checkpoint is read, whatever it says."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_dist.checkpoint import CheckpointError, Manifest, Name, candidates, open_checkpoint
from gen_dist.checkpoint.layout import PAGE_BYTES
from gen_dist.checkpoint.manifest import FORMAT
from gen_dist.checkpoint.names import file_name, is_file_name
from gen_dist.checkpoint.piece import Fragment, tiling_fault
from gen_dist.store.local import LocalStore
from tests.support.saves import commit, group

NAME = Name(64, 1)
WHERE = "s3://bucket/run/MANIFEST.json"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of a real checkpoint."""
    store = LocalStore(tmp_path_factory.mktemp("store"))
    commit(group(store, attempt=1), 64)
    return dict(json.loads(store.read(NAME.manifest)))


def parsed(document: Any) -> Manifest:
    return Manifest.from_bytes(json.dumps(document).encode(), name=NAME, where=WHERE)


def test_what_is_written_is_what_is_parsed(written: dict[str, Any]) -> None:
    manifest = parsed(written)
    assert json.loads(manifest.to_bytes()) == written
    assert manifest.name == NAME


def rename(document: dict[str, Any], name: str) -> None:
    document["files"][name] = document["files"].pop("rank00000.safetensors")


def fragment(document: dict[str, Any], at: int, value: Any) -> None:
    document["files"]["rank00000.safetensors"]["fragments"][0][at] = value


POISON: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("'../../etc/passwd' is no name of a file", lambda doc: rename(doc, "../../etc/passwd")),
    ("'/etc/passwd' is no name of a file", lambda doc: rename(doc, "/etc/passwd")),
    (r"'rank00000.safetensors\\n' is no name", lambda doc: rename(doc, "rank00000.safetensors\n")),
    ("'other/rank00000.safetensors' is no name", lambda doc: rename(doc, "other/rank00000.safetensors")),
    ("does not fit rank00000", lambda doc: fragment(doc, 3, 0)),  # the header, or before it
    ("does not fit rank00000", lambda doc: fragment(doc, 3, 1 << 40)),
    ("does not fit rank00000", lambda doc: fragment(doc, 2, 1 << 40)),
    ("does not fit rank00000", lambda doc: fragment(doc, 2, 0)),
    ("a number of rank00000.safetensors is -1", lambda doc: fragment(doc, 1, -1)),
    ("a number of rank00000.safetensors is True", lambda doc: fragment(doc, 1, True)),
    ("a number of rank00000.safetensors is 1.5", lambda doc: fragment(doc, 3, 1.5)),
    ("list index out of range", lambda doc: fragment(doc, 0, 99)),
    ("missing; take an older checkpoint", lambda doc: doc["files"].pop("rank00001.safetensors")),
    ("overlap", lambda doc: doc["files"]["rank00000.safetensors"]["fragments"].append([0, 0, 1, PAGE_BYTES + 4])),
    ("has the shape", lambda doc: doc["tensors"][0].__setitem__(2, [1 << 40, 1 << 40])),
    ("a size of .* is -1", lambda doc: doc["tensors"][0].__setitem__(2, [-1])),
    ("has the shape", lambda doc: doc["tensors"][0].__setitem__(2, [1] * 1000)),
    ("tensor .*'OBJECT'", lambda doc: doc["tensors"][0].__setitem__(1, "OBJECT")),
    ("a tensor is listed twice", lambda doc: doc["tensors"].append(doc["tensors"][0])),
    ("the checksum of rank00000", lambda doc: doc["files"]["rank00000.safetensors"].__setitem__("sha256", "0")),
    ("the size of rank00000", lambda doc: doc["files"]["rank00000.safetensors"].__setitem__("size_bytes", 1 << 60)),
    ("of the format 'other', this is " + FORMAT, lambda doc: doc.__setitem__("format", "other")),
    ("it is the manifest of 'images-1'", lambda doc: doc.__setitem__("name", "images-1")),
    ("parent is '../x'", lambda doc: doc.__setitem__("parent", "../x")),
    ("'facts' is missing", lambda doc: doc.pop("facts")),
    ("step is -1", lambda doc: doc.__setitem__("step", -1)),
    ("files is list", lambda doc: doc.__setitem__("files", [])),
]


@pytest.mark.parametrize(("says", "poison"), POISON, ids=[str(number) for number in range(len(POISON))])
def test_a_poisoned_manifest_is_refused_by_name(
    written: dict[str, Any], says: str, poison: Callable[[dict[str, Any]], object]
) -> None:
    document = copy.deepcopy(written)
    poison(document)
    with pytest.raises(CheckpointError, match=says) as caught:
        parsed(document)
    assert WHERE in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"])
def test_what_is_no_json_is_damage(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json: damaged, or not written by gen-dist .*; take an older"):
        Manifest.from_bytes(data, name=NAME, where=WHERE)


@settings(max_examples=300)
@given(seed=st.randoms(use_true_random=False), values=st.sampled_from([None, -1, 0, 1, 1 << 62, 0.5, "", "..", [], {}]))
def test_a_manifest_with_anything_changed_is_refused_or_adds_up(
    written: dict[str, Any], seed: Any, values: Any
) -> None:
    document = copy.deepcopy(written)
    node: Any = document
    while True:
        key = seed.choice(sorted(node)) if isinstance(node, dict) else seed.randrange(len(node))
        if not isinstance(node[key], dict | list) or not node[key] or seed.random() < 0.2:
            node[key] = values
            break
        node = node[key]
    try:
        manifest = parsed(document)
    except CheckpointError:
        return
    manifest.contents.check_tiling(WHERE)
    for entry in manifest.tensors.values():
        for fragment in entry.fragments:
            assert fragment.offset + fragment.numel * entry.dtype.itemsize <= manifest.files[fragment.file].size_bytes


def test_a_manifest_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    name = commit(group(store, attempt=1), 64)
    with (tmp_path / name / "MANIFEST.json").open("r+b") as file:
        file.truncate(1 << 34)  # a hole: no byte of it is on the disk
    with pytest.raises(CheckpointError, match="17179869184 bytes are too many for a manifest"):
        open_checkpoint(store, name)


def test_what_is_no_checkpoint_is_told_with_a_remedy(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "checkpoints")
    assert candidates(store) == []
    with pytest.raises(
        CheckpointError, match=r"'?.*/newest: no name of a checkpoint; write such as images-000000012800"
    ):
        open_checkpoint(store, "newest")
    with pytest.raises(CheckpointError, match="no such checkpoint; take one that `gen-dist checkpoints` lists"):
        open_checkpoint(store, str(NAME))
    name = commit(group(store, attempt=1), 64)
    (tmp_path / "checkpoints" / name / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match="not committed, it has no manifest"):
        open_checkpoint(store, name)


@given(st.integers(0, 10**12 - 1), st.integers(0, 10**6 - 1))
def test_a_name_is_read_back_and_sorts_by_age(images: int, attempt: int) -> None:
    name = Name(images, attempt)
    assert Name.parse(str(name)) == name
    assert (str(name) < str(NAME)) == (name < NAME)


@pytest.mark.parametrize("text", ["", "images-1.a1", "images-000000000064", f"{NAME}/x", f"{NAME}\n", f"../{NAME}"])
def test_what_is_no_name_is_none(text: str) -> None:
    assert Name.parse(text) is None


def test_only_our_own_names_of_files_are_taken() -> None:
    assert is_file_name(file_name(3, 0))
    assert is_file_name(file_name(99_999, 7))
    assert not any(
        is_file_name(text) for text in ("", "rank1.safetensors", "../rank00000.safetensors", "MANIFEST.json")
    )


@given(numel=st.integers(0, 60), cuts=st.sets(st.integers(1, 59)), data=st.data())
def test_a_tensor_cut_anywhere_is_whole_and_without_or_with_one_part_more_is_not(
    numel: int, cuts: set[int], data: st.DataObject
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < numel), numel]
    parts = [Fragment(low, high - low, "f", 0) for low, high in pairwise(edges) if high > low]
    assert tiling_fault((numel,), parts) == ""
    if parts:
        index = data.draw(st.integers(0, len(parts) - 1))
        assert "missing" in tiling_fault((numel,), parts[:index] + parts[index + 1 :])
        assert "are in f and in f" in tiling_fault((numel,), sorted([*parts, parts[index]]))
