"""Augmentations: a function of seed and position alone, uniform, and never outside the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_dist.data.augment import CENTRE, Augment, Crop, augmentations
from gen_dist.data.errors import DataError

ALL = Augment(crop="random", min_scale=0.4, flip=True)
PINNED = [
    Crop(scale=0.7971559083994147, across=0.2637291000460309, down=0.16316671411041717, flip=True),
    Crop(scale=0.7941079830062354, across=0.3709386442865892, down=0.3646544713886646, flip=True),
    Crop(scale=0.46598189824461833, across=0.3432604146440661, down=0.7171902354706328, flip=True),
]


def drawn(seed: int, positions: np.ndarray, augment: Augment = ALL) -> np.ndarray:
    """(B, 4): scale, across, down, flip."""
    found = augmentations(seed, positions, augment)
    return np.stack([found.scale, found.across, found.down, found.flip], axis=1)


def test_a_position_has_its_crop_in_any_batch() -> None:
    positions = np.arange(10**12, 10**12 + 500)
    whole = drawn(3, positions)
    some = np.array([17, 499, 0, 17])
    np.testing.assert_array_equal(drawn(3, positions[some]), whole[some])
    np.testing.assert_array_equal(drawn(3, positions[100:300]), whole[100:300])


def test_the_draws_are_the_same_on_every_platform_and_in_every_version() -> None:
    """Written down once: a change would give a resumed run other pixels."""
    found = augmentations(7, np.array([0, 1, 2**40]), ALL)
    assert [found[row] for row in range(len(found))] == PINNED


def test_the_first_draw_is_what_the_mixer_gives_in_plain_integers() -> None:
    low = (1 << 64) - 1

    def mix(bits: int) -> int:
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & low
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & low
        return bits ^ bits >> 31

    golden = 0x9E3779B97F4A7C15
    for seed, position in ((0, 0), (7, 1), (2**63 + 5, 10**15)):
        run = mix(seed * golden + int.from_bytes(b"augments", "big") & low)
        key = mix(run ^ mix(position * golden & low))
        shares = [(mix(key + element * golden & low) >> 11) / (1 << 53) for element in (1, 2, 3, 4)]
        wanted = Crop(1.0 - 0.6 * shares[0], shares[1], shares[2], shares[3] < 0.5)
        assert augmentations(seed, np.array([position]), ALL)[0] == pytest.approx(wanted)


def test_draws_are_uniform_and_independent() -> None:
    num_samples = 200_000
    shares = drawn(11, np.arange(num_samples))
    shares[:, 0] = (1.0 - shares[:, 0]) / 0.6
    for column in range(3):
        counts = np.histogram(shares[:, column], bins=50, range=(0, 1))[0]
        chi_squared = ((counts - num_samples / 50) ** 2 / (num_samples / 50)).sum()
        assert chi_squared < 49 + 5 * (2 * 49) ** 0.5
    assert abs(shares[:, 3].mean() - 0.5) < 5 * 0.5 / num_samples**0.5
    correlations = np.corrcoef(shares, rowvar=False) - np.eye(4)
    assert np.abs(correlations).max() < 5 / num_samples**0.5
    follow = np.corrcoef(shares[:-1, 1], shares[1:, 1])[0, 1]
    assert abs(follow) < 5 / num_samples**0.5


def test_seeds_differ() -> None:
    positions = np.arange(100)
    assert not (drawn(1, positions)[:, 1] == drawn(2, positions)[:, 1]).any()


def test_nothing_is_drawn_unless_asked_for() -> None:
    found = augmentations(5, np.arange(50), Augment())
    assert {found[row] for row in range(50)} == {CENTRE}
    mirrored = augmentations(5, np.arange(50), Augment(flip=True))
    assert {mirrored[row] for row in range(50)} == {CENTRE, Crop(flip=True)}
    moved = drawn(5, np.arange(50), Augment(crop="random"))
    assert (moved[:, 0] == 1.0).all()
    assert len(set(moved[:, 1])) == 50


SIDE_PX = st.integers(1, 10_000)
SHARE = st.floats(0.0, 1.0, exclude_max=True)


@given(SIDE_PX, SIDE_PX, SIDE_PX, SIDE_PX, st.floats(0.01, 1.0), SHARE, SHARE)
def test_a_box_is_inside_and_has_the_wanted_aspect(
    from_width: int, from_height: int, width: int, height: int, scale: float, across: float, down: float
) -> None:
    crop = Crop(scale, across, down)
    left, top, right, bottom = crop.box(from_width, from_height, width_px=width, height_px=height)
    assert 0 <= left < right <= from_width
    assert 0 <= top < bottom <= from_height
    assert (right - left) * height == pytest.approx((bottom - top) * width, rel=1e-6)
    assert max((right - left) / from_width, (bottom - top) / from_height) == pytest.approx(scale, rel=1e-6)


def test_an_image_that_is_not_resized_is_cut_at_whole_pixels_all_equally_often() -> None:
    starts = [Crop(across=(step + 0.5) / 90).box(18, 10, width_px=10, height_px=10)[0] for step in range(90)]
    assert {start: starts.count(start) for start in starts} == {float(start): 10 for start in range(9)}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"crop": "corner"}, "use 'centre' or 'random'"),
        ({"crop": "random", "min_scale": 0.0}, "above 0 and up to 1"),
        ({"crop": "random", "min_scale": 1.5}, "above 0 and up to 1"),
        ({"min_scale": 0.5}, "set crop to 'random'"),
    ],
)
def test_a_rule_that_draws_nothing_sensible_is_refused_with_the_remedy(wrong: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Augment(**wrong)
