"""Training data: folder, hold-out, cache, samples that depend on seed and index alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vidrestore.errors import ConfigError
from vidrestore.train.data import (
    FaceCache,
    FacePairs,
    HeldOut,
    Mix,
    augment,
    batches,
    list_images,
    recolour,
    roughen,
    split_held_out,
    to_tensor,
)


def write_faces(folder: Path, count: int = 5, size: int = 96) -> list[Path]:
    """Pictures that differ: a shaded disc with two eyes, each of its own colour."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        picture = np.full((size, size, 3), rng.integers(30, 90, 3), np.uint8)
        cv2.circle(picture, (size // 2, size // 2), size // 3, rng.integers(120, 220, 3).tolist(), -1)
        for x in (size * 3 // 8, size * 5 // 8):
            cv2.circle(picture, (x, size * 15 // 32), size // 24, (20, 20, 20), -1)
        cv2.imwrite(str(folder / f"{i:05d}.png"), picture)
    return list_images(folder)


@pytest.fixture
def cache(tmp_path: Path) -> FaceCache:
    return FaceCache(write_faces(tmp_path / "faces"), 80, tmp_path / "cache.npy")


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no picture")
    with pytest.raises(ConfigError, match="no pictures"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match="no pictures"):
        list_images(tmp_path / "missing")


def test_held_out_faces_are_not_trained_on(tmp_path: Path) -> None:
    paths = write_faces(tmp_path)
    training, held_out = split_held_out(paths, 2)
    assert [p.name for p in held_out] == ["00000.png", "00001.png"]
    assert not set(training) & set(held_out)
    assert len(training) == 3
    with pytest.raises(ConfigError, match="leave a picture"):
        split_held_out(paths, 5)


def test_the_cache_is_reused_until_the_folder_changes(tmp_path: Path) -> None:
    paths = write_faces(tmp_path / "faces")
    file = tmp_path / "cache.npy"
    first = FaceCache(paths, 80, file)
    assert first.pictures.shape == (5, 80, 80, 3)
    stamp = file.stat().st_mtime_ns
    FaceCache(paths, 80, file)
    assert file.stat().st_mtime_ns == stamp
    assert len(FaceCache(write_faces(tmp_path / "faces", 6), 80, file)) == 6


def test_a_picture_that_is_not_square_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(ConfigError, match="square picture"):
        FaceCache(list_images(tmp_path), 8, tmp_path / "cache.npy")


def test_a_sample_depends_on_seed_and_index_alone(cache: FaceCache) -> None:
    first, second = FacePairs(cache, size=64, seed=3), FacePairs(cache, size=64, seed=3)
    second[11]
    assert all(torch.equal(a, b) for a, b in zip(first[7], second[7], strict=True))
    other = FacePairs(cache, size=64, seed=4)[7]
    assert not torch.equal(first[7][1], other[1])


def test_every_face_is_seen_once_per_epoch(cache: FaceCache) -> None:
    for epoch in range(3):
        order = np.random.default_rng([3, 1, epoch]).permutation(len(cache))
        assert sorted(order) == list(range(len(cache)))
    samples = FacePairs(cache, size=64, seed=3)
    assert not torch.equal(samples[0][1], samples[len(cache)][1])  # another epoch, another face or jitter


@pytest.mark.parametrize(("views", "crop"), [(1, None), (2, None), (2, 32)])
def test_shapes_and_ranges_of_a_batch(cache: FaceCache, views: int, crop: int | None) -> None:
    data = FacePairs(cache, size=64, seed=0, views=views, crop=crop)
    degraded, clean = next(batches(data, batch=3, start=0, workers=0))
    side = crop or 64
    assert degraded.shape == (3 * views, 3, side, side)
    assert clean.shape == (3, 3, side, side)
    assert degraded.dtype == clean.dtype == torch.float32
    assert -1.0 <= float(degraded.min()) < float(degraded.max()) <= 1.0


def test_batches_can_start_anywhere(cache: FaceCache) -> None:
    data = FacePairs(cache, size=64, seed=0)
    source = batches(data, batch=2, start=0, workers=0)
    next(source)
    second = next(source)
    resumed = next(batches(data, batch=2, start=2, workers=0))
    assert all(torch.equal(a, b) for a, b in zip(second, resumed, strict=True))


def test_some_samples_are_left_as_they_are(cache: FaceCache) -> None:
    data = FacePairs(cache, size=32, seed=0)
    same = [torch.equal(degraded[0], clean) for degraded, clean in (data[i] for i in range(200))]
    assert 0.01 < np.mean(same) < 0.12  # one in twenty


def test_the_mix_decides_what_is_degraded(cache: FaceCache) -> None:
    none = FacePairs(cache, size=32, seed=0, mix=Mix(light=0.0, medium=0.0, heavy=0.0))
    assert all(torch.equal(degraded[0], clean) for degraded, clean in (none[i] for i in range(20)))
    still = FacePairs(cache, size=64, seed=0, views=2, mix=Mix(0.0, 0.0, 0.0, still=0.5, still_heavy=0.5))
    for degraded, clean in (still[i] for i in range(10)):
        assert torch.equal(degraded[0], degraded[1])  # a still has one recording
        assert not torch.equal(degraded[0], clean)


def test_inner_windows_lie_around_the_middle(tmp_path: Path) -> None:
    folder = tmp_path / "dots"
    folder.mkdir()
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[44:52, 44:52] = 255
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    dots = FaceCache(list_images(folder), 96, tmp_path / "dots.npy")

    def seen(inner: float) -> float:
        mix = Mix(light=0.0, medium=0.0, heavy=0.0, inner=inner)
        data = FacePairs(dots, size=96, seed=0, crop=32, mix=mix)
        return float(np.mean([np.ptp(data[i][1].numpy()) > 60 for i in range(40)]))

    assert seen(1.0) > seen(0.0) + 0.2


def test_a_mix_of_more_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to at most 1"):
        Mix(light=0.6, medium=0.6)


def test_texture_is_added_to_the_clean_face_and_soft_takes_from_it(cache: FaceCache) -> None:
    def fine(mix: Mix) -> float:
        data = FacePairs(cache, size=64, seed=0, mix=mix)
        pictures = torch.stack([data[i][1] for i in range(24)]).float()
        return float((pictures - torch.nn.functional.avg_pool2d(pictures, 3, 1, 1)).abs().mean())

    clean = Mix(light=0.0, medium=0.0, heavy=0.0)
    plain = fine(clean)
    assert fine(replace(clean, texture=1.0)) > plain > fine(replace(clean, soft=1.0))


def test_a_filters_overshoot_gives_no_holes() -> None:
    edge = np.full((8, 8, 3), -0.02, np.float32)
    edge[:, 4:] = 1.02
    assert all(np.isfinite(recolour(edge, np.random.default_rng(i))).all() for i in range(20))


def test_roughened_faces_are_pictures(cache: FaceCache) -> None:
    face = cache.pictures[0].astype(np.float32) / 255
    for seed in range(10):
        rough = roughen(face, np.random.default_rng(seed))
        assert rough.shape == face.shape
        assert rough.dtype == np.float32
        assert 0.0 <= rough.min() <= rough.max() <= 1.0
        assert 0.0 < np.abs(rough - face).mean() < 6 / 255


def test_augmented_faces_are_pictures(cache: FaceCache) -> None:
    for seed in range(40):
        picture = augment(cache.pictures[0], 64, np.random.default_rng(seed), cache.pictures[1])
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.float32
        assert 0.0 <= picture.min() <= picture.max() <= 1.0


def test_some_faces_turn_grey(cache: FaceCache) -> None:
    grey = [
        np.ptp(augment(cache.pictures[0], 32, np.random.default_rng(i), cache.pictures[1]), axis=-1).max() < 1e-3
        for i in range(300)
    ]
    assert 0.02 < np.mean(grey) < 0.2


def test_held_out_pairs_do_not_depend_on_each_other(tmp_path: Path) -> None:
    paths = write_faces(tmp_path)
    whole, part = HeldOut.make(paths, size=32), HeldOut.make(paths[:2], size=32)
    assert whole.clean.shape == (5, 3, 32, 32)
    assert sorted(whole.degraded) == ["heavy", "light", "medium"]
    for level, degraded in part.degraded.items():
        assert torch.equal(degraded, whole.degraded[level][:2])


def test_pictures_become_tensors_in_range() -> None:
    ends = np.array([[[0, 255, 0]]], np.uint8)
    assert to_tensor(ends).flatten().tolist() == [-1.0, 1.0, -1.0]
    assert to_tensor(ends.astype(np.float32) / np.float32(255)).flatten().tolist() == [-1.0, 1.0, -1.0]
