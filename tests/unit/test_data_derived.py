"""Derived shards: what the encoder gives, found by place in every order, and refused wherever something differs."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.index import find_index
from gen_dist.data.source import Data, check_data, find_data, open_stream
from gen_dist.data.stream import Stream
from gen_dist.job.spec import DataSpec, MixSpec
from gen_dist.nets.autoencoder import AutoencoderError
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, DeriveError
from gen_dist.registry.export import export
from gen_dist.registry.find import find_model
from gen_dist.sample.derive import Outcome, derive
from gen_dist.sample.model import Model
from gen_dist.sample.source import Exported
from gen_dist.store.local import LocalStore
from tests.support import models
from tests.support.shards import write_shards

SETTINGS = {
    "image_px": 16,
    "autoencoder_images": 64,
    "autoencoder_channels": [16],
    "denoiser_channels": [64],
    "text_width": 16,
    "text_buckets": 64,
    "text_layers": 0,
    "sample_steps": 2,
}
NUM_SAMPLES = 26


def write_model(folder: Path, *, seed: int = 0, images: int = 128, **changes: Any) -> Path:
    """A checkpoint with the random weights of `seed`."""
    settings = catalog.build("latent_diffusion", {**SETTINGS, **changes}).settings.model_dump(mode="json")
    job = {"name": "small", "recipe": "latent_diffusion", "model": settings}
    return Path(models.write_model(folder, job, images=images, seed=seed).url)


def run(model: Path, source: Path, dest: Path, *, pattern: str = "*.tar", batch_images: int = 4) -> Outcome:
    dest.mkdir(exist_ok=True)
    index = find_index(LocalStore(source), pattern)
    spec = DataSpec(url=str(source), fast_downscale=False)
    copied = ["json", "txt"]
    store = LocalStore(dest)
    made_by = find_model(str(model))
    return derive(
        made_by, index, store, spec=spec, copied=copied, batch_images=batch_images, tell=lambda done, total: None
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    write_shards(folder, num_samples=20, per_shard=9)
    write_shards(folder, num_samples=NUM_SAMPLES - 20, per_shard=9, stem="heldout")
    return folder


@pytest.fixture(scope="module")
def derived(model: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("derived")
    made = run(model, source, folder)
    assert (made.num_samples, made.num_shards, made.num_made, made.num_unreadable) == (NUM_SAMPLES, 4, 4, 0)
    return folder


def settings_of(model: Path, **changes: Any) -> dict[str, Any]:
    return {**SETTINGS, "autoencoder": str(model), "latents": "derived", **changes}


def opened(source: Path, derived: Path, model: Path, *, seed: int = 0, heldout: bool = False) -> Stream:
    """The stream that a run on stored latents reads."""
    recipe = catalog.build("latent_diffusion", settings_of(model))
    spec = DataSpec(url=str(source), derived=str(derived), train="train-*.tar", heldout="heldout-*.tar")
    train, other = check_data(spec, fields=recipe.batch, made_with=recipe.made_with())
    assert other is not None
    return open_stream(spec, fields=recipe.batch, seed=seed, data=other if heldout else train)


def encoded(source: Path, model: Path, *, pattern: str = "train-*.tar") -> dict[int, np.ndarray]:
    """Sample number -> moments, straight from the encoder."""
    loaded = Model.load(find_model(str(model)))
    fields = {"image": loaded.recipe.batch["image"]}
    spec = DataSpec(url=str(source), fast_downscale=False)
    with open_stream(spec, pattern=pattern, fields=fields, seed=0) as stream:
        batch = stream.batch(0, stream.num_samples)
    image = batch["image"].float().contiguous() / 127.5 - 1.0
    with torch.no_grad():
        middle, logvar = loaded.recipe._encode(loaded.context(seed=0, first=0, count=len(image)), image)
    moments = torch.cat([middle, logvar], dim=1).numpy()
    return dict(zip(batch["sample_id"].tolist(), moments, strict=True))


@pytest.mark.parametrize("seed", [0, 5])
def test_a_run_reads_the_encoders_own_latents_in_any_order(source: Path, derived: Path, model: Path, seed: int) -> None:
    wanted = encoded(source, model)
    with opened(source, derived, model, seed=seed) as stream:
        batch = stream.batch(0, 20)
        again = stream.batch(0, 20)
    ids = batch["sample_id"].tolist()
    assert batch["latent"].dtype == torch.float16
    assert batch["latent"].shape == (20, 8, 4, 4)
    assert batch["caption"] == [f"caption {number}" for number in ids]
    for row, number in enumerate(ids):
        np.testing.assert_allclose(batch["latent"][row].numpy(), wanted[number], rtol=2e-3, atol=2e-3)
    assert torch.equal(batch["latent"], again["latent"])
    assert len({latent.tobytes() for latent in batch["latent"].numpy()}) == 20


def test_heldout_shards_are_joined_too(source: Path, derived: Path, model: Path) -> None:
    wanted = encoded(source, model, pattern="heldout-*.tar")
    with opened(source, derived, model, heldout=True) as stream:
        batch = stream.batch(0, 6)
    for row, number in enumerate(batch["sample_id"].tolist()):
        np.testing.assert_allclose(batch["latent"][row].numpy(), wanted[number], rtol=2e-3, atol=2e-3)


def test_what_the_derived_shards_hold_is_not_read_from_the_source(source: Path, derived: Path, model: Path) -> None:
    with opened(source, derived, model) as stream:
        before = stream.index.store_of(0).stats.counts()["received_bytes"]
        stream.batch(0, 20)
        assert stream.index.store_of(0).stats.counts()["received_bytes"] == before


def test_the_shards_are_plain_webdataset_with_the_keys_of_the_source(source: Path, derived: Path) -> None:
    for path in sorted(source.glob("*.tar")):
        with tarfile.open(path) as one, tarfile.open(derived / path.name) as other:
            keys = [name.partition(".")[0] for name in one.getnames() if name.endswith(".png")]
            names = other.getnames()
            assert [name.partition(".")[0] for name in names if name.endswith(".latent.npy")] == keys
            member = other.extractfile(f"{keys[0]}.latent.npy")
            assert member is not None
            assert np.load(io.BytesIO(member.read())).shape == (8, 4, 4)
            text = other.extractfile(f"{keys[0]}.txt")
            assert text is not None
            assert text.read().decode() == f"caption {int(keys[0])}"


def test_it_goes_on_where_it_was_stopped_and_gives_the_same_bytes(
    model: Path, source: Path, derived: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(derived, copy)
    whole = {path.name: path.read_bytes() for path in copy.glob("*.tar")}
    assert run(model, source, copy).num_made == 0
    (copy / "train-00001.tar").unlink()
    (copy / "train-00000.tar.gdx").unlink()
    (copy / "index.gdx").unlink()
    assert run(model, source, copy).num_made == 2
    assert {path.name: path.read_bytes() for path in copy.glob("*.tar")} == whole
    with opened(source, copy, model) as stream:
        assert stream.batch(0, 20)["weight"].sum() == 20


def test_a_part_can_be_derived_first(model: Path, source: Path, tmp_path: Path) -> None:
    run(model, source, tmp_path, pattern="train-*.tar")
    with pytest.raises(
        DataError, match=r"heldout-00000.tar: not derived yet; run `gen-dist data derive MODEL .*it goes"
    ):
        opened(source, tmp_path, model)
    assert run(model, source, tmp_path).num_made == 1
    opened(source, tmp_path, model).close()


def test_another_autoencoder_is_refused(source: Path, derived: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path, seed=1)
    with pytest.raises(
        DataError, match=r"\.latent\.npy: encoder is \w{12}\.\.\., and the run wants \w{12}\.\.\.; name"
    ):
        opened(source, derived, other)
    with pytest.raises(DataError, match=r"encoder is .*, and this would make .*; name a new folder"):
        run(other, source, derived)


def test_another_image_size_is_refused(source: Path, derived: Path, model: Path) -> None:
    recipe = catalog.build("latent_diffusion", settings_of(model, image_px=32))
    spec = DataSpec(url=str(source), derived=str(derived))
    with pytest.raises(DataError, match=r"image_px is 16, and the run wants 32"):
        find_data(spec, made_with=recipe.made_with())


def test_another_source_is_refused(source: Path, derived: Path, model: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(source, changed)
    opened(changed, derived, model).close()  # a copy is the same source
    write_shards(changed, num_samples=18, per_shard=9)
    (changed / "train-00001.tar").rename(changed / "train-00002.tar")
    with pytest.raises(DataError, match=r"train-00002.tar: derived from other samples than .*changed/train-00002.tar"):
        opened(changed, derived, model)


def test_a_shard_that_was_exchanged_is_refused(source: Path, derived: Path, model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(derived, copy)
    shutil.copy(source / "train-00001.tar", copy / "train-00001.tar")
    with pytest.raises(DataError, match=r"train-00001.tar: (changed after it was indexed|not the shard)"):
        opened(source, copy, model)
    (copy / "index.gdx").unlink()
    with pytest.raises(DataError, match=r"train-00001.tar: not the shard that was derived; delete it"):
        opened(source, copy, model)


def test_a_run_without_its_derived_shards_is_told_how_to_make_them(source: Path, model: Path, tmp_path: Path) -> None:
    recipe = catalog.build("latent_diffusion", settings_of(model))
    with pytest.raises(DataError, match=r"reads \.latent\.npy from derived shards.*run `gen-dist data derive MODEL /"):
        find_data(DataSpec(url=str(source)), made_with=recipe.made_with())
    with pytest.raises(DataError, match=r"no derived\.json: no derived shards; make them with `gen-dist data derive"):
        find_data(DataSpec(url=str(source), derived=str(tmp_path)), made_with=recipe.made_with())


def test_an_unreadable_image_keeps_its_row_with_weight_zero(model: Path, tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "dest"
    write_shards(source, num_samples=9, per_shard=9)
    path = source / "train-00000.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmember("000004.png")
        data[member.offset_data + 20 : member.offset_data + member.size - 12] = bytes(member.size - 32)
    path.write_bytes(data)
    made = run(model, source, dest)
    assert made.num_unreadable == 1
    assert made.unreadable[0].startswith("train-00000.tar: 000004: image: ")
    recipe = catalog.build("latent_diffusion", settings_of(model))
    spec = DataSpec(url=str(source), derived=str(dest))
    found = find_data(spec, made_with=recipe.made_with())
    with open_stream(spec, fields=recipe.batch, seed=0, data=found) as stream:
        batch = stream.batch(0, 9)
    lost = batch["sample_id"].tolist().index(4)
    assert batch["weight"].tolist() == [float(row != lost) for row in range(9)]
    assert batch["bad"][0].key == "000004"
    assert not batch["latent"][lost].any()


def test_mixed_sources_are_joined_each_with_its_own(source: Path, derived: Path, model: Path, tmp_path: Path) -> None:
    other, dest = tmp_path / "other", tmp_path / "dest"
    write_shards(other, num_samples=8, per_shard=5, stem="more")
    run(model, other, dest)
    recipe = catalog.build("latent_diffusion", settings_of(model))
    mix = [MixSpec(url=str(other), derived=str(dest))]
    spec = DataSpec(url=str(source), derived=str(derived), train="train-*.tar", mix=mix)
    data = find_data(spec, made_with=recipe.made_with())
    wanted = [*encoded(source, model).items()]
    wanted += [(20 + number, latent) for number, latent in encoded(other, model, pattern="*.tar").items()]
    by_number = dict(wanted)
    with open_stream(spec, fields=recipe.batch, seed=0, data=data) as stream:
        batch = stream.batch(0, 40)
    assert max(batch["sample_id"].tolist()) >= 20
    for row, number in enumerate(batch["sample_id"].tolist()):
        np.testing.assert_allclose(batch["latent"][row].numpy(), by_number[number], rtol=2e-3, atol=2e-3)
    assert data.digest != Data([find_index(LocalStore(source), "train-*.tar")], [1.0]).digest


def test_the_denoiser_learns_from_stored_latents_and_draws_with_their_decoder(
    source: Path, derived: Path, model: Path
) -> None:
    recipe = catalog.build("latent_diffusion", settings_of(model))
    assert set(recipe.networks()) == {"denoiser", "text"} == set(recipe.groups()["denoiser"].nets)
    [phase] = recipe.phases(Clock(images=0, step=0))
    with opened(source, derived, model) as stream:
        batch = stream.batch(0, 4)
    torch.manual_seed(0)
    nets, frozen = recipe.networks(), recipe.frozen()
    ctx = replace(Model(recipe, nets, frozen, torch.device("cpu")).context(seed=0, first=0, count=4), nets=nets)
    sum(phase.loss(ctx, batch).values()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in nets["denoiser"].parameters())
    assert recipe.evaluate(ctx, batch)["velocity"].shape == (4,)
    assert recipe.sample(ctx, {"caption": ["a"] * 4}, 4).shape == (4, 3, 16, 16)


def test_images_and_stored_latents_give_the_same_loss(source: Path, derived: Path, model: Path) -> None:
    losses = []
    for latents in ("images", "derived"):
        recipe = catalog.build("latent_diffusion", settings_of(model, latents=latents))
        spec = DataSpec(url=str(source), derived=str(derived), train="train-*.tar", fast_downscale=False)
        data = find_data(spec, made_with=recipe.made_with())
        with open_stream(spec, fields=recipe.batch, seed=0, data=data) as stream:
            batch = stream.batch(0, 4)
        if "image" in batch:
            batch["image"] = batch["image"].float() / 127.5 - 1.0
        torch.manual_seed(0)
        nets = recipe.networks()
        ctx = Model(recipe, nets, recipe.frozen(), torch.device("cpu")).context(seed=0, first=0, count=4)
        losses.append(recipe.phases(ctx.clock)[0].loss(ctx, batch)["velocity"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_an_export_carries_the_autoencoder(model: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(model, home)
    trained = write_model(tmp_path / "run", **settings_of(home))
    drawn = Model.load(find_model(str(trained))).draw(["a"], seed=1)
    dest = export(find_model(str(trained)), tmp_path / "export")
    home.rename(tmp_path / "gone")
    assert np.array_equal(Model.load(dest).draw(["a"], seed=1), drawn)
    assert np.array_equal(Model.load(export(Exported(dest), tmp_path / "again")).draw(["a"], seed=1), drawn)
    with pytest.raises(AutoencoderError, match=r"model.autoencoder='.*home': no checkpoint there; name the folder"):
        Model.load(find_model(str(trained)))


def test_an_autoencoder_that_still_learns_is_refused(source: Path, tmp_path: Path) -> None:
    early = write_model(tmp_path / "early", images=48)
    with pytest.raises(DeriveError, match=r"its autoencoder saw 48 of 64 images and still learns; derive when"):
        run(early, source, tmp_path / "dest")
    with pytest.raises(AutoencoderError, match=r"its autoencoder saw 48 of 64 images; let that run reach"):
        catalog.build("latent_diffusion", settings_of(early))


def test_an_autoencoder_of_another_shape_is_refused_with_the_setting(model: Path) -> None:
    with pytest.raises(AutoencoderError, match=r"model.latent_channels=6: model.autoencoder has 4; write latent_chan"):
        catalog.build("latent_diffusion", settings_of(model, latent_channels=6))


def test_a_destination_with_other_things_is_refused(model: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds other things \(holiday.jpg\); name a new folder or prefix as DEST"):
        run(model, source, tmp_path)
    with pytest.raises(DataError, match="source and destination are one"):
        run(model, source, source)


def test_the_command_makes_them(model: Path, source: Path, derived: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gen_dist.cli", "data", "derive", str(model), str(source), str(tmp_path / "out")]
    done = subprocess.run([*command, "--batch", "4", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["num_made"] == 4
    for path in derived.glob("*.tar"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    wrong = subprocess.run([*command[:-1], str(source)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "source and destination are one" in wrong.stderr


def test_verify_reads_the_arrays_of_derived_shards(
    source: Path, derived: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "stored"
    shutil.copytree(derived, stored)
    lines = ['name = "x"', 'recipe = "latent_diffusion"', "[train]", "total_images = 64", "micro_batch_images = 4"]
    lines += ["[data]", f'url = "{source}"', f'derived = "{stored}"', 'train = "train-*.tar"', "[model]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in settings_of(model).items()]
    job = tmp_path / "job.toml"
    job.write_text("\n".join(lines) + "\n")
    words = ["data", "verify", "--job", str(job), "--json"]
    assert main(words) == 0
    assert not [line for line in json.loads(capsys.readouterr().out)["notes"] if ".npy" in line]
    path = stored / "train-00001.tar"
    path.write_bytes(path.read_bytes().replace(b"\x93NUMPY", b"\x93NUMPX"))
    assert main(words) == 1
    stops = json.loads(capsys.readouterr().out)["stops"]
    assert len(stops) == 1
    assert "other bytes than were indexed" in stops[0]
    assert main(["data", "index", str(stored), "--again"]) == 0
    capsys.readouterr()
    assert main(words) == 0  # a run leaves such samples out, up to a share
    notes = [line for line in json.loads(capsys.readouterr().out)["notes"] if ".npy" in line]
    assert len(notes) == 1
    assert "no .npy header" in notes[0]
    assert "times in what was read; run `gen-dist data derive` into another folder" in notes[0]
