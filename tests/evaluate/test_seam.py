"""Seams: none where the blend is soft, seen where a face is pasted hard."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidrestore.evaluate.seam import seam_score

SIZE = 128


def scene() -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).uniform(60, 200, (16, 16)).astype(np.float32)
    picture = cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    hard = cv2.circle(np.zeros((SIZE, SIZE), np.float32), (64, 64), 36, 1.0, -1)
    return picture + np.random.default_rng(1).normal(0, 2, picture.shape).astype(np.float32), hard


def test_an_unchanged_frame_scores_one() -> None:
    picture, mask = scene()
    assert seam_score(picture, picture, mask) == 1.0


def test_a_hard_edge_is_a_seam_and_a_feathered_one_is_not() -> None:
    picture, hard = scene()
    soft = cv2.GaussianBlur(hard, (0, 0), 8.0)
    assert seam_score(picture + 12 * hard, picture, hard) > 2.0
    assert seam_score(picture + 12 * soft, picture, soft) < 1.1


def test_a_stronger_seam_scores_worse() -> None:
    picture, mask = scene()
    scores = [seam_score(picture + step * mask, picture, mask) for step in (0, 4, 8, 16)]
    assert scores == sorted(scores)


def test_new_detail_inside_the_mask_is_no_seam() -> None:
    picture, hard = scene()
    soft = cv2.GaussianBlur(hard, (0, 0), 6.0)
    detail = np.random.default_rng(2).normal(0, 8, picture.shape).astype(np.float32)
    assert seam_score(picture + soft**3 * detail, picture, soft, levels=(0.05,)) < 1.1


def test_no_border_no_score() -> None:
    picture, _ = scene()
    assert np.isnan(seam_score(picture, picture, np.zeros((SIZE, SIZE))))


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="one size"):
        seam_score(np.zeros((8, 8)), np.zeros((8, 8)), np.zeros((9, 8)))
