"""RetinaFace: published names, anchors, decoding, suppression, batches."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from vidrestore.detect.detector import FaceFinder
from vidrestore.detect.retinaface import (
    MOBILENET,
    RESNET50,
    Predictions,
    RetinaFace,
    RetinaFaceDims,
    RetinaFaceFinder,
    anchors,
    decode_boxes,
    decode_landmarks,
    load_retinaface,
    suppress,
)
from vidrestore.errors import VidrestoreError, WeightsError
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_networks.py"))
TINY = {
    "resnet50": RetinaFaceDims("resnet50", body_channels=4, width=16),
    "mobilenet": RetinaFaceDims("mobilenet", body_channels=2, width=16),
}


def pictures(count: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    noise = seeded_values("pictures", (count, height, width, 3))
    return list(((noise + 1.0) * 127.5).astype(np.uint8))


class FewFaces(nn.Module):
    """Stands in for the network: sees faces at given anchors of a 64 x 96 picture, and remembers its input."""

    def __init__(self, faces: dict[int, float]) -> None:
        super().__init__()
        self.faces = faces
        self.seen = torch.empty(0)

    def forward(self, images: Tensor) -> Predictions:
        self.seen = images
        count = len(anchors(images.shape[2], images.shape[3]))
        logits = torch.tensor([8.0, -8.0]).repeat(images.shape[0], count, 1)
        for index, score in self.faces.items():
            logits[:, index] = torch.tensor([0.0, float(np.log(score / (1.0 - score)))])
        return Predictions(logits, torch.zeros(len(images), count, 4), torch.ones(len(images), count, 10))


@pytest.mark.parametrize("name", ["retinaface_resnet50", "retinaface_mobile0.25"])
def test_every_key_and_shape_is_the_published_one(name: str) -> None:
    GOLDEN["check_keys"](name)


@pytest.mark.parametrize("case", ["retinaface_resnet50", "retinaface_mobile0.25"])
def test_outputs_are_the_golden_ones(case: str) -> None:
    GOLDEN["check"](case)


def test_the_activation_leaks_in_the_narrow_network_only() -> None:
    assert (RESNET50.slope, MOBILENET.slope) == (0.0, 0.1)
    assert RESNET50.level_channels == (512, 1024, 2048)
    assert MOBILENET.level_channels == (64, 128, 256)


def test_anchors_are_two_squares_at_the_middle_of_every_place() -> None:
    squares = anchors(50, 33)  # 7 x 5, 4 x 3 and 2 x 2 places
    assert len(squares) == 2 * (7 * 5 + 4 * 3 + 2 * 2)
    assert squares[0].tolist() == [4.0, 4.0, 16.0, 16.0]
    assert squares[1].tolist() == [4.0, 4.0, 32.0, 32.0]
    assert squares[2].tolist() == [12.0, 4.0, 16.0, 16.0]
    assert squares[2 * 5].tolist() == [4.0, 12.0, 16.0, 16.0]
    assert squares[70].tolist() == [8.0, 8.0, 64.0, 64.0]
    assert squares[-1].tolist() == [48.0, 48.0, 512.0, 512.0]


@pytest.mark.parametrize("body", ["resnet50", "mobilenet"])
@pytest.mark.parametrize("size", [(64, 64), (75, 101), (33, 40)])
def test_there_is_one_prediction_per_anchor_at_any_size(body: str, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        predictions = RetinaFace(TINY[body])(torch.empty(2, 3, *size))
    count = len(anchors(*size))
    assert [tuple(x.shape) for x in predictions] == [(2, count, 2), (2, count, 4), (2, count, 10)]


def test_decoding_undoes_the_published_encoding() -> None:
    priors = torch.from_numpy(anchors(64, 64))[:20]
    centres, sides = priors[:, :2] + 3.0, priors[:, 2:] * torch.tensor([0.5, 1.7])
    offsets = torch.cat([(centres - priors[:, :2]) / priors[:, 2:] / 0.1, torch.log(sides / priors[:, 2:]) / 0.2], 1)
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], 1)
    torch.testing.assert_close(decode_boxes(offsets, priors), boxes)
    points = torch.from_numpy(seeded_values("points", (20, 5, 2))) * 30.0
    encoded = (points - priors[:, None, :2]) / priors[:, None, 2:] / 0.1
    torch.testing.assert_close(decode_landmarks(encoded.flatten(1), priors), points.flatten(1), atol=1e-4, rtol=1e-5)


def greedy(boxes: NDArray[np.float32], valid: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """One picture, one box at a time."""
    kept: list[int] = []
    for i in np.flatnonzero(valid):
        for j in kept:
            low, high = np.maximum(boxes[i, :2], boxes[j, :2]), np.minimum(boxes[i, 2:], boxes[j, 2:])
            common = float(np.prod(np.maximum(high - low, 0.0)))
            union = sum(float(np.prod(boxes[k, 2:] - boxes[k, :2])) for k in (i, j)) - common
            if common / union > threshold:
                break
        else:
            kept.append(int(i))
    return np.isin(np.arange(len(boxes)), kept)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 12), st.booleans()), max_size=12),
        min_size=1,
        max_size=3,
    )
)
def test_suppression_of_a_batch_is_that_of_each_picture(faces: list[list[tuple[int, int, int, bool]]]) -> None:
    longest = max(len(picture) for picture in faces)
    boxes, valid = np.zeros((len(faces), longest, 4), np.float32), np.zeros((len(faces), longest), bool)
    for i, picture in enumerate(faces):
        for j, (x, y, side, is_valid) in enumerate(picture):
            boxes[i, j], valid[i, j] = (x, y, x + side, y + side), is_valid
    keep = suppress(boxes, valid, 0.4)
    for i in range(len(faces)):
        np.testing.assert_array_equal(keep[i], greedy(boxes[i], valid[i], 0.4))


def test_a_face_is_found_where_the_network_sees_it() -> None:
    network = FewFaces({30: 0.9, 31: 0.95, 40: 0.7, 50: 0.85})  # 31 is the larger square around 30
    finder = RetinaFaceFinder(network, score_threshold=0.8)  # type: ignore[arg-type]
    found = finder.detect(np.zeros((64, 96, 3), np.uint8))
    np.testing.assert_allclose(found.scores, [0.95, 0.9, 0.85], atol=1e-6)  # 30 covers a quarter of 31 and stays
    squares = anchors(64, 96)[[31, 30, 50]]
    np.testing.assert_allclose(
        found.boxes, np.c_[squares[:, :2] - squares[:, 2:] / 2, squares[:, :2] + squares[:, 2:] / 2]
    )
    np.testing.assert_allclose(found.landmarks[:, 3], squares[:, :2] + 0.1 * squares[:, 2:])


def test_of_two_overlapping_faces_the_better_stays() -> None:
    squares = anchors(64, 96)
    network = FewFaces({31: 0.9, 33: 0.95})  # 8 pixels apart, 32 wide: overlap 0.6
    finder = RetinaFaceFinder(network)  # type: ignore[arg-type]
    found = finder.detect(np.zeros((64, 96, 3), np.uint8))
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes[0, :2], squares[33, :2] - 16.0)


def test_the_network_sees_bgr_less_the_mean_colour() -> None:
    network = FewFaces({})
    finder = RetinaFaceFinder(network)  # type: ignore[arg-type]
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[5, 7] = (10, 20, 30)
    assert len(finder.detect(picture)) == 0
    assert network.seen[0, :, 5, 7].tolist() == [10.0 - 104.0, 20.0 - 117.0, 30.0 - 123.0]
    assert network.seen[0, :, 0, 0].tolist() == [-104.0, -117.0, -123.0]


@pytest.mark.parametrize("body", ["resnet50", "mobilenet"])
def test_a_batch_equals_its_pictures_one_by_one(body: str) -> None:
    finder = RetinaFaceFinder(fill_seeded(RetinaFace(TINY[body])), score_threshold=0.5)
    batch = pictures(3, 48, 72)
    together = finder.detect_batch(batch)
    assert sum(len(found) for found in together) > 0
    for picture, found in zip(batch, together, strict=True):
        alone = finder.detect(picture)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.landmarks, alone.landmarks, atol=1e-3)
        assert (np.diff(found.scores) <= 0).all()
        assert found.scores.min() >= 0.5


def test_the_finder_fits_the_stage() -> None:
    finder: FaceFinder = RetinaFaceFinder(RetinaFace(TINY["mobilenet"]))
    assert finder.detect(np.zeros((32, 32, 3), np.uint8)).landmarks.shape[1:] == (5, 2)
    assert RetinaFaceFinder(RetinaFace(TINY["mobilenet"])).detect_batch([]) == []


def test_anchors_of_a_size_are_made_once() -> None:
    finder = RetinaFaceFinder(fill_seeded(RetinaFace(TINY["mobilenet"])))
    finder.detect(pictures(1, 40, 40)[0])
    first = finder._anchors[40, 40]
    finder.detect(pictures(1, 40, 48)[0])
    finder.detect(pictures(1, 40, 40)[0])
    assert finder._anchors[40, 40] is first
    assert set(finder._anchors) == {(40, 40), (40, 48)}


def test_bfloat16_finds_the_same_faces() -> None:
    network = fill_seeded(RetinaFace(TINY["mobilenet"])).eval()
    images = 100.0 * torch.from_numpy(seeded_values("x", (1, 3, 64, 64)))
    with torch.no_grad():
        exact, lowered = network(images), network.to(torch.bfloat16)(images)
    for a, b in zip(exact, lowered, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).std() < 0.03 * a.std()


def test_a_network_that_overflows_is_an_error() -> None:
    network = fill_seeded(RetinaFace(TINY["mobilenet"]))
    nn.init.constant_(network.ClassHead[0].conv1x1.bias, float("nan"))
    with pytest.raises(VidrestoreError, match="NaN or infinity: run it in float32"):
        RetinaFaceFinder(network).detect(pictures(1, 32, 32)[0])


def test_pictures_of_one_call_have_one_size_and_three_channels() -> None:
    finder = RetinaFaceFinder(RetinaFace(TINY["mobilenet"]))
    with pytest.raises(ValueError, match=r"one size, got \(32, 40, 3\) beside \(32, 32, 3\)"):
        finder.detect_batch([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 40, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"expected pictures \(H, W, 3\) uint8"):
        finder.detect(np.zeros((32, 32), np.uint8))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_files_load_with_and_without_their_prefix(prefix: str) -> None:
    state = seeded_state(RetinaFace(TINY["resnet50"]), seed=2)
    with torch.device("meta"):
        network = RetinaFace(TINY["resnet50"])
    load_retinaface(network, {prefix + key: value for key, value in state.items()})
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_refused_weights_are_named() -> None:
    network = RetinaFace(TINY["mobilenet"])
    good = seeded_state(network)
    key = "fpn.merge1.0.weight"
    spoilt: list[tuple[dict[str, object], str]] = [
        ({k: v for k, v in good.items() if k != key}, f"f: {key} is missing"),
        ({**good, "extra": torch.zeros(1)}, "f: extra is unexpected"),
        ({**good, key: good[key][:4]}, rf"{key} has shape \(4, 16, 3, 3\), expected \(16, 16, 3, 3\)"),
        ({**good, key: good[key] * float("inf")}, f"{key} holds NaN or infinity"),
        (dict(seeded_state(RetinaFace(TINY["resnet50"]))), "body.stage1.0.0.weight is missing"),
    ]
    for state, message in spoilt:
        with pytest.raises(WeightsError, match=message):
            load_retinaface(network, state, source="f")
