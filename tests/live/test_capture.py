from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import av.error
import media
import numpy as np
import pytest
from stamps import number_in
from stand_ins import FakeCamera, FakeClock, stamped

from vidrestore.config import LiveOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import DecodeError
from vidrestore.live.address import CameraAddress, parse_camera
from vidrestore.live.capture import Camera, Capture, Captured, FileCamera, open_camera
from vidrestore.live.slot import LatestSlot


class Everything(LatestSlot[Captured]):
    """A slot that keeps what passes through it."""

    def __init__(self) -> None:
        super().__init__(10_000)

    def all(self) -> list[Captured]:
        items = []
        while (item := self.get(0)) is not None:
            items.append(item)
        return items


def run(cameras: list[Camera | DecodeError], clock: FakeClock, *, until: int) -> tuple[Capture, list[Captured]]:
    """Runs a capture thread over cameras that are opened one after the other; ends after so many openings."""
    slot = Everything()
    opened: list[int] = []

    def opener() -> Camera:
        opened.append(len(opened))
        if len(opened) > until:
            capture._stopped.set()
            raise DecodeError("the test is over")
        camera = cameras[len(opened) - 1]
        if isinstance(camera, DecodeError):
            raise camera
        return camera

    capture = Capture(opener, slot, clock=clock)
    capture._stopped.wait = lambda seconds: clock.pause(seconds) or False  # type: ignore[method-assign,assignment,func-returns-value]
    capture.start()
    capture._thread.join(30)
    assert not capture._thread.is_alive()
    return capture, slot.all()


def test_a_file_plays_at_its_own_pace_with_its_own_pixels(face_clip: Path) -> None:
    clock = FakeClock()
    camera = FileCamera(str(face_clip), loops=False, clock=clock, pause=clock.pause)
    with VideoReader(face_clip) as reader:
        expected = list(reader.decode())
    arrivals = list(camera.frames())
    camera.close()
    times = [arrival.at_s for arrival in arrivals]
    assert np.diff(times) == pytest.approx([1 / 25] * (len(expected) - 1))
    assert clock.now == pytest.approx((len(expected) - 1) / 25)
    for arrival, frame in zip(arrivals, expected, strict=True):
        assert np.array_equal(arrival.frame.planes[0], frame.planes[0])
        assert arrival.frame.shot == frame.shot
    assert "384x256, 25 frames/s" in camera.description


def test_a_looped_file_goes_on_without_a_gap_and_as_a_new_shot(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "short.mkv", media.movie(5))
    clock = FakeClock()
    camera = FileCamera(str(path), clock=clock, pause=clock.pause)
    arrivals = [arrival for arrival, _ in zip(camera.frames(), range(12), strict=False)]
    camera.close()
    assert np.diff([arrival.at_s for arrival in arrivals]) == pytest.approx([0.04] * 11)
    assert [arrival.frame.shot for arrival in arrivals] == [0] * 5 + [1] * 5 + [2] * 2


def test_a_file_that_decodes_too_slowly_plays_slower_instead_of_falling_behind(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "short.mkv", media.movie(20))
    clock = FakeClock()
    camera = FileCamera(str(path), loops=False, clock=clock, pause=clock.pause)
    ages = []
    for arrival in camera.frames():
        clock.now += 0.1  # two and a half times what there is
        ages.append(clock.now - arrival.at_s)
    camera.close()
    assert max(ages) <= 0.1 + 0.04 + 1e-9


def test_a_lost_camera_is_opened_again_with_growing_pauses() -> None:
    clock = FakeClock()
    cameras: list[Camera | DecodeError] = [
        FakeCamera(clock, 0, 10),
        DecodeError("not there"),
        DecodeError("not there"),
        FakeCamera(clock, 10, 10),
    ]
    capture, frames = run(cameras, clock, until=4)
    assert [item.sequence for item in frames] == list(range(20))
    assert [number_in(item.frame.planes[0]) for item in frames] == list(range(20))
    # pauses of 0.5, 1 and 2 s, and one frame's time
    assert frames[10].arrived_s - frames[9].arrived_s == pytest.approx(3.54)
    assert capture.state.num_losses == 2
    assert [item.frame.pts for item in frames] == sorted({item.frame.pts for item in frames})
    assert frames[9].frame.shot < frames[10].frame.shot  # nobody is taken for who was there before
    assert all(camera.is_closed for camera in cameras if isinstance(camera, FakeCamera))


