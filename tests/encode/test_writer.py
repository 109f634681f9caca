"""The writer: the same pictures at the same times, or nothing at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vidrestore.config import EncodeOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.encode.codecs import CONTAINERS
from vidrestore.encode.writer import VideoWriter, WrittenVideo
from vidrestore.errors import EncodeError
from vidrestore.types import Frame, StreamInfo

FAST = EncodeOptions(speed="ultrafast")


def read(path: Path) -> tuple[StreamInfo, list[Frame]]:
    with VideoReader(path) as reader:
        return reader.info, list(reader.decode())


def rewrite(
    source: Path, target: Path, options: EncodeOptions = FAST, *, carries: bool = True, copies: bool = False
) -> WrittenVideo:
    with (
        VideoReader(source) as reader,
        VideoWriter(target, reader.info, options, source=source if copies else None) as writer,
    ):
        for frame in reader.decode():
            writer.write(frame if carries else replace(frame, carrier=None))
    assert writer.result is not None
    return writer.result


def times(frames: Sequence[Frame]) -> list[Fraction]:
    return [frame.pts * frame.time_base for frame in frames]


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if ".part-" in name]


LOSSLESS = [
    *(f"yuv{s}p" for s in ("410", "411", "420", "422", "440", "444")),
    *(f"yuv{s}p{bits}le" for s in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)),
    *("yuv440p10le", "yuv440p12le", "yuva420p", "yuva422p10le", "yuva444p16le"),
    *("gray", "gray9le", "gray10le", "gray12le", "gray14le", "gray16le"),
    *("gbrp", "gbrp9le", "gbrp10le", "gbrp12le", "gbrp14le", "gbrp16le", "gbrap", "gbrap10le", "gbrap16le"),
]


@pytest.mark.parametrize("pix_fmt", LOSSLESS)
@pytest.mark.parametrize("size", [(17, 31), (66, 70)])
def test_ffv1_gives_every_sample_back(tmp_path: Path, pix_fmt: str, size: tuple[int, int]) -> None:
    # what FFV1 itself gives back stands in for a source; sizes with one slice are exact in every format
    originals = [media.picture(pix_fmt, *size, seed=i, is_noise=True) for i in range(2)]
    expected = [media.samples(frame) for frame in originals]
    packed = {"gbrp": "bgr0", "gbrap": "bgra"}.get(pix_fmt, pix_fmt)
    coded = [frame.reformat(format=packed) for frame in originals]
    source = media.write_clip(tmp_path / "in.mkv", coded, options={"level": "3", "slices": "1"})
    rewrite(source, tmp_path / "out.mkv", EncodeOptions(codec="ffv1"))
    rewrite(source, tmp_path / "bare.mkv", EncodeOptions(codec="ffv1"), carries=False)
    for name in ("out.mkv", "bare.mkv"):
        _, frames = read(tmp_path / name)
        for frame, planes in zip(frames, expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(frame.planes, planes, strict=True))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(1, 70), height=st.integers(1, 70), pix_fmt=st.sampled_from(["yuv420p", "yuv410p", "gray16le"]))
@example(width=64, height=67, pix_fmt="yuv420p")  # a slice's edge would go through a chroma sample
def test_ffv1_takes_every_size(tmp_path: Path, width: int, height: int, pix_fmt: str) -> None:
    original = media.picture(pix_fmt, width, height, is_noise=True)
    expected = media.samples(original)
    for name in ("in.nut", "out.mkv"):
        (tmp_path / name).unlink(missing_ok=True)
    rewrite(
        media.write_clip(tmp_path / "in.nut", [original], codec="rawvideo"),
        tmp_path / "out.mkv",
        EncodeOptions(codec="ffv1"),
    )
    _, frames = read(tmp_path / "out.mkv")
    assert all(np.array_equal(a, b) for a, b in zip(frames[0].planes, expected, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (17, 31), (18, 30)])
def test_h264_takes_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    source = media.write_clip(tmp_path / "in.mkv", [media.picture("yuv420p", *size)] * 1)
    rewrite(source, tmp_path / "out.mp4")
    info, frames = read(tmp_path / "out.mp4")
    assert (info.frame_width, info.frame_height) == size
    assert np.abs(frames[0].planes[0].astype(int) - read(source)[1][0].planes[0]).mean() < 4


PAIRS = [(codec, extension) for codec, fitting in CONTAINERS.items() for extension in fitting]


@pytest.mark.parametrize(("codec", "extension"), PAIRS)
def test_every_pair_of_codec_and_container_works(tmp_path: Path, codec: Any, extension: str) -> None:
    source = media.write_clip(tmp_path / "in.mov", media.movie(6, 256, 128), codec="libx264", options={"bf": "2"})
    result = rewrite(source, tmp_path / f"out{extension}", EncodeOptions(codec=codec, speed="ultrafast"))
    info, frames = read(tmp_path / f"out{extension}")
    assert (len(frames), result.num_frames) == (6, 6)
    assert info.format.name == result.pix_fmt
    assert result.num_bytes == (tmp_path / f"out{extension}").stat().st_size
    if extension in (".ts", ".mts", ".m2ts"):
        # B-frames are decoded before time zero, which this container has not: all is moved by the same
        moved = [time - frames[0].pts * frames[0].time_base for time in times(frames)]
        assert moved == pytest.approx([Fraction(i, 25) for i in range(6)], abs=1 / 90000)
    elif extension in (".mkv", ".webm"):
        assert times(frames) == [Fraction(i * 40, 1000) for i in range(6)]
    else:
        assert times(frames) == [Fraction(i, 25) for i in range(6)]
    error = np.abs(frames[3].planes[0].astype(float) / 2 ** (info.format.depth - 8) - read(source)[1][3].planes[0])
    assert error.mean() < 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 9000), min_size=1, max_size=10),
    start=st.integers(0, 200_000),
    time_base=st.sampled_from([Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 12800), Fraction(1, 600)]),
    name=st.sampled_from(["out.mp4", "out.mov", "out.mkv"]),
    codec=st.sampled_from(["h264", "ffv1", "prores"]),
)
def test_times_are_kept_at_any_rate(
    tmp_path: Path, steps: list[int], start: int, time_base: Fraction, name: str, codec: Any
) -> None:
    if f".{name.split('.')[1]}" not in CONTAINERS[codec]:
        return
    pts = [start + sum(steps[:i]) for i in range(len(steps))]
    frame = read(media.write_clip(tmp_path / "one.mkv", media.movie(1, 32, 32)))
    (tmp_path / name).unlink(missing_ok=True)
    info = replace(frame[0], time_base=time_base, average_rate=None)
    with VideoWriter(tmp_path / name, info, EncodeOptions(codec=codec, speed="ultrafast")) as writer:
        for i, time in enumerate(pts):
            writer.write(replace(frame[1][0], index=i, pts=time, time_base=time_base, duration=steps[i]))
    _, frames = read(tmp_path / name)
    wanted = [time * time_base for time in pts]
    if name.endswith(".mkv"):
        # a tick of Matroska is a millisecond; shorter steps fall together and are told apart by the reader
        if min(steps) * time_base >= Fraction(1, 500):
            assert all(abs(a - b) <= Fraction(1, 2000) for a, b in zip(times(frames), wanted, strict=True))
    else:
        assert times(frames) == wanted
        assert frames[-1].duration is not None
        assert frames[-1].duration * frames[-1].time_base == steps[-1] * time_base


def test_unchanged_planes_are_not_copied_and_changed_ones_do_not_reach_the_source(tmp_path: Path) -> None:
    source = media.write_clip(tmp_path / "in.mkv", [media.picture("yuv420p", 64, 64, seed=i) for i in range(4)])
    _, frames = read(source)
    before = [[plane.copy() for plane in frame.planes] for frame in frames]
    carriers = [(f.carrier.pts, f.carrier.pict_type, f.carrier.color_range) for f in frames]
    inverted = [replace(f, planes=(255 - f.planes[0], *f.planes[1:])) for f in frames]
    info = read(source)[0]
    with VideoWriter(tmp_path / "out.mkv", info, EncodeOptions(codec="ffv1")) as writer:
        for frame in inverted:
            writer.write(frame)
    for frame, planes in zip(frames, before, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(frame.planes, planes, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(media.samples(frame.carrier), planes, strict=True))
    assert carriers == [(f.carrier.pts, f.carrier.pict_type, f.carrier.color_range) for f in frames]
    for made, planes in zip(read(tmp_path / "out.mkv")[1], before, strict=True):
        assert np.array_equal(made.planes[0], 255 - planes[0])
        assert np.array_equal(made.planes[1], planes[1])


@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1", "prores"])
@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (9, 1, 9, 16), (6, 2, 6, 6)])
def test_colour_tags_are_kept(tmp_path: Path, codec: Any, tags: tuple[int, int, int, int]) -> None:
    clip = media.write_clip(tmp_path / "in.mov", media.movie(2, 64, 64, "yuv422p10le"), codec="libx264", tags=tags)
    rewrite(clip, tmp_path / f"out{CONTAINERS[codec][0]}", EncodeOptions(codec=codec, speed="ultrafast"))
    made = read(tmp_path / f"out{CONTAINERS[codec][0]}")[0].format
    # ProRes is limited range by its definition
    wanted_range = 1 if codec == "prores" else tags[1]
    assert (made.matrix_tag, made.range_tag, made.primaries, made.transfer) == (tags[0], wanted_range, *tags[2:])


@pytest.mark.parametrize(("clockwise", "is_mirrored"), [(90, False), (180, False), (270, False), (0, True), (90, True)])
@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_rotation_and_mirroring_are_kept(tmp_path: Path, name: str, clockwise: int, is_mirrored: bool) -> None:
    clip = media.write_clip(
        tmp_path / "in.mov", media.movie(1), codec="libx264", clockwise=clockwise, is_mirrored=is_mirrored
    )
    rewrite(clip, tmp_path / name)
    before, after = read(clip)[0], read(tmp_path / name)[0]
    assert after.rotation == before.rotation
    assert (after.width, after.height) == (before.width, before.height)
    assert np.allclose(after.display_from_frame, before.display_from_frame)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv"])
def test_the_shape_of_pixels_is_kept(tmp_path: Path, name: str) -> None:
    clip = media.write_clip(tmp_path / "in.mov", media.movie(1), codec="libx264", sample_aspect_ratio=Fraction(16, 15))
    rewrite(clip, tmp_path / name)
    assert read(tmp_path / name)[0].sample_aspect_ratio == Fraction(16, 15)


def test_rgb_becomes_yuv_of_the_matrix_that_is_told(tmp_path: Path) -> None:
    colours = np.array([[200, 30, 60], [20, 180, 90], [40, 60, 220], [128, 128, 128]], np.uint8)
    frame = av.VideoFrame.from_ndarray(np.repeat(np.repeat(colours[None], 720, 0), 40, 1), format="rgb24")
    clip = media.write_clip(tmp_path / "in.mkv", [frame.reformat(format="bgr0")])
    rewrite(clip, tmp_path / "out.mov", EncodeOptions(codec="prores"))
    info, frames = read(tmp_path / "out.mov")
    assert (info.format.matrix_tag, info.format.range_tag) == (1, 1)
    y, cb, cr = (plane[300].astype(float) / 2 ** (info.format.depth - 8) for plane in frames[0].planes)
    red, green, blue = colours.astype(float).T
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue  # BT.709
    assert np.allclose(y[20::40], 16 + luma * 219 / 255, atol=1.5)
    assert np.allclose(cb[20::40], 128 + (blue - luma) / 1.8556 * 224 / 255, atol=1.5)
    assert np.allclose(cr[20::40], 128 + (red - luma) / 1.5748 * 224 / 255, atol=1.5)


@pytest.mark.parametrize(("codec", "name"), [("av1", "out.mkv"), ("dnxhr", "out.mov"), ("prores", "out.mov")])
@pytest.mark.parametrize("source_codec", ["libx264", "ffv1"])
def test_grey_stays_grey_at_the_same_level(tmp_path: Path, codec: Any, name: str, source_codec: str) -> None:
    frame = av.VideoFrame(256, 128, "gray")
    np.frombuffer(memoryview(frame.planes[0]), np.uint8)[:] = np.repeat(np.arange(16, 236, 55), 64)[:256].tolist() * 128
    clip = media.write_clip(tmp_path / "in.mkv", [frame], codec=source_codec)
    rewrite(clip, tmp_path / name, EncodeOptions(codec=codec, crf=1, speed="fast"))
    info, frames = read(tmp_path / name)
    before = read(clip)[0].format
    luma = frames[0].planes[0][64, 32::64].astype(float) / 2 ** (info.format.depth - 8)
    levels = np.arange(16, 236, 55, dtype=float)
    if before.full_range and not info.format.full_range:
        levels = 16 + levels * 219 / 255
    assert np.allclose(luma, levels, atol=1.5)
    assert np.allclose(frames[0].planes[1].astype(float) / 2 ** (info.format.depth - 8), 128, atol=1)


def test_hdr_metadata_goes_through(tmp_path: Path) -> None:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    params = f"log-level=none:master-display={display}:max-cll=1000,400"
    clip = media.write_clip(
        tmp_path / "hdr.mp4",
        media.movie(3, 64, 64, "yuv420p10le"),
        codec="libx265",
        options={"x265-params": params, "preset": "ultrafast"},
        tags=(9, 1, 9, 16),
    )
    before = side_data(clip)
    assert set(before) == {"MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"}
    for codec in ("hevc", "h264", "av1"):
        target = tmp_path / f"{codec}.mp4"
        rewrite(clip, target, EncodeOptions(codec=codec, speed="ultrafast"))
        after = side_data(target)
        assert after.get("CONTENT_LIGHT_LEVEL") == before["CONTENT_LIGHT_LEVEL"], codec
        light = rationals(after["MASTERING_DISPLAY_METADATA"]) - rationals(before["MASTERING_DISPLAY_METADATA"])
        assert np.abs(light[:8]).max() < 1e-4, codec
        assert np.abs(light[8:]).max() < 0.05, codec


def side_data(path: Path) -> dict[str, bytes]:
    with av.open(path) as container:
        frame: Any = next(container.decode(video=0))
        wanted = (Type.MASTERING_DISPLAY_METADATA, Type.CONTENT_LIGHT_LEVEL)
        return {kind.name: bytes(frame.side_data[kind]) for kind in wanted if kind in frame.side_data}


def rationals(content: bytes) -> np.ndarray[Any, Any]:
    values = np.frombuffer(content[:80], np.int32)
    return values[0::2] / values[1::2]


@pytest.mark.parametrize("codec", ["h264", "prores"])
def test_fields_stay_fields(tmp_path: Path, codec: Any) -> None:
    clip = tmp_path / "fields.mov"
    with av.open(clip, "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"flags": "+ildct", "x264-params": "tff=1"})
        stream.codec_context.width, stream.codec_context.height = 64, 64
        for i, frame in enumerate(media.movie(4, 64, 64)):
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read(clip)[1][0].carrier.interlaced_frame
    rewrite(clip, tmp_path / "out.mov", EncodeOptions(codec=codec, speed="ultrafast"), copies=True)
    assert all(frame.carrier.interlaced_frame for frame in read(tmp_path / "out.mov")[1])


# --- what goes wrong -------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return media.write_clip(tmp_path / "in" / "clip.mp4", media.movie(12, 64, 48), codec="libx264")


def refused(path: Path, info: StreamInfo, options: EncodeOptions = FAST, **more: Any) -> str:
    with pytest.raises(EncodeError) as caught:
        VideoWriter(path, info, options, **more)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_targets_that_cannot_be_are_refused_at_once(tmp_path: Path, clip: Path) -> None:
    info = read(clip)[0]
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "folder.mp4").mkdir()
    assert "exists already" in refused(tmp_path / "there.mp4", info)
    assert "is a folder" in refused(tmp_path / "folder.mp4", info, overwrite=True)
    assert "no folder" in refused(tmp_path / "nowhere" / "out.mp4", info)
    assert "unknown kind of file '.xyz'" in refused(tmp_path / "out.xyz", info)
    assert "unknown kind of file ''" in refused(tmp_path / "out", info)
    assert "use .mkv or .avi" in refused(tmp_path / "out.mp4", info, EncodeOptions(codec="ffv1"))
    assert "use .mov or .mkv or .mxf" in refused(tmp_path / "out.mp4", info, EncodeOptions(codec="prores"))
    assert "use h264 or ffv1" in refused(tmp_path / "out.mp4", info, EncodeOptions(codec="hevc"))
    assert "a\\x1b[2Jb" in refused(tmp_path / "a\x1b[2Jb.xyz", info)
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("kind", ["same", "hard", "symbolic"])
def test_the_input_is_never_the_output(tmp_path: Path, clip: Path, kind: str) -> None:
    target = {"same": clip, "hard": tmp_path / "hard.mp4", "symbolic": tmp_path / "soft.mp4"}[kind]
    if kind == "hard":
        os.link(clip, target)
    if kind == "symbolic":
        target.symlink_to(clip)
    assert "is the input itself" in refused(target, read(clip)[0], source=clip, overwrite=True)
    assert "is the input itself" in refused(target, read(clip)[0], overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    assert "cannot create a file" in refused(tmp_path / "closed" / "out.mp4", read(clip)[0])


def test_the_target_appears_only_when_it_is_whole(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"the old one")
    with VideoReader(clip) as reader, VideoWriter(target, reader.info, FAST, overwrite=True) as writer:
        for frame in reader.decode():
            writer.write(frame)
            assert target.read_bytes() == b"the old one"
            assert len(leftovers(tmp_path)) == 1
            assert leftovers(tmp_path)[0].startswith(".out.part-")
    assert len(read(target)[1]) == 12
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("num_written", [0, 1, 7])
def test_an_error_leaves_nothing_behind(tmp_path: Path, clip: Path, num_written: int) -> None:
    target = tmp_path / "out.mp4"

    def run() -> None:
        with VideoReader(clip) as reader, VideoWriter(target, reader.info, FAST, source=clip) as writer:
            for frame in reader.decode():
                if frame.index == num_written:
                    raise RuntimeError("stop")
                writer.write(frame)

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert os.listdir(tmp_path) == ["in"]


def test_abort_and_finish_may_be_called_twice(tmp_path: Path, clip: Path) -> None:
    info, frames = read(clip)
    writer = VideoWriter(tmp_path / "a.mp4", info, FAST)
    writer.write(frames[0])
    writer.abort()
    writer.abort()
    assert os.listdir(tmp_path) == ["in"]
    writer = VideoWriter(tmp_path / "b.mp4", info, FAST)
    writer.write(frames[0])
    assert writer.finish() is writer.finish()
    writer.abort()
    assert (tmp_path / "b.mp4").exists()


def test_no_frame_makes_no_file(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(EncodeError, match="not one frame"), VideoWriter(tmp_path / "out.mp4", read(clip)[0], FAST):
        pass
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize(("codec", "name"), [("ffv1", "out.avi"), ("prores", "out.mxf")])
def test_containers_of_constant_rate_refuse_another(tmp_path: Path, codec: Any, name: str) -> None:
    (tmp_path / "in").mkdir()
    source = media.write_clip(
        tmp_path / "in" / "vfr.mkv", media.movie(5), pts=[0, 40, 95, 120, 300], time_base=Fraction(1, 1000)
    )
    with pytest.raises(EncodeError, match=r"constant rate only and frame \d is out of step; use \.mkv or \.mov"):
        rewrite(source, tmp_path / name, EncodeOptions(codec=codec))
    assert os.listdir(tmp_path) == ["in"]


def test_a_write_after_the_end_is_a_mistake_of_the_caller(tmp_path: Path, clip: Path) -> None:
    info, frames = read(clip)
    with VideoWriter(tmp_path / "out.mp4", info, FAST) as writer:
        writer.write(frames[0])
    with pytest.raises(ValueError, match="closed"):
        writer.write(frames[1])


FULL = """
import resource, signal, sys
from vidrestore.config import EncodeOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.encode.writer import VideoWriter
from vidrestore.errors import EncodeError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    with VideoReader(sys.argv[1]) as reader:
        with VideoWriter(sys.argv[2], reader.info, EncodeOptions(codec=sys.argv[4], speed="ultrafast")) as writer:
            for frame in reader.decode():
                writer.write(frame)
