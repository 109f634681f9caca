"""The degradations in batches against those in NumPy, operation by operation, with the same numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.train.degrade import (
    LEVELS,
    Codec,
    Picture,
    Recipe,
    apply_recipe,
    compress_jpeg,
    compress_video,
    draw_recipe,
)
from vidrestore.train.degrade_batch import AnyRecipe, apply_colours, apply_recipes
from vidrestore.train.degrade_canvas import blurred, canvas_side, filled, padded, shifted
from vidrestore.train.degrade_codecs import approximate_video, compress_jpeg_batch, jpeg_tables
from vidrestore.train.paper_degrade import (
    LARGE,
    SMALL,
    BlindRecipe,
    ColourFaults,
    apply_blind,
    apply_colour,
    draw_blind,
    draw_colour,
)

NOTHING = Recipe(size=64)
SEED = 5


def natural(side: int = 96, seed: int = 0) -> Picture:
    """A picture with the spectrum of photographs, 1 / f, some colour, and an edge."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0 / side
    planes = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency, s=(side, side))
    planes /= planes.std((1, 2), keepdims=True)
    picture = 0.5 + 0.13 * planes[0][..., None] + 0.04 * np.moveaxis(planes, 0, 2)
    picture[:, side // 3 : side // 2] -= 0.2
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def tensor(*pictures: Picture) -> torch.Tensor:
    """(B, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous() * 2.0 - 1.0


def picture_of(batch: torch.Tensor) -> Picture:
    return ((batch + 1.0) / 2.0).permute(1, 2, 0).numpy()


def on_canvas(picture: Picture) -> torch.Tensor:
    """(1, 3, M, M) in [0, 1]; what lies beyond the picture is nonsense, which nothing may look at."""
    side = picture.shape[0]
    canvas = np.full((3, canvas_side(side), canvas_side(side)), 7.0, np.float32)
    canvas[:, :side, :side] = picture.transpose(2, 0, 1)
    return torch.from_numpy(canvas)[None]


def decibel(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(max(float(np.mean((a - b) ** 2)), 1e-10)))


class SamePhase:
    """Draws the sub-pixel phase that the batched chain draws, and nothing else."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 1])

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        assert count == 2
        return self.rng.uniform(low, high, (1, 2))[0]


def both(picture: Picture, recipe: Recipe) -> tuple[Picture, Picture]:
    """The picture after a chain without noise, by NumPy, rounded as bytes, and in a batch."""
    phase: Any = SamePhase(SEED)
    expected = np.rint(apply_recipe(picture, recipe, phase) * 255.0) / 255.0
    return expected, picture_of(apply_recipes(tensor(picture), [recipe], [SEED])[0])


@pytest.mark.parametrize(
    ("changes", "least_db"),
    [
        ({}, 80.0),
        ({"kernel": "box", "size": 50}, 70.0),
        ({"kernel": "tent", "size": 70}, 70.0),
        ({"kernel": "cubic", "size": 34}, 70.0),
        ({"kernel": "lanczos", "size": 66}, 70.0),
        ({"size": 112}, 70.0),
        ({"blur": (1.2, 1.2, 0.0), "size": 60}, 70.0),
        ({"blur": (1.5, 0.3, 0.7), "size": 60}, 70.0),
        ({"blur": (0.5, 0.5, 0.7), "motion_px": 6.0}, 70.0),
        ({"blur": (6.0, 5.0, 0.7), "size": 16}, 70.0),
        ({"bleed_px": 2.0, "bleed_shift_px": 0.6, "size": 80}, 55.0),  # OpenCV's warps know 1 / 32 px
        ({"bleed_px": 1.3, "bleed_shift_px": -0.7, "size": 80}, 55.0),
        ({"interlace": "comb", "drift_px": (1.2, 0.5), "size": 80}, 45.0),
        ({"interlace": "bob", "size": 80}, 70.0),
        ({"sharpen": 0.8, "size": 90}, 70.0),
        ({"codecs": (("jpeg", 50),), "size": 90}, 42.0),
        ({"codecs": (("jpeg", 70), ("none", 0)), "size": 50}, 42.0),
    ],
    ids=str,
)
def test_each_operation_is_numpys(changes: dict[str, Any], least_db: float) -> None:
    expected, found = both(natural(), replace(NOTHING, **changes))
    assert decibel(found, expected) > least_db
    assert abs(float((found - expected).mean())) * 255 < 0.3


@pytest.mark.parametrize("level", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_papers_chain_is_numpys(level: Any, seed: int) -> None:
    recipe = replace(draw_blind(np.random.default_rng(seed), level, side=96), noise=0.0)
    expected = apply_blind(natural(), recipe, np.zeros((recipe.size, recipe.size, 3), np.float32))
    found = picture_of(apply_recipes(tensor(natural()), [recipe], [SEED])[0])
    assert decibel(found, expected) > 38.0  # a few pixels, where a coefficient lies between two levels
    assert decibel(found, expected) > decibel(expected, natural()) + 8.0


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_colour_faults_are_numpys(seed: int) -> None:
    recipe = draw_colour(np.random.default_rng(seed), ColourFaults(shift_share=0.5, grey_share=0.1, jitter_share=0.9))
    expected = apply_colour(natural(24), recipe)
    found = picture_of(apply_colours(tensor(natural(24)), [recipe])[0])
    assert np.abs(found - expected).max() < 1.1 / 255.0


# --- JPEG ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 100])
@pytest.mark.parametrize("side", [96, 90, 33])
def test_jpeg_is_libjpegs(quality: int, side: int) -> None:
    picture = natural(side)
    expected = compress_jpeg(picture, quality)
    found = compress_jpeg_batch(on_canvas(picture), torch.tensor([side]), [quality])[0].permute(1, 2, 0)
    found_here = found.numpy()[:side, :side]
    assert decibel(found_here, expected) > 41.0
    assert abs(float((found_here - expected).mean())) * 255 < 0.6  # a DC coefficient between two levels
    assert decibel(found_here, picture) == pytest.approx(decibel(expected, picture), abs=0.3)


def test_jpeg_tables_are_those_of_the_standard() -> None:
    luma, chroma = jpeg_tables(50)
    assert luma[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert chroma[0].tolist() == [17, 18, 24, 47, 99, 99, 99, 99]
    assert all((table == 1).all() for table in jpeg_tables(100))
    assert jpeg_tables(25)[0][0, 0] == 32


# --- video -----------------------------------------------------------------------------------------------------------


def bands(picture: np.ndarray) -> np.ndarray:
    """Deviations of the luma in three octaves, finest first."""
    levels = [picture @ np.array([0.299, 0.587, 0.114], np.float32)]
    levels += [cv2.GaussianBlur(levels[0], (0, 0), s) for s in (1.0, 2.0, 4.0)]
    return np.array([(a - b).std() for a, b in itertools.pairwise(levels)])


def shot(picture: Picture, frames: int, drift: tuple[float, float]) -> list[Picture]:
    """The picture moving; its last frame is where it was."""
    side = picture.shape[0]
    clip = []
    for k in range(1 - frames, 1):
        move = np.array([[1.0, 0.0, k * drift[0]], [0.0, 1.0, k * drift[1]]])
        clip.append(cv2.warpAffine(picture, move, (side, side), borderMode=cv2.BORDER_REFLECT_101))
    return clip


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg2"])
def test_the_approximated_codec_does_as_much_harm_as_the_real_one(codec: Codec, frames: int) -> None:
    drift, worst = (0.7, -0.4), {1: 0.7, 3: 1.5}[frames]  # on faces the difference is half of it
    for crf in (20, 28, 34):
        ours, real, spectra = [], [], []
        for seed in range(3):
            clip = shot(natural(96, seed), frames, drift)
            motion = torch.tensor([[0.0, 0.0], *[drift] * (frames - 1)])[None]
            stack = torch.stack([on_canvas(p)[0] for p in clip])[None]
            found = approximate_video(stack, torch.tensor([96]), [codec], [crf], motion)
            last = found[0, -1].permute(1, 2, 0).numpy()[:96, :96]
            encoded = compress_video(clip, codec, crf)  # type: ignore[arg-type]
            ours.append(decibel(last, clip[-1]))
            real.append(decibel(encoded, clip[-1]))
            spectra.append(bands(last) / bands(encoded))
        assert np.mean(ours) == pytest.approx(np.mean(real), abs=worst), crf
        assert np.abs(np.mean(spectra, 0) - 1.0)[1:].max() < 0.12, crf
        assert abs(np.mean(spectra, 0)[0] - 1.0) < 0.3, crf


def test_a_still_clip_settles_under_the_codec() -> None:
    """Each frame is predicted from the one before, as decoded: what does not move is hardly coded anew."""
    clip = on_canvas(natural()).expand(4, -1, -1, -1)[None]
    found = approximate_video(clip, torch.tensor([96]), ["h264"], [28], torch.zeros(1, 4, 2))[0, :, :, :96, :96]
    steps = (found[1:] - found[:-1]).abs().mean((1, 2, 3)) * 255
    assert float(steps[-1]) < 0.5
    assert float((found[0] - clip[0, 0, :, :96, :96]).abs().mean()) * 255 > 2.0
    cut = torch.cat([clip[:, :2], on_canvas(natural(seed=3))[None]], 1)  # another picture: coded without the old one
    after = approximate_video(cut, torch.tensor([96]), ["h264"], [28], torch.zeros(1, 3, 2))[0, 2, :, :96, :96]
    alone = approximate_video(cut[:, 2:], torch.tensor([96]), ["h264"], [28], torch.zeros(1, 1, 2))[0, 0, :, :96, :96]
    errors = [decibel(x.numpy(), cut[0, 2, :, :96, :96].numpy()) for x in (after, alone)]
    assert (
        errors[0] > errors[1] - 4.5
    )  # other frames are quantised by 1.4 more, and those bands of the old one are gone


# --- noise -----------------------------------------------------------------------------------------------------------


def noise_of(recipe: Recipe, seeds: Sequence[int]) -> np.ndarray:
    """(B, S, S, 3) what a chain adds to grey on its own grid, of 255, at a phase of nearly nothing."""
    grey = tensor(*[np.full((96, 96, 3), 0.5, np.float32)] * len(seeds))
    found = apply_recipes(grey, [recipe] * len(seeds), seeds)
    return (found - grey).permute(0, 2, 3, 1).numpy() * 127.5


def numpy_noise(recipe: Recipe, count: int) -> np.ndarray:
    grey = np.full((96, 96, 3), 0.5, np.float32)
    return np.stack([apply_recipe(grey, recipe, np.random.default_rng(i)) - 0.5 for i in range(count)]) * 255.0


@pytest.mark.parametrize("grain", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chroma", [0.0, 0.6])
def test_noise_has_numpys_statistics(grain: float, chroma: float) -> None:
    recipe = replace(NOTHING, size=96, noise=10.0, grain=grain, chroma_noise=chroma)
    found, expected = noise_of(recipe, range(6)), numpy_noise(recipe, 6)
    assert abs(found.mean()) < 0.5
    assert found.std() == pytest.approx(expected.std(), rel=0.06)  # the phases, which soften it, are other draws
    across = [np.corrcoef(x[..., 0].ravel(), x[..., 1].ravel())[0, 1] for x in (found, expected)]
    assert across[0] == pytest.approx(across[1], abs=0.03)
    neighbours = [np.corrcoef(x[:, :, 1:].ravel(), x[:, :, :-1].ravel())[0, 1] for x in (found, expected)]
    assert neighbours[0] == pytest.approx(neighbours[1], abs=0.06)


def test_the_deviation_of_the_noise_is_the_recipes() -> None:
    """A still at its own size and best quality keeps the noise; JPEG halves its chroma, so the luma is looked at."""
    still = BlindRecipe(blur=(1e-3, 1e-3, 0.0), taps=1, size=96, noise=8.0, quality=100)
    grey = tensor(*[np.full((96, 96, 3), 0.5, np.float32)] * 6)
    found = (apply_recipes(grey, [still] * 6, range(6)) - grey).permute(0, 2, 3, 1).numpy() * 127.5
    weights = np.array([0.299, 0.587, 0.114])
    assert (found @ weights).std() == pytest.approx(8.0 * np.linalg.norm(weights), rel=0.02)


# --- batches and clips -----------------------------------------------------------------------------------------------


def drawn(count: int, crop: int = 96) -> list[AnyRecipe]:
    """Recipes of every kind, and none."""
    levels = list(LEVELS.values())
    mixed: list[AnyRecipe] = [draw_recipe(np.random.default_rng(i), levels[i % 3], crop=crop) for i in range(count - 2)]
    return [*mixed, None, draw_blind(np.random.default_rng(9), SMALL, side=crop)]


def test_a_batch_is_what_its_pictures_are_alone_and_a_seed_decides() -> None:
    pictures, recipes = tensor(*[natural(96, i) for i in range(10)]), drawn(10)
    whole = apply_recipes(pictures, recipes, range(10))
    assert torch.equal(whole, apply_recipes(pictures, recipes, range(10)))
    assert torch.equal(whole[8], pictures[8])  # without a recipe
    for i in range(10):
        alone = apply_recipes(pictures[i : i + 1], [recipes[i]], [i])[0]
        # sums in another order: a coefficient between two levels may fall to either side
        assert decibel(alone.numpy() / 2, whole[i].numpy() / 2) > 45.0, recipes[i]
    noisy = [i for i, r in enumerate(recipes) if r is not None and r.noise > 1.0]
    other = apply_recipes(pictures, recipes, range(100, 110))
    assert noisy
    assert all(not torch.equal(whole[i], other[i]) for i in noisy)


@given(seed=st.integers(0, 2**32 - 1), level=st.sampled_from(sorted(LEVELS)), frames=st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_the_result_is_a_picture_that_8_bits_hold(seed: int, level: str, frames: int) -> None:
    recipe = draw_recipe(np.random.default_rng(seed), LEVELS[level], crop=48)
    clips = tensor(natural(48))[:, None].expand(-1, frames, -1, -1, -1)
    found = apply_recipes(clips, [recipe], [seed])
    assert found.shape == (1, frames, 3, 48, 48)
    levels = (found + 1.0) * 127.5
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert -1.0 <= float(found.min()) <= float(found.max()) <= 1.0


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_levels_do_as_much_harm_as_numpys(level: str) -> None:
    pictures = [natural(96, i) for i in range(16)]
    recipes = [draw_recipe(np.random.default_rng(i), LEVELS[level], crop=96) for i in range(16)]
    expected = [
        apply_recipe(p, r, np.random.default_rng(i)) for i, (p, r) in enumerate(zip(pictures, recipes, strict=True))
    ]
    found = apply_recipes(tensor(*pictures), recipes, range(16))
    harm = [
        np.mean([decibel(b, p) for b, p in zip(bad, pictures, strict=True)])
        for bad in ([picture_of(f) for f in found], expected)
    ]
    assert harm[0] == pytest.approx(harm[1], abs=0.7)


def test_frames_of_a_clip_share_their_chain_and_not_their_noise() -> None:
    recipe = replace(NOTHING, size=48, noise=8.0, bleed_px=2.0, bleed_shift_px=0.5, codecs=(("jpeg", 60),))
    clips = tensor(natural(96))[:, None].expand(-1, 3, -1, -1, -1)
    found = apply_recipes(clips, [recipe], [1])[0]
    assert not torch.equal(found[0], found[1])
    alike, harm = (
        decibel(found[0].numpy() / 2, found[1].numpy() / 2),
        decibel(found[0].numpy() / 2, clips[0, 0].numpy() / 2),
    )
    assert alike > harm + 1.0
    steady = replace(recipe, noise=0.0, codecs=(("h264", 30),))
    found = apply_recipes(clips, [steady], [1])[0]
    independent = torch.cat([apply_recipes(clips[:, :1], [steady], [s])[0] for s in (1, 2)])
    assert float((found[2] - found[1]).abs().mean()) < float((independent[1] - independent[0]).abs().mean())


def test_wrong_shapes_are_errors() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 3, S, S\)"):
        apply_recipes(torch.zeros(1, 3, 4, 6), [NOTHING], [0])
    with pytest.raises(ValueError, match="1 pictures, 2 recipes"):
        apply_recipes(torch.zeros(1, 3, 8, 8), [NOTHING, NOTHING], [0])


# --- canvases --------------------------------------------------------------------------------------------------------


@given(side=st.integers(1, 40), radius=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_what_lies_beyond_a_picture_comes_from_inside(side: int, radius: int) -> None:
    picture = np.random.default_rng(side).random((side, side, 3)).astype(np.float32)
    canvas, sizes = on_canvas(picture), torch.tensor([side])
    mode: Any = "reflect" if side > 1 else "edge"
    expected = np.pad(picture, ((radius, 64 - side + radius),) * 2 + ((0, 0),), mode=mode)
    assert np.array_equal(padded(canvas, sizes, radius)[0].permute(1, 2, 0).numpy(), expected)
    edge = np.pad(picture, ((0, 64 - side),) * 2 + ((0, 0),), mode="edge")
    assert np.array_equal(filled(canvas, sizes)[0].permute(1, 2, 0).numpy(), edge)


def test_moves_and_filters_are_opencvs_at_every_edge() -> None:
    picture, sizes = natural(41), torch.tensor([41])
    move = np.array([[1.0, 0.0, 1.25], [0.0, 1.0, -2.5]])  # of 1 / 32 px, which OpenCV knows
    expected = cv2.warpAffine(picture, move, (41, 41), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found = shifted(on_canvas(picture), sizes, torch.tensor([[1.25, -2.5]]))[0].permute(1, 2, 0).numpy()
    assert np.abs(found[:41, :41] - expected).max() < 1e-5
    line = torch.from_numpy(cv2.getGaussianKernel(9, 1.0, cv2.CV_32F).T.copy())
    soft = blurred(on_canvas(picture), sizes, line, line)[0].permute(1, 2, 0).numpy()
    assert np.abs(soft[:41, :41] - cv2.GaussianBlur(picture, (9, 9), 1.0)).max() < 1e-5
    assert math.isfinite(float(soft.sum()))
