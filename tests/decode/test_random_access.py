from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("decord", reason="random access comes with the extra 'decord'")

from vidrestore.decode.random_access import RandomAccess, contact_sheet
from vidrestore.errors import DecodeError

NUM, HEIGHT, WIDTH = 24, 64, 96


def colour_of(index: int) -> NDArray[np.uint8]:
    return np.array([10 * index, 255 - 9 * index, 128], np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """One flat colour per frame, with key frames far apart."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4", "g": "10", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv444p"
        for index in range(NUM):
            picture = np.broadcast_to(colour_of(index), (HEIGHT, WIDTH, 3))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_pictures_come_by_number_in_the_order_asked_for(clip: Path) -> None:
    with RandomAccess(clip) as video:
        assert video.num_frames == NUM
        for index, picture in zip((20, 3, 3, 11, 0), video.pictures([20, 3, 3, 11, 0]), strict=True):
            assert picture.shape == (HEIGHT, WIDTH, 3)
            assert np.abs(picture.astype(int) - colour_of(index)).max() <= 6


def test_numbers_outside_are_refused(clip: Path) -> None:
    with RandomAccess(clip) as video, pytest.raises(IndexError, match=r"pictures \[24\] of 24"):
        list(video.pictures([0, 24]))


def test_a_sheet_shows_the_clip_row_by_row(clip: Path) -> None:
    sheet = contact_sheet(clip, columns=3, rows=2, width_px=30, gap_px=2)
    assert sheet.shape == (2 * 22 + 2, 3 * 32 + 2, 3)
    for place, index in enumerate((2, 6, 10, 14, 18, 22)):
        top, left = 2 + 22 * (place // 3), 2 + 32 * (place % 3)
        assert np.abs(sheet[top + 10, left + 15].astype(int) - colour_of(index)).max() <= 6


def test_a_short_clip_leaves_places_empty(clip: Path) -> None:
    sheet = contact_sheet(clip, columns=8, rows=4, width_px=16)
    assert (sheet[-8, -8] == 24).all()


def test_what_is_no_video_is_refused_before_decord_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("file '/etc/passwd'\n")
    with pytest.raises(DecodeError, match="is not a video file"):
        RandomAccess(path)