except EncodeError as error:
    print(error.__cause__.errno, error)
else:
    print("whole")
"""


@pytest.mark.parametrize(("codec", "name"), [("h264", "out.mp4"), ("ffv1", "out.mkv")])
@pytest.mark.parametrize("limit", [100, 3000, 60000])
def test_a_full_disk_is_told_with_its_number(tmp_path: Path, codec: str, name: str, limit: int) -> None:
    frames = [media.picture("yuv420p", 128, 96, seed=i, is_noise=True) for i in range(12)]
    clip = media.write_clip(tmp_path / "in.mkv", frames)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", FULL, str(clip), str(tmp_path / "out" / name), str(limit), codec]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{errno.EFBIG} ")
    assert "the disk is full" in done.stdout
    assert done.stderr == ""
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("place", ["mux_one", "close"])
def test_a_disk_that_fills_up_at_any_moment_has_its_cause(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    class Full:
        """An output that has no room when ``place`` is called."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return self._fail if name == place else getattr(self._real, name)

        def _fail(self, *_: Any) -> None:
            raise av.error.OSError(errno.ENOSPC, "No space left on device")

    info, frames = read(clip)
    writer = VideoWriter(tmp_path / "out.mp4", info, FAST)
    writer.write(frames[0])
    monkeypatch.setattr(writer, "_container", Full(writer._container))
    with pytest.raises(EncodeError, match="the disk is full") as caught:
        writer.finish()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == ["in"]


