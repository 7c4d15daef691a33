"""Where a pretrained model is only counted, its folder may be missing: a name that jobs here use says its sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gen_dist.nets.gigagan.judges import PairModel, VisionModel
from gen_dist.nets.pretrained import PretrainedError, shapes_alone
from gen_dist.nets.text import PretrainedTextEncoder, PretrainedTokens

NETS: list[tuple[Callable[[Path], nn.Module], str, int]] = [
    # as published with the models
    (PretrainedTextEncoder, "clip-vit-l-14-text", 123_060_480),
    (PairModel, "clip-vit-b-32", 151_277_313),
    (VisionModel, "clip-vit-b-32", 87_456_000),
]


@pytest.mark.parametrize(("make", "name", "num_parameters"), NETS)
def test_a_missing_folder_of_a_known_name_has_the_sizes_of_that_model(
    make: Callable[[Path], nn.Module], name: str, num_parameters: int, tmp_path: Path
) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), shapes_alone() as assumed:
        net = make(tmp_path / name)
    assert sum(value.numel() for value in net.parameters()) == num_parameters
    assert list(assumed) == [str(tmp_path / name)]


def test_its_tokens_are_counted_and_their_numbers_say_nothing(tmp_path: Path) -> None:
    with shapes_alone():
        tokens = PretrainedTokens(tmp_path / "clip-vit-b-32", length=100)
    assert tokens.length == 77
    ids, mask = tokens(["a red heart", "", "word " * 100])
    assert ids.shape == mask.shape == (3, 77)
    assert ids.dtype == torch.int64
    assert mask.sum(dim=1).tolist() == [5, 2, 77]


@pytest.mark.parametrize(("make", "name", "_"), NETS)
def test_who_wants_weights_is_told_that_the_folder_is_missing(
    make: Callable[[Path], nn.Module], name: str, _: int, tmp_path: Path
) -> None:
    with pytest.raises(PretrainedError, match=r"no config\.json there; name "):
        make(tmp_path / name)
    with pytest.raises(PretrainedError, match="no vocabulary there"):
        PretrainedTokens(tmp_path / name, length=6)


def test_a_folder_that_is_there_and_one_that_nobody_knows_are_read(tmp_path: Path) -> None:
    empty = tmp_path / "clip-vit-l-14-text"
    empty.mkdir()
    for folder in (empty, tmp_path / "my-encoder"):
        with shapes_alone() as assumed, pytest.raises(PretrainedError, match=r"no config\.json there; name "):
            PretrainedTextEncoder(folder)
        with shapes_alone() as assumed, pytest.raises(PretrainedError, match="no vocabulary there"):
            PretrainedTokens(folder, length=6)
        assert assumed == {}
