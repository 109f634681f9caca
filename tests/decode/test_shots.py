"""Cuts and dissolves stand out; flashes, shakes, grain, fades of one picture, zooms and pans do not."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vidrestore.decode.shots import ShotDetector
from vidrestore.types import Frame, PixelFormat

Luma = NDArray[np.floating[Any]]


def scene(seed: int, height: int = 120, width: int = 160) -> Luma:
    """A picture with the spectrum of a photograph: large shapes strong, small ones weak; levels 16 to 235."""
    rng = np.random.default_rng(seed)
    y, x = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    power = 1 / np.maximum(np.hypot(y, x), 1 / width) ** 1.3
    picture = np.fft.ifft2(power * np.exp(2j * np.pi * rng.random((height, width)))).real
    picture = (picture - picture.mean()) / picture.std()
    return np.clip(120 + 40 * picture + rng.uniform(-25, 25), 16, 235)


def as_frame(luma: Luma, index: int, depth: int = 8) -> Frame:
    scaled = np.clip(np.round(luma * 2 ** (depth - 8)), 0, 2**depth - 1)
    plane = scaled.astype(np.uint8 if depth == 8 else np.uint16)
    name = "gray" if depth == 8 else f"gray{depth}le"
    return Frame(index, index, Fraction(1, 25), (plane,), PixelFormat(name, "gray", depth))


def cuts(pictures: Iterable[Luma], depth: int = 8, threshold: float = 0.3) -> list[int]:
    detector = ShotDetector(threshold)
    return [i for i, luma in enumerate(pictures) if detector.update(as_frame(luma, i, depth))]


def still(picture: Luma, count: int, seed: int = 0, grain: float = 2.0) -> list[Luma]:
    rng = np.random.default_rng(seed)
    return [picture + rng.normal(0, grain, picture.shape) for _ in range(count)]


@pytest.mark.parametrize("depth", [8, 10, 16])
@pytest.mark.parametrize("seed", range(12))
def test_hard_cuts_are_found_at_every_depth(seed: int, depth: int) -> None:
    pictures = still(scene(seed), 10) + still(scene(100 + seed), 7) + still(scene(200 + seed), 5)
    assert cuts(pictures, depth) == [10, 17]


@pytest.mark.parametrize("angle", [1, 2, 3])
def test_cuts_between_pictures_of_equal_tones_are_found(angle: int) -> None:
    picture = scene(0, 120, 120) + np.linspace(-60, 60, 120)  # light from one side
    assert cuts(still(picture, 8) + still(np.rot90(picture, angle), 8)) == [8]


@pytest.mark.parametrize("seed", range(6))
def test_single_frames_of_another_scene_are_shots_of_their_own(seed: int) -> None:
    pictures = [*still(scene(seed), 6), scene(50 + seed), *still(scene(90 + seed), 6)]
    assert cuts(pictures) == [6, 7]


def test_cuts_to_black_and_from_it_are_found() -> None:
    black = np.full((120, 160), 16.0)
    assert cuts([*still(scene(1), 8), black, *still(scene(2), 8)]) == [8, 9]


@pytest.mark.parametrize("seed", range(8))
def test_flashes_are_no_cuts(seed: int) -> None:
    picture = scene(seed)
    flash = [np.clip(picture * gain + add, 0, 255) for gain, add in ((2.5, 60), (1.8, 30), (1.3, 10))]
    assert cuts(still(picture, 8) + flash + still(picture, 8)) == []
    white = np.full_like(picture, 255.0)
    assert cuts([*still(picture, 8), white, *still(picture, 8)]) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_cut_in_the_light_of_a_flash_is_found(seed: int) -> None:
    white = np.full((120, 160), 255.0)
    assert cuts([*still(scene(seed), 8), white, *still(scene(seed + 40), 8)]) == [9]


@pytest.mark.parametrize("seed", range(6))
def test_camera_shake_is_no_cut(seed: int) -> None:
    wide, rng = scene(seed, 160, 220), np.random.default_rng(seed)
    offsets = rng.integers(0, 14, (30, 2))
    assert cuts([wide[y : y + 120, x : x + 160] for y, x in offsets]) == []


@pytest.mark.parametrize("pixels_a_frame", [2, 6, 12])
def test_pans_are_no_cuts(pixels_a_frame: int) -> None:
    wide = scene(3, 120, 160 + 30 * 12)
    assert cuts([wide[:, i * pixels_a_frame :][:, :160] for i in range(30)]) == []


@pytest.mark.parametrize("grain", [5.0, 15.0, 30.0])
def test_grain_is_no_cut(grain: float) -> None:
    assert cuts(still(scene(5), 25, grain=grain)) == []


@pytest.mark.parametrize("num_frames", [12, 25, 50])
def test_slow_fades_are_no_cuts(num_frames: int) -> None:
    picture, steps = scene(6), np.linspace(1, 0, num_frames)
    out = [16 + (picture - 16) * s for s in steps]
    assert cuts(still(picture, 5) + out + out[::-1] + still(picture, 5)) == []


def test_a_light_switched_off_and_on_is_no_cut() -> None:
    picture = scene(7)
    dark = 16 + (picture - 16) * 0.4
    assert cuts(still(picture, 6) + still(dark, 6) + still(picture, 6)) == []


def test_something_that_crosses_the_picture_is_no_cut() -> None:
    picture, passing = scene(8), []
    for place in range(-60, 170, 8):
        crossed = picture.copy()
        crossed[20:, max(0, place) : max(0, place + 60)] = 40
        passing.append(crossed)
    assert cuts(still(picture, 5) + passing + still(picture, 5)) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 200), (700, 9), (1080, 1920)])
def test_every_size_is_taken(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    assert cuts([np.full(size, 100.0) + rng.normal(0, 1, size) for _ in range(4)]) == []


def test_the_first_frame_begins_no_new_shot_and_a_higher_threshold_finds_less() -> None:
    pictures = still(scene(1), 5) + still(scene(101), 5)
    assert cuts(pictures[:1]) == []
    assert cuts(pictures, threshold=1.0) == []


def dissolve(before: Luma, after: Luma, num_frames: int) -> list[Luma]:
    return [before + (after - before) * s for s in np.linspace(0, 1, num_frames + 2)[1:-1]]


def talking(picture: Luma, count: int, seed: int) -> list[Luma]:
    """A still picture in the middle of which something moves a little, with grain."""
    rng, out = np.random.default_rng(seed), []
    for i in range(count):
        moved = picture.copy()
        dx = round(4 * np.sin(0.7 * i))
        moved[30:90, 50:110] = np.roll(picture, dx, axis=1)[30:90, 50:110]
        out.append(moved + rng.normal(0, 2, picture.shape))
    return out


@pytest.mark.parametrize("num_frames", [5, 8, 12, 25, 50])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_dissolve_is_one_boundary_in_its_course(seed: int, num_frames: int) -> None:
    first, second = scene(seed), scene(300 + seed)
    found = cuts(still(first, 20) + dissolve(first, second, num_frames) + still(second, 60))
    assert len(found) == 1
    assert 20 + 0.3 * num_frames <= found[0] <= 20 + num_frames  # late where both are alike in light and dark


@pytest.mark.parametrize("seed", range(3))
def test_a_dissolve_between_moving_pictures_is_found(seed: int) -> None:
    first, second = talking(scene(seed), 60, seed), talking(scene(300 + seed), 60, seed + 1)
    mixed = [a + (b - a) * s for a, b, s in zip(first[30:50], second[:20], np.linspace(0, 1, 20), strict=True)]
    found = cuts([*first[:30], *mixed, *second[20:]])
    assert len(found) == 1
    assert 34 <= found[0] <= 50


@pytest.mark.parametrize("level", [16.0, 235.0, 90.0])
@pytest.mark.parametrize("num_frames", [6, 12, 25])
def test_a_fade_through_a_plain_picture_to_another_scene_begins_a_shot_there(num_frames: int, level: float) -> None:
    first, second, steps = scene(6), scene(61), np.linspace(1, 0, num_frames)
    out = [level + (first - level) * s for s in steps]
    back = [level + (second - level) * s for s in steps[::-1]]
    plain = still(np.full_like(first, level), 5, grain=0.5)
    found = cuts(still(first, 10) + out + plain + back + still(second, 20))
    assert 1 <= len(found) <= (2 if num_frames < 12 else 1)  # a fast one has two ends
    at = found[-1] - (10 + num_frames)
    assert 0 <= at <= 5 + 0.5 * num_frames  # in the plain picture, or while little of the next one is seen


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.03])
def test_zooms_are_no_cuts(rate: float) -> None:
    wide, frames = scene(9, 480, 640), []
    for i in range(60):
        height, width = round(480 / (1 + rate) ** i), round(640 / (1 + rate) ** i)
        top, left = (480 - height) // 2, (640 - width) // 2
        rows = (top + (np.arange(120) + 0.5) * height / 120).astype(int)
        columns = (left + (np.arange(160) + 0.5) * width / 160).astype(int)
        frames.append(wide[rows][:, columns])
    assert cuts(frames) == []


@pytest.mark.parametrize("pixels_a_frame", [0.5, 1, 3, 8])
@pytest.mark.parametrize("seed", range(2))
def test_pans_of_every_speed_are_no_cuts(seed: int, pixels_a_frame: float) -> None:
    wide = scene(20 + seed, 120, 800)
    assert cuts([wide[:, round(i * pixels_a_frame) :][:, :160] for i in range(75)]) == []


@pytest.mark.parametrize("seed", range(4))
def test_light_that_comes_slowly_from_one_side_is_no_cut(seed: int) -> None:
    picture, side = scene(seed), np.linspace(0, 70, 160)
    frames = [np.clip(picture + side * s, 0, 255) for s in np.linspace(0, 1, 40)]
    assert cuts(still(picture, 10) + frames + still(frames[-1], 10)) == []
