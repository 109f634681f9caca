from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vidrestore.config import EncodeOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.encode import hardware
from vidrestore.encode.hardware import hardware_encoder, hardware_options
from vidrestore.encode.writer import VideoWriter


def test_nothing_is_tried_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_works", lambda *_: pytest.fail("tried"))
    assert hardware_encoder(EncodeOptions(), "yuv420p") is None


def test_the_first_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_works", lambda name, pix_fmt: name == "hevc_qsv" and pix_fmt == "nv12")
    assert hardware_encoder(EncodeOptions(codec="hevc", hardware="auto"), "nv12") == "hevc_qsv"
    assert hardware_encoder(EncodeOptions(codec="hevc", hardware="cuda"), "nv12") is None


def test_codecs_that_no_hardware_has_stay_in_software(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert hardware_encoder(EncodeOptions(codec="ffv1", hardware="auto"), "yuv420p") is None
    assert "no encoder in hardware (auto) takes ffv1 in yuv420p" in caplog.text


def test_an_encoder_that_does_not_exist_does_not_work() -> None:
    assert not hardware._works("h264_nowhere", "yuv420p")


def test_the_trial_tells_an_encoder_that_works() -> None:
    assert hardware._works("libx264", "yuv420p")
    assert not hardware._works("libx264", "gbrp16le")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("h264_nvenc", "cq", "30"),
        ("h264_qsv", "global_quality", "30"),
        ("h264_vaapi", "qp", "30"),
        ("h264_videotoolbox", "q", "40"),
    ],
)
def test_quality_is_told_in_each_encoder_s_words(name: str, key: str, value: str) -> None:
    assert hardware_options(name, EncodeOptions(crf=30))[key] == value


def test_a_clip_is_written_whatever_there_is(face_clip: Path, tmp_path: Path) -> None:
    with VideoReader(face_clip) as video:
        options = EncodeOptions(hardware="auto", speed="ultrafast")
        with VideoWriter(tmp_path / "out.mp4", video.info, options) as writer:
            for frame in video.decode():
                writer.write(frame)
    assert writer.result is not None
    assert writer.result.codec in {"libx264", "h264_nvenc", "h264_qsv", "h264_vaapi", "h264_videotoolbox"}
    with VideoReader(tmp_path / "out.mp4") as video:
        assert sum(1 for _ in video.decode()) == writer.result.num_frames