def test_a_camera_that_gives_no_more_is_lost_and_a_file_is_over() -> None:
    clock = FakeClock()
    silent = FakeCamera(clock, 0, 3, breaks=False)
    capture, frames = run([silent, FakeCamera(clock, 3, 3, has_end=True, breaks=False)], clock, until=2)
    assert len(frames) == 6
    assert capture.state.status == "ended"
    assert capture.state.num_losses == 1


def test_a_fault_of_ours_is_kept_for_the_session() -> None:
    class Faulty(FakeCamera):
        def frames(self):  # type: ignore[no-untyped-def]
            yield from ()
            raise ZeroDivisionError("ours")

    capture, _ = run([Faulty(FakeClock(), 0, 1)], FakeClock(), until=1)
    assert isinstance(capture.error, ZeroDivisionError)


def test_the_first_opening_fails_at_once(tmp_path: Path) -> None:
    capture = Capture(lambda: FileCamera(str(tmp_path / "absent.mp4")), LatestSlot())
    with pytest.raises(DecodeError, match="no such file"):
        capture.open()
    capture.stop()


def opener_of(path: Path, refusals: int) -> tuple[Callable[..., object], list[dict[str, str]]]:
    """Stands for ``av.open``: refuses some wishes, then opens a file in the camera's place."""
    asked: list[dict[str, str]] = []

    def opener(file: str, mode: str, *, format: str, container_options: dict[str, str], timeout: object) -> object:
        asked.append(container_options)
        assert file == "/dev/video3"
        assert format == "v4l2"
        if len(asked) <= refusals:
            raise av.error.InvalidDataError(22, "Invalid argument", file)
        return av.open(str(path), "r")

    return opener, asked


def test_a_device_that_refuses_a_wish_is_asked_for_less(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "camera.mkv", media.movie(6, 96, 64))
    opener, asked = opener_of(path, 2)
    clock = FakeClock()
    address = CameraAddress("device", "/dev/video3", "camera 3")
    camera = open_camera(address, LiveOptions(), opener=opener, clock=clock)
    assert len(asked) == 3
    assert asked[-1] == {}
    assert "96x64" in camera.description
    arrivals = list(camera.frames())
    camera.close()
    assert len(arrivals) == 6
    assert [arrival.frame.index for arrival in arrivals] == list(range(6))


def test_a_device_that_refuses_everything_is_an_error_that_says_so(tmp_path: Path) -> None:
    opener, _ = opener_of(tmp_path, 99)
    with pytest.raises(DecodeError, match=r"camera 3: cannot be opened .*another program"):
        open_camera(CameraAddress("device", "/dev/video3", "camera 3"), LiveOptions(), opener=opener)


def test_a_missing_device_is_an_error_in_one_line() -> None:
    with pytest.raises(DecodeError, match="cannot be opened"):
        open_camera(parse_camera("/dev/no-such-video"), LiveOptions())


def test_a_size_that_changes_in_mid_stream_loses_the_camera(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "camera.mkv", media.movie(4, 96, 64))
    opener, _ = opener_of(path, 0)
    camera = open_camera(CameraAddress("device", "/dev/video3", "camera 3"), LiveOptions(), opener=opener)
    other = media.picture("yuv420p", 64, 48)
    original = camera._pictures  # type: ignore[attr-defined]

    def pictures():  # type: ignore[no-untyped-def]
        yield next(original)
        yield 0.0, 0.0, other

    camera._pictures = pictures()  # type: ignore[attr-defined]
    frames = camera.frames()
    next(frames)
    next(frames)
    with pytest.raises(DecodeError, match="changed from 96x64 yuv420p to 64x48"):
        next(frames)
    original.close()
    camera.close()


def test_stamps_are_read_back_as_they_were_written() -> None:
    for number in (0, 1, 4711, 65535):
        assert number_in(stamped(number).planes[0]) == number
