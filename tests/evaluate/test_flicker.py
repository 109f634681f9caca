"""Flicker: textures and warps of pictures whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from vidrestore.evaluate.flicker import flicker, flicker_of_frames, warp_error
from vidrestore.evaluate.texture import Unwrapping
from vidrestore.morphable.files import load_vr468

SIDE = 160


@pytest.fixture(scope="module")
def unwrapping() -> Unwrapping:
    model = load_vr468()
    flat = model.mean_shape.double().numpy() * [1.0, -1.0, -1.0]
    return Unwrapping(flat, model.triangles.numpy(), 96)


def face(seed: int = 0) -> np.ndarray:
    """A smooth picture: bilinear sampling of it is nearly exact."""
    noise = np.random.default_rng(seed).uniform(0, 255, (SIDE // 10, SIDE // 10)).astype(np.float32)
    return cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def moved(picture: np.ndarray, angle: float, scale: float, shift: float) -> tuple[np.ndarray, np.ndarray]:
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s, shift], [s, c, -shift]])
    matrix[:, 2] += [SIDE / 2 - c * SIDE / 2 + s * SIDE / 2, SIDE / 2 - s * SIDE / 2 - c * SIDE / 2]
    return cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), matrix


def mesh_of(unwrapping: Unwrapping) -> np.ndarray:
    return (unwrapping.places - 48) * 1.1 + SIDE / 2


def test_a_face_that_moves_rigidly_has_hardly_any_flicker(unwrapping: Unwrapping) -> None:
    base, mesh = face(), mesh_of(unwrapping)
    pictures, meshes = [], []
    for i in range(6):
        picture, matrix = moved(base, 0.03 * i, 1 + 0.01 * i, 1.3 * i)
        pictures.append(picture)
        meshes.append(mesh @ matrix[:, :2].T + matrix[:, 2])
    still = [mesh] * 6
    assert flicker(pictures, meshes, unwrapping) < 1.0
    assert flicker(pictures, still, unwrapping) > 8 * flicker(pictures, meshes, unwrapping)


def test_flicker_of_alternating_brightness_is_its_step(unwrapping: Unwrapping) -> None:
    pictures = [face() + 3.0 * (i % 2) for i in range(5)]
    assert flicker(pictures, [mesh_of(unwrapping)] * 5, unwrapping) == pytest.approx(3.0, abs=1e-3)


def test_flicker_of_noise_adds_up_as_statistics_say(unwrapping: Unwrapping) -> None:
    rng = np.random.default_rng(1)
    pictures = [cv2.GaussianBlur(rng.normal(0, 40, (SIDE, SIDE)).astype(np.float32), (0, 0), 3.0) for _ in range(8)]
    deviation = float(np.std(pictures))
    measured = flicker(pictures, [mesh_of(unwrapping)] * 8, unwrapping)
    assert measured == pytest.approx(deviation * np.sqrt(2) * np.sqrt(2 / np.pi), rel=0.15)


def test_frames_without_the_face_break_the_chain(unwrapping: Unwrapping) -> None:
    mesh = mesh_of(unwrapping)
    changes = flicker_of_frames([face()] * 5, [mesh, mesh, None, mesh, mesh], unwrapping)
    assert changes == [0.0, None, None, 0.0]
    assert np.isnan(flicker([face()] * 2, [mesh, None], unwrapping))


def test_what_a_mask_leaves_out_does_not_count(unwrapping: Unwrapping) -> None:
    pictures = [face(), face() + 50.0 * (np.arange(SIDE)[None] < SIDE / 2)]
    right = np.zeros((96, 96), bool)
    right[:, 56:] = True
    meshes = [mesh_of(unwrapping)] * 2
    assert flicker(pictures, meshes, unwrapping) > 20
    assert flicker(pictures, meshes, unwrapping, [right] * 2) == pytest.approx(0.0, abs=1e-4)


def test_what_faces_away_is_not_trusted(unwrapping: Unwrapping) -> None:
    model = load_vr468()
    shape = model.mean_shape.double().numpy() * [1.0, -1.0, -1.0]
    turned = shape @ np.array([[np.cos(1.2), 0, -np.sin(1.2)], [0, 1, 0], [np.sin(1.2), 0, np.cos(1.2)]])
    mesh = turned[:, :2] * 45 + SIDE / 2
    _, ahead = unwrapping.texture(face(), shape[:, :2] * 45 + SIDE / 2)
    _, aside = unwrapping.texture(face(), mesh)
    assert ahead.sum() > 0.95 * unwrapping.inside.sum()
    shares = sorted([aside[:, :48].sum() / ahead[:, :48].sum(), aside[:, 48:].sum() / ahead[:, 48:].sum()])
    assert shares[0] < 0.35
    assert shares[1] > 0.9


def test_a_mesh_beyond_the_picture_is_not_trusted(unwrapping: Unwrapping) -> None:
    _, usable = unwrapping.texture(face(), mesh_of(unwrapping) + np.array([10 * SIDE, 0]))
    assert not usable.any()


def test_regions_lie_where_their_vertices_are(unwrapping: Unwrapping) -> None:
    mouth = unwrapping.region(np.array([61, 291, 0, 17]))
    eyes = unwrapping.region(np.array([33, 133, 159, 145]))
    assert np.nonzero(mouth)[0].mean() > np.nonzero(eyes)[0].mean() + 20
    assert not (mouth & eyes).any()


def test_warp_error_follows_the_motion_of_the_reference() -> None:
    base = np.clip(face(3), 0, 255)
    clean = [
        np.repeat(moved(base, 0.0, 1.0, 1.5 * i)[0][..., None], 3, 2).clip(0, 255).astype(np.uint8) for i in range(4)
    ]
    rng = np.random.default_rng(2)
    noisy = [np.clip(p + rng.normal(0, 12, p.shape), 0, 255).astype(np.uint8) for p in clean]
    assert warp_error(clean, clean) < 1.0
    assert warp_error(noisy, clean) > 5 * warp_error(clean, clean)


def test_warp_error_wants_as_many_pictures_as_references() -> None:
    with pytest.raises(ValueError, match="1 pictures and 0"):
        warp_error([np.zeros((16, 16, 3), np.uint8)], [])
