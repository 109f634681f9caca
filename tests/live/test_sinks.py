from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from stamps import number_in
from stand_ins import info_of, stamped

from vidrestore.config import EncodeOptions
from vidrestore.errors import EncodeError
from vidrestore.live.address import parse_sink
from vidrestore.live.engine import LiveFrame
from vidrestore.live.sinks import ConsumerGoneError, Output, PipeWriter, make_sink, recording
from vidrestore.picture import frame_from_rgb

FAST = EncodeOptions(speed="ultrafast", crf=16)


def live(number: int, *, at_s: float | None = None, rate: int = 25) -> LiveFrame:
    at_s = number / rate if at_s is None else at_s
    frame = replace(stamped(number), pts=round(at_s * 90_000))
    return LiveFrame(number, at_s, at_s, frame, frame, info_of(rate=rate))


def numbers_in(path: Path | str, **options: object) -> tuple[list[int], list[float]]:
    """The numbers in the pictures of a file, and their times."""
    with av.open(str(path), **options) as container:  # type: ignore[call-overload]
        frames = list(container.decode(video=0))
    return [number_in(frame.to_ndarray(format="gray")) for frame in frames], [
        float(f.pts * f.time_base) for f in frames
    ]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_recording_keeps_every_picture_at_its_time(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"live{suffix}"
    sink = recording(path, FAST)
    wanted = [0, 1, 2, 5, 6, 10, 11, 30]  # a live run drops frames: the times between them stay
    for number in wanted:
        sink.write(live(number))
    sink.close()
    numbers, times = numbers_in(path)
    assert numbers == wanted
    assert np.array(times) - times[0] == pytest.approx(np.array(wanted) / 25, abs=1e-3)


def test_a_recording_that_was_cut_off_can_be_played(tmp_path: Path) -> None:
    path = tmp_path / "live.mp4"
    sink = recording(path, FAST)
    for number in range(150):  # three groups of pictures; the encoder and the last fragment hold the rest
        sink.write(live(number))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes())
    sink.close()
    numbers, _ = numbers_in(cut)
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= 50


def test_no_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    path.write_bytes(b"precious")
    with pytest.raises(EncodeError, match="exists already"):
        make_sink(parse_sink(str(path)), FAST)
    assert path.read_bytes() == b"precious"


def test_another_size_and_format_is_fitted_into_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "live.mkv"
    sink = recording(path, FAST)
    sink.write(live(1))
    picture = frame_from_rgb(np.full((60, 90, 3), 200, np.uint8), 0)
    slate = replace(picture, pts=9000, time_base=live(0).frame.time_base)
    sink.write(LiveFrame(1, 0.1, 0.1, slate, slate, info_of(90, 60)))
    sink.write(live(5))
    sink.close()
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(120, 160)] * 3
    assert frames[1].mean() == pytest.approx(200, abs=3)
    assert (number_in(frames[0]), number_in(frames[2])) == (1, 5)


READER = """
import sys, av
sys.path.insert(0, sys.argv[3])
from stamps import number_in
with av.open(sys.stdin.buffer, format=sys.argv[1]) as container:
    for i, frame in enumerate(container.decode(video=0)):
        print(number_in(frame.to_ndarray(format="gray")), flush=True)
        if i + 1 == int(sys.argv[2]):
            break
"""


@pytest.mark.parametrize("kind", ["nut", "y4m"])
def test_another_process_reads_the_pipe(kind: str) -> None:
    address = parse_sink(f"pipe:{kind}")
    command = [sys.executable, "-c", READER, address.name, "20", str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        sink = make_sink(address, FAST, pipe=PipeWriter(os.dup(reader.stdin.fileno())))
        assert sink is not None
        reader.stdin.close()
        reader.stdin = None
        try:
            with contextlib.suppress(ConsumerGoneError):  # it has read as many as it wants
                for number in range(0, 40, 2):  # every second frame of the camera
                    sink.write(live(number))
            sink.close()
            output, _ = reader.communicate(timeout=60)
        finally:
            reader.kill()
    got = [int(word) for word in output.split()]
    # NUT has times; Y4M has a rate, so that each picture stands for the one that was dropped after it too
    assert got == (list(range(0, 40, 2)) if kind == "nut" else [2 * ((i + 1) // 2) for i in range(20)])


def test_a_reader_that_goes_away_is_no_fault() -> None:
    reading, writing = os.pipe()
    sink = make_sink(parse_sink("pipe:"), FAST, pipe=PipeWriter(writing))
    assert sink is not None
    os.close(reading)

    def write_all() -> None:
        for number in range(20):
            sink.write(live(number))

    with pytest.raises(ConsumerGoneError, match="nobody reads"):
        write_all()
    sink.close()


def test_a_reader_that_is_stuck_holds_nobody_up() -> None:
    reading, writing = os.pipe()
    sink = make_sink(parse_sink("pipe:"), FAST, pipe=PipeWriter(writing))
    assert sink is not None
    output = Output(sink)
    begin = time.monotonic()
    for number in range(60):
        output.put(live(number))
        time.sleep(0.002)
    assert output.num_dropped > 20
    output.close(timeout_s=4.0)
    assert time.monotonic() - begin < 10.0
    assert not output._thread.is_alive()
    os.close(reading)


def test_a_stream_is_received_over_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    got: list[int] = []
    is_done = threading.Event()

    def receive() -> None:
        try:
            options = {"protocol_whitelist": "udp", "format_whitelist": "mpegts", "analyzeduration": "200000"}
            with av.open(f"udp://127.0.0.1:{port}", container_options=options, timeout=(20.0, 5.0)) as container:
                for frame in container.decode(video=0):
                    got.append(number_in(frame.to_ndarray(format="gray")))
                    if len(got) == 10:
                        break
        finally:
            is_done.set()

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    sink = make_sink(parse_sink(f"udp://127.0.0.1:{port}"), FAST)
    assert sink is not None
    number = 0
    while not is_done.is_set() and number < 1500:
        sink.write(live(number))
        number += 1
        time.sleep(0.01)
    sink.close()
    receiver.join(20)
    assert len(got) == 10
    assert got == sorted(set(got))


def test_a_sink_that_fails_tells_why_and_takes_no_more() -> None:
    class Full:
        name = "full"
        is_closed = False

        def write(self, frame: LiveFrame) -> None:
            raise EncodeError("the disk is full")

        def close(self) -> None:
            self.is_closed = True

    sink = Full()
    output = Output(sink)
    output.put(live(0))
    output._thread.join(5)
    assert isinstance(output.error, EncodeError)
    assert sink.is_closed
    output.put(live(1))
    output.close()


def test_a_virtual_camera_without_its_package_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(EncodeError, match="pip install pyvirtualcam"):
        make_sink(parse_sink("virtualcam"), FAST)