ALL = """
import sys
from vidrestore.config import EncodeOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.encode.codecs import CONTAINERS
from vidrestore.encode.writer import VideoWriter
for codec, (extension, *_) in CONTAINERS.items():
    options = EncodeOptions(codec=codec, speed="ultrafast")
    with VideoReader(sys.argv[1]) as reader:
        with VideoWriter(f"{sys.argv[2]}/{codec}{extension}", reader.info, options, source=sys.argv[1]) as writer:
            for frame in reader.decode():
                writer.write(frame)
"""


def test_nothing_reaches_the_terminal(tmp_path: Path) -> None:
    source = media.write_clip(tmp_path / "in.mov", media.movie(4, 256, 128), codec="libx264", audio=["aac"])
    # in a process of its own: SVT-AV1 makes up its mind about talking once
    command = [sys.executable, "-c", ALL, str(source), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert len(os.listdir(tmp_path)) == 1 + len(CONTAINERS)


def test_a_kill_leaves_the_old_file_as_it_was(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"the old one")
    script = FULL.replace("writer.write(frame)", "writer.write(frame); import os; os.kill(os.getpid(), 9)").replace(
        "reader.info, ", "reader.info, overwrite=True, options="
    )
    command = [sys.executable, "-c", script, str(clip), str(target), str(1 << 30), "h264"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL
    assert target.read_bytes() == b"the old one"


def test_a_second_run_gives_the_same_bytes(tmp_path: Path, clip: Path) -> None:
    options = EncodeOptions(speed="ultrafast", threads=1)
    for name in ("one.mkv", "two.mkv"):
        rewrite(clip, tmp_path / name, options)
    one, two = (media.packets(tmp_path / name, "video") for name in ("one.mkv", "two.mkv"))
    assert one == two
