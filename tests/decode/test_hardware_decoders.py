from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidrestore.config import DecodeOptions
from vidrestore.decode import hardware, reader
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import DecodeError


def samples(path: Path, **options: Any) -> list[list[Any]]:
    with VideoReader(path, DecodeOptions(**options)) as video:
        return [[plane.copy() for plane in frame.planes] for frame in video.decode()]


def equal(a: list[list[Any]], b: list[list[Any]]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)
    )


def test_nothing_is_tried_unasked() -> None:
    assert hardware.kinds_to_try("none") == ()
    assert hardware.kinds_to_try("vaapi") == ("vaapi",)


def test_auto_tries_what_is_built_in_and_in_our_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "hwdevices_available", lambda: ["drm", "videotoolbox", "cuda"])
    assert hardware.kinds_to_try("auto") == ("cuda", "videotoolbox")


@pytest.mark.parametrize("kind", ["auto", "cuda", "vaapi"])
def test_whatever_decodes_the_samples_are_the_same(kind: str, face_clip: Path) -> None:
    assert equal(samples(face_clip, hardware=kind), samples(face_clip))


def test_a_device_that_is_not_there_is_told_and_done_without(
    face_clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[object] = []

    def open_container(path: Any, device: object = None) -> Any:
        opened.append(device)
        if device is not None:
            raise DecodeError("no such device")
        return original(path)

    original = reader.open_container
    monkeypatch.setattr(reader, "open_container", open_container)
    monkeypatch.setattr(reader, "accelerator", lambda kind: f"device {kind}")
    with caplog.at_level(logging.WARNING):
        ours = samples(face_clip, hardware="cuda")
    assert opened == ["device cuda", None]
    assert "not decoded by cuda (no such device)" in caplog.text
    monkeypatch.undo()
    assert equal(ours, samples(face_clip))


def test_a_damaged_file_is_the_same_error_with_hardware(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is no video")
    with pytest.raises(DecodeError, match="is not a video file"):
        VideoReader(path, DecodeOptions(hardware="auto"))
