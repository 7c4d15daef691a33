"""Captions become vectors: by hashed words trained in the run, or by a frozen CLIP or T5 from a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from gen_dist.nets.pretrained import PretrainedError, shapes_alone
from gen_dist.nets.text import (
    NULL,
    PAD,
    HashedWords,
    PretrainedTextEncoder,
    PretrainedTokens,
    SmallTextEncoder,
)
from tests.support.text_models import write_text_model


@pytest.fixture(params=["clip", "t5"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_text_model(tmp_path, request.param)


def test_words_hash_alike_whatever_their_case_and_place() -> None:
    words = HashedWords(num_buckets=1024, length=4)
    tokens = words(["Red heart", "heart, red!", "", "one two three four five"])
    assert tokens.shape == (4, 4)
    assert tokens[0, 0] == tokens[1, 1]
    assert tokens[0, 2:].tolist() == [PAD, PAD]
    assert tokens[2].tolist() == [NULL, PAD, PAD, PAD]
    assert (tokens[3] > NULL).all()


def test_padding_changes_no_vector_and_carries_none() -> None:
    torch.manual_seed(0)
    net = SmallTextEncoder(num_buckets=64, length=6, width=8, depth=2)
    short, long = torch.tensor([[5, 9]]), torch.tensor([[5, 9, PAD, PAD, PAD]])
    assert torch.allclose(net(short), net(long)[:, :2], atol=1e-6)
    assert (net(long)[:, 2:] == 0).all()


def test_a_pretrained_folder_gives_the_models_own_hidden_states(folder: Path) -> None:
    net, tokens = PretrainedTextEncoder(folder), PretrainedTokens(folder, length=6)
    pair = tokens(["red heart", "blue"])
    vectors = net(pair)
    assert vectors.shape == (2, 6, net.width)
    alone = net.encoder(input_ids=pair[0, :1], attention_mask=pair[1, :1]).last_hidden_state
    assert torch.allclose(vectors[0, :2], alone[0, :2], atol=1e-5)
    assert torch.equal(tokens(["red heart"]), pair[:, :1]), "depends on what stands beside it"
    assert (vectors[1, 1] == 0).all(), "a padded token carries something"


def test_of_clip_a_layer_before_the_last_may_be_read_through_the_last_norm(tmp_path: Path) -> None:
    folder = write_text_model(tmp_path / "clip", "clip")
    whole = PretrainedTextEncoder(folder)
    pair = PretrainedTokens(folder, length=6)(["red heart", "blue"])
    states = whole.encoder(input_ids=pair[0], attention_mask=pair[1], output_hidden_states=True).hidden_states
    wanted = whole.encoder.final_layer_norm(states[-2]) * pair[1].unsqueeze(-1)
    torch.testing.assert_close(PretrainedTextEncoder(folder, clip_layers_left_out=1)(pair), wanted)
    t5 = write_text_model(tmp_path / "t5", "t5")
    torch.testing.assert_close(PretrainedTextEncoder(t5, clip_layers_left_out=1)(pair), PretrainedTextEncoder(t5)(pair))


def test_a_folder_without_a_model_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PretrainedError, match=r"config\.json"):
        PretrainedTextEncoder(tmp_path)


def test_a_folder_without_weights_or_tokenizer_is_told_in_one_line(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    with pytest.raises(PretrainedError, match=r"transformers cannot read it: .*; copy the model's whole folder there"):
        PretrainedTextEncoder(bare)
    with pytest.raises(PretrainedError, match="put the model's tokenizer beside it"):
        PretrainedTokens(bare, length=6)


def test_who_counts_shapes_needs_no_weights(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    with shapes_alone():
        counted = PretrainedTextEncoder(bare)
    read = PretrainedTextEncoder(folder)
    assert [value.shape for value in counted.parameters()] == [value.shape for value in read.parameters()]


def test_latent_diffusion_trains_nothing_of_a_pretrained_encoder(folder: Path) -> None:
    from gen_dist.recipes import catalog

    recipe = catalog.build("latent_diffusion", {"text_encoder": str(folder)})
    assert "text" not in recipe.networks()
    assert recipe.groups()["denoiser"].nets == ("denoiser",)
    assert set(recipe.frozen()) == {"text"}
