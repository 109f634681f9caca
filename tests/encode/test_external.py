from __future__ import annotations

import importlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ffmpeg", reason="the external sink comes with the extra 'ffmpeg'")

from vidrestore.decode.reader import VideoReader
from vidrestore.encode.external import ExternalWriter
from vidrestore.errors import EncodeError
from vidrestore.types import Frame


def find_ffmpeg() -> str | None:
    try:
        return shutil.which("ffmpeg") or str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


FFMPEG = find_ffmpeg()
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="no external ffmpeg (a system one, or imageio-ffmpeg)")


@needs_ffmpeg
def test_frames_arrive_as_they_are(face_clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    with VideoReader(face_clip) as video:
        frames = list(video.decode())
        with ExternalWriter(target, video.info, "ffv1", program=FFMPEG or "", source=face_clip) as writer:
            for frame in frames:
                writer.write(frame)
    with VideoReader(target) as video:
        back = list(video.decode())
    assert len(back) == len(frames)
    assert back[0].format.matrix == frames[0].format.matrix
    for a, b in zip(frames, back, strict=True):
        for p, q in zip(a.planes, b.planes, strict=True):
            np.testing.assert_array_equal(p, q)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv"]


def write_all(writer: ExternalWriter, frames: list[Frame]) -> None:
    with writer:
        for frame in frames:
            writer.write(frame)


@needs_ffmpeg
def test_what_ffmpeg_says_is_in_the_error_and_nothing_stays(face_clip: Path, tmp_path: Path) -> None:
    with VideoReader(face_clip) as video:
        frames = list(video.decode())
        writer = ExternalWriter(tmp_path / "out.mkv", video.info, "no_such_encoder", program=FFMPEG or "")
    with pytest.raises(EncodeError, match="no_such_encoder"):
        write_all(writer, frames)
    assert list(tmp_path.iterdir()) == []


@needs_ffmpeg
def test_an_abort_leaves_nothing(face_clip: Path, tmp_path: Path) -> None:
    with VideoReader(face_clip) as video:
        writer = ExternalWriter(tmp_path / "out.mkv", video.info, "ffv1", program=FFMPEG or "")
        writer.write(next(iter(video.decode())))
        process = writer._process
        writer.abort()
    assert process is not None
    assert process.poll() is not None
    assert list(tmp_path.iterdir()) == []


@needs_ffmpeg
def test_a_variable_rate_is_refused(face_clip: Path, tmp_path: Path) -> None:
    with VideoReader(face_clip) as video:
        first, second = [frame for frame, _ in zip(video.decode(), range(2), strict=False)]
    late = replace(second, pts=second.pts * 3 + 100)
    writer = ExternalWriter(tmp_path / "out.mkv", video.info, "ffv1", program=FFMPEG or "")
    with pytest.raises(EncodeError, match="frame 1 is out of step"):
        write_all(writer, [first, late])
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_is_not_there_is_named(face_clip: Path, tmp_path: Path) -> None:
    with VideoReader(face_clip) as video, pytest.raises(EncodeError, match="no program 'ffmpeg-nowhere'"):
        ExternalWriter(tmp_path / "out.mkv", video.info, "ffv1", program="ffmpeg-nowhere")


@needs_ffmpeg
def test_a_file_that_is_there_is_kept(face_clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    target.write_text("mine")
    with VideoReader(face_clip) as video, pytest.raises(EncodeError, match="exists already"):
        ExternalWriter(target, video.info, "ffv1", program=FFMPEG or "")
    assert target.read_text() == "mine"
