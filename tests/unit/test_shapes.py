"""Drawn shapes: captions that say all of the picture, and a score that knows whether a model read them."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gen_dist.cli.app import main
from gen_dist.data.shapes import build
from gen_dist.data.shapes.scene import ATTRIBUTES, BACKGROUNDS, COLOURS, POSITIONS, Scene, draw, pick
from gen_dist.evaluate.attributes import learn, read, score_attributes


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("seed", range(30))
def test_a_picture_shows_what_its_caption_says(seed: int) -> None:
    random = generator(seed)
    scene = pick(random)
    image = np.asarray(draw(scene, random, side_px=64)).astype(int)
    across, down = (round(64 * share) for share in POSITIONS[scene.position])
    assert np.abs(image[down, across] - COLOURS[scene.colour]).max() <= 18
    others = [place for name, place in POSITIONS.items() if name != scene.position]
    for x, y in others:
        assert np.abs(image[round(64 * y), round(64 * x)] - BACKGROUNDS[scene.background]).max() <= 18
    for name, values in ATTRIBUTES.items():
        assert values[scene.labels[name]] == getattr(scene, name)
        assert getattr(scene, name) in scene.caption


def test_each_shape_has_its_area() -> None:
    areas = {}
    for shape in ATTRIBUTES["shape"]:
        random = generator(3)
        image = np.asarray(draw(Scene("red", shape, "top left", "black"), random, side_px=64))
        areas[shape] = (image[..., 0] > 110).sum()
    # of one circumscribed circle: pi r^2, 2 r^2, 3/4 sqrt(3) r^2
    assert areas["square"] / areas["circle"] == pytest.approx(2 / np.pi, rel=0.06)
    assert areas["triangle"] / areas["circle"] == pytest.approx(0.75 * 3**0.5 / np.pi, rel=0.08)


def samples(folder: Path, prefix: str) -> list[tuple[Image.Image, str, dict[str, int]]]:
    found = []
    for path in sorted(folder.glob(f"{prefix}-*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for key in sorted({name.split(".")[0] for name in members}):
            image = Image.open(io.BytesIO(members[f"{key}.png"])).convert("RGB")
            found.append((image, members[f"{key}.txt"].decode(), json.loads(members[f"{key}.json"])))
    return found


def test_shards_are_the_same_bytes_each_time_and_only_captions_are_shuffled(tmp_path: Path) -> None:
    for name, more in (("a", []), ("b", []), ("shuffled", ["--shuffle-captions"])):
        assert build.main([str(tmp_path / name), "--train", "300", "--heldout", "40", *more]) == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert build.main([str(tmp_path / "a")]) == 1
    right, shuffled = samples(tmp_path / "a", "train"), samples(tmp_path / "shuffled", "train")
    assert all(label["colour"] == ATTRIBUTES["colour"].index(caption.split()[1]) for _, caption, label in right)
    agree = sum(label["colour"] == ATTRIBUTES["colour"].index(caption.split()[1]) for _, caption, label in shuffled)
    assert 0.15 < agree / len(shuffled) < 0.35
    assert Counter(caption for _, caption, _ in right) == Counter(caption for _, caption, _ in shuffled)
    assert [label for *_, label in right] == [label for *_, label in shuffled]
    held = [(tmp_path / name / "heldout-00000.tar").read_bytes() for name in ("a", "shuffled")]
    assert held[0] == held[1], "who is measured must be told the truth"


def pictures(captioned: Sequence[Scene], seed: int) -> torch.Tensor:
    rows = [np.asarray(draw(scene, generator(seed + at), side_px=32)) for at, scene in enumerate(captioned)]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def labels(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([scene.labels[name] for scene in scenes]) for name in ATTRIBUTES}


def test_who_draws_what_is_asked_scores_high_and_who_does_not_read_scores_chance() -> None:
    scenes = [pick(generator(seed)) for seed in range(1_500)]
    reader = learn(pictures(scenes, 10_000), labels(scenes), num_steps=250)
    asked = [pick(generator(seed)) for seed in range(5_000, 5_200)]
    real, wanted = pictures(asked, 50_000), labels(asked)

    def obey(captions: Sequence[str]) -> np.ndarray:
        assert list(captions) == [scene.caption for scene in asked]
        return pictures(asked, 70_000).permute(0, 2, 3, 1).numpy()

    def ignore(captions: Sequence[str]) -> np.ndarray:
        others = [pick(generator(seed)) for seed in range(9_000, 9_000 + len(captions))]
        return pictures(others, 90_000).permute(0, 2, 3, 1).numpy()

    captions = [scene.caption for scene in asked]
    good = score_attributes(obey, reader, captions, wanted, real_N3HW=real)
    blind = score_attributes(ignore, reader, captions, wanted, real_N3HW=real)
    for name in ("colour", "position", "background"):
        assert good[name].share > 0.95, name
        assert good[name].reader_share > 0.95
        assert abs(blind[name].share - 1 / len(ATTRIBUTES[name])) < 0.12
        assert blind[name].chance < 0.5
    assert good["shape"].share > 0.7  # the slowest to learn
    assert abs(blind["shape"].share - 1 / 3) < 0.12
    assert torch.equal(read(reader, real)["colour"], read(reader, real)["colour"])


def test_a_score_of_attributes_needs_held_out_captions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["evaluate", str(tmp_path / "none"), "--attributes", "colour"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
