"""The reader: exact times, all frames, and every loss told."""

from __future__ import annotations

import gc
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import media
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidrestore import geometry
from vidrestore.config import DecodeOptions
from vidrestore.decode.reader import Loss, VideoReader
from vidrestore.types import Frame, StreamInfo


def decode(path: Path) -> tuple[StreamInfo, list[Frame], tuple[Loss, ...]]:
    with VideoReader(path) as reader:
        frames = list(reader.decode())
        return reader.info, frames, reader.losses


def kinds(losses: tuple[Loss, ...]) -> set[str]:
    return {loss.kind for loss in losses}


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "yuv440p", "gray16le", "yuva420p", "gbrp12le"])
def test_planes_come_out_as_they_were_coded(tmp_path: Path, pix_fmt: str) -> None:
    originals = [media.picture(pix_fmt, 37, 21, seed=i, is_noise=True) for i in range(3)]
    expected = [media.samples(frame) for frame in originals]
    info, frames, losses = decode(media.write_clip(tmp_path / "clip.mkv", originals))
    assert (info.format.name, info.frame_width, info.frame_height, losses) == (pix_fmt, 37, 21, ())
    for frame, planes in zip(frames, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(frame.planes, planes, strict=True))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.integers(1, 5000), min_size=1, max_size=8),
    start=st.integers(0, 100_000),
    time_base=st.sampled_from([Fraction(1, 90000), Fraction(1, 30000), Fraction(1, 12800), Fraction(1, 1000000)]),
)
def test_times_are_the_containers_own(tmp_path: Path, steps: list[int], start: int, time_base: Fraction) -> None:
    pts = [start + sum(steps[:i]) for i in range(len(steps))]
    clip = media.write_clip(
        tmp_path / "vfr.mov",
        media.movie(len(pts), 16, 16),
        codec="libx264",
        pts=pts,
        time_base=time_base,
        options={"preset": "ultrafast"},
        container_options={"movie_timescale": str(time_base.denominator)},
    )
    info, frames, _ = decode(clip)
    assert [frame.pts * frame.time_base for frame in frames] == [time * time_base for time in pts]
    assert all(frame.time_base == info.time_base for frame in frames)
    assert [frame.index for frame in frames] == list(range(len(pts)))


def test_b_frames_come_in_presentation_order(tmp_path: Path) -> None:
    clip = media.write_clip(
        tmp_path / "b.mp4", media.movie(20), codec="libx264", options={"bf": "3", "b_strategy": "0"}
    )
    _, frames, losses = decode(clip)
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(i, 25) for i in range(20)]
    assert losses == ()


def test_duration_and_carrier_go_with_the_frame(tmp_path: Path) -> None:
    _, frames, _ = decode(media.write_clip(tmp_path / "clip.mov", media.movie(3), codec="libx264"))
    assert all(frame.duration == Fraction(1, 25) / frame.time_base for frame in frames)
    assert all(frame.carrier.planes[0].buffer_ptr == frame.planes[0].ctypes.data for frame in frames)


TURNS = [(degrees, mirrored) for degrees in (0, 90, 180, 270) for mirrored in (False, True)]


@pytest.mark.parametrize(("clockwise", "is_mirrored"), TURNS)
def test_corner_marks_land_where_a_player_shows_them(tmp_path: Path, clockwise: int, is_mirrored: bool) -> None:
    frame = media.picture("yuv420p", 32, 16)
    clip = media.write_clip(
        tmp_path / "turned.mov", [frame], codec="libx264", clockwise=clockwise, is_mirrored=is_mirrored
    )
    info, _, _ = decode(clip)
    # numpy's turn is counter-clockwise; FFmpeg mirrors the result of the turn left to right
    shown = np.rot90(np.arange(32 * 16).reshape(16, 32), -clockwise // 90)
    shown = shown[:, ::-1] if is_mirrored else shown
    assert (info.height, info.width) == shown.shape
    for x, y in [(0, 0), (31, 0), (0, 15), (31, 15), (5, 3)]:
        column, row = np.round(geometry.apply(info.display_from_frame, [x, y])).astype(int)
        assert shown[row, column] == y * 32 + x
    if not is_mirrored:
        assert info.rotation == clockwise


def test_wide_pixels_are_stretched_about_the_edges(tmp_path: Path) -> None:
    clip = media.write_clip(
        tmp_path / "wide.mov", media.movie(1, 60, 48), codec="libx264", sample_aspect_ratio=Fraction(4, 3), clockwise=90
    )
    info, _, _ = decode(clip)
    assert (info.width, info.height, info.sample_aspect_ratio) == (48, 80, Fraction(4, 3))
    edges = geometry.apply(info.display_from_frame, [[-0.5, -0.5], [59.5, 47.5]])
    assert np.allclose(edges, [[47.5, -0.5], [-0.5, 79.5]])


@pytest.mark.parametrize(
    ("tags", "matrix", "is_full"),
    [((1, 1, 1, 1), "bt709", False), ((9, 1, 9, 16), "bt2020", False), ((5, 2, 5, 6), "bt601", True)],
)
def test_colour_tags_are_read(tmp_path: Path, tags: tuple[int, int, int, int], matrix: str, is_full: bool) -> None:
    info, _, _ = decode(media.write_clip(tmp_path / "tags.mkv", media.movie(1), codec="libx264", tags=tags))
    made = info.format
    assert (made.matrix_tag, made.range_tag, made.primaries, made.transfer) == tags
    assert (made.matrix, made.full_range, made.siting) == (matrix, is_full, (0.0, 0.5))


@pytest.mark.parametrize(("pix_fmt", "codec", "is_full"), [("gray", "libx264", False), ("gray", "ffv1", True)])
def test_untagged_grey_has_the_range_of_its_codec(tmp_path: Path, pix_fmt: str, codec: str, is_full: bool) -> None:
    info, _, _ = decode(media.write_clip(tmp_path / "grey.mkv", media.movie(1, pix_fmt=pix_fmt), codec=codec))
    assert (info.format.range_tag, info.format.full_range) == (0, is_full)


def test_motion_jpeg_is_full_range_and_centred(tmp_path: Path) -> None:
    info, _, _ = decode(media.write_clip(tmp_path / "jpeg.mov", media.movie(2, pix_fmt="yuvj420p"), codec="mjpeg"))
    assert (info.format.full_range, info.format.siting) == (True, (0.5, 0.5))


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    plain = media.write_clip(tmp_path / "plain.mp4", media.movie(3), codec="libx264", audio=["aac"])
    covered = add_cover(plain, tmp_path / "covered.mp4", keep=("audio", "video"))
    assert len(decode(covered)[1]) == 3
    with pytest.raises(Exception, match="no video stream in it"):
        VideoReader(add_cover(plain, tmp_path / "song.m4a", keep=("audio",)))


def add_cover(source: Path, target: Path, *, keep: tuple[str, ...]) -> Path:
    jpeg = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt, jpeg.time_base = 320, 320, "yuvj420p", Fraction(1, 25)
    (image,) = [*jpeg.encode(media.picture("yuvj420p", 320, 320)), *jpeg.encode(None)][:1]
    with av.open(source) as old, av.open(target, "w", format="mp4") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams if s.type in keep}
        cover = new.add_stream("mjpeg", width=320, height=320, pix_fmt="yuvj420p")
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in old.demux([old.streams[i] for i in streams]):
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
        picture = av.Packet(bytes(image))
        picture.stream, picture.pts, picture.dts, picture.is_keyframe = cover, 0, 0, True
        new.mux(picture)
    return target


@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_a_cut_file_gives_what_it_has_and_says_so(tmp_path: Path, name: str, share: float) -> None:
    # all intra and incompressible: the frames' share is the file's share
    frames = [media.picture("yuv420p", 64, 48, seed=i, is_noise=True) for i in range(40)]
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    codec = "ffv1" if name.endswith("avi") else "libx264"
    encoder = {} if codec == "ffv1" else {"g": "1", "preset": "ultrafast", "crf": "5"}
    clip = media.write_clip(tmp_path / name, frames, codec=codec, options=encoder, container_options=options)
    os.truncate(clip, int(clip.stat().st_size * share))
    _, frames_left, losses = decode(clip)
    assert 40 * share - 4 <= len(frames_left) <= 40 * share + 1
    assert "truncated" in kinds(losses)
    (loss,) = [loss for loss in losses if loss.kind == "truncated"]
    assert loss.time_s == pytest.approx(len(frames_left) / 25, abs=0.05)


def test_a_cut_transport_stream_gives_what_it_has(tmp_path: Path) -> None:
    frames = [media.picture("yuv420p", 64, 48, seed=i, is_noise=True) for i in range(40)]
    clip = media.write_clip(
        tmp_path / "cut.ts", frames, codec="libx264", options={"g": "1", "preset": "ultrafast", "crf": "5"}
    )
    os.truncate(clip, clip.stat().st_size // 2)
    assert 17 <= len(decode(clip)[1]) <= 22


@pytest.mark.parametrize("name", ["whole.mp4", "whole.mkv", "whole.avi", "whole.ts", "whole.webm", "whole.mov"])
def test_a_whole_file_has_no_losses(tmp_path: Path, name: str) -> None:
    codec = {"avi": "ffv1", "webm": "libsvtav1"}.get(name.split(".")[1], "libx264")
    audio = {"webm": ["libopus"], "avi": ["pcm_s16le"]}.get(name.split(".")[1], ["aac"])
    clip = media.write_clip(tmp_path / name, media.movie(20, 64, 64), codec=codec, audio=audio)
    info, frames, losses = decode(clip)
    assert (len(frames), losses, info.has_audio) == (20, (), True)


def test_audio_longer_than_the_video_is_no_loss(tmp_path: Path) -> None:
    clip = tmp_path / "long.mkv"
    both = media.write_clip(tmp_path / "a.mkv", media.movie(40), audio=["pcm_s16le"])
    with av.open(both) as old, av.open(clip, "w") as new:
        streams = {s.index: new.add_stream_from_template(s, opaque=True) for s in old.streams}
        for packet in old.demux():
            if packet.dts is not None and (packet.stream.type == "audio" or packet.pts < 400):
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
    _, frames, losses = decode(clip)
    assert (len(frames), losses) == (10, ())


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "prores_ks"])
def test_damage_in_the_middle_is_gone_over_and_listed(tmp_path: Path, codec: str) -> None:
    pix_fmt = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
    frames = [media.picture(pix_fmt, 64, 64, seed=i, is_noise=True) for i in range(30)]
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    clip = media.write_clip(tmp_path / "damaged.mkv", frames, codec=codec, options={"g": "10", **options})
    content = bytearray(clip.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(i * 37 % 251 for i in range(3000))
    clip.write_bytes(content)
    _, left, losses = decode(clip)
    # with several threads FFmpeg's H.264 and HEVC decoders conceal damage without a word
    assert losses or codec in ("libx264", "libx265")
    assert kinds(losses) <= {"packet", "corrupt"}
    assert len(left) >= 27
    assert left[-1].pts * left[-1].time_base == Fraction(29, 25)


def test_a_packet_without_a_picture_is_a_loss(tmp_path: Path) -> None:
    clip = tmp_path / "hollow.mkv"
    whole = media.write_clip(tmp_path / "whole.mkv", media.movie(10), codec="libx264", options={"g": "1"})
    with av.open(whole) as old, av.open(clip, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is None:
                continue
            # an access unit delimiter alone: valid, and no picture
            made = av.Packet(b"\0\0\0\2\x09\xf0") if packet.pts == 200 else packet
            made.pts, made.dts, made.time_base, made.stream = packet.pts, packet.dts, packet.time_base, stream
            new.mux(made)
    _, frames, losses = decode(clip)
    assert (len(frames), kinds(losses), len(losses)) == (9, {"packet"}, 1)


def test_losses_without_end_are_summed_up(tmp_path: Path) -> None:
    clip = media.write_clip(tmp_path / "clip.mkv", media.movie(2))
    with VideoReader(clip) as reader:
        for i in range(250):
            reader._lose("packet", "a packet could not be decoded", i)
        assert len(reader.losses) == 101
        assert reader.losses[-1].message == "150 more of kind packet are not listed one by one"


def test_a_change_of_size_ends_the_frames_with_a_loss(tmp_path: Path) -> None:
    parts = [
        media.write_clip(tmp_path / f"{w}.h264", media.movie(5, w, 48), codec="libx264", format="h264")
        for w in (64, 80)
    ]
    joined = tmp_path / "joined.h264"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    info, frames, losses = decode(joined)
    assert (len(frames), info.frame_width) == (5, 64)
    assert [loss.message for loss in losses if loss.kind == "format"] == [
        "the picture changes from 64x48 yuv420p to 80x48 yuv420p; the rest is left out"
    ]


def test_a_stream_without_times_gets_increasing_ones(tmp_path: Path) -> None:
    clip = media.write_clip(tmp_path / "raw.h264", media.movie(12), codec="libx264", format="h264")
    _, frames, _ = decode(clip)
    pts = [frame.pts for frame in frames]
    assert len(pts) == 12
    assert pts == sorted(set(pts))


def test_a_generator_left_early_leaves_nothing_open(tmp_path: Path) -> None:
    clip = media.write_clip(tmp_path / "clip.mp4", media.movie(50), codec="libx264")
    process = psutil.Process()
    gc.collect()
    before = process.num_fds(), process.num_threads()
    for _ in range(3):
        with VideoReader(clip, DecodeOptions(threads=2)) as reader:
            next(iter(reader.decode()))
        del reader
    gc.collect()
    assert (process.num_fds(), process.num_threads()) == before


def test_frames_outlive_their_reader(tmp_path: Path) -> None:
    original = media.picture("yuv420p", 64, 48, is_noise=True)
    expected = media.samples(original)
    _, frames, _ = decode(media.write_clip(tmp_path / "clip.mkv", [original]))
    gc.collect()
    planes = frames[0].planes
    del frames
    gc.collect()
    assert all(np.array_equal(a, b) for a, b in zip(planes, expected, strict=True))


def test_a_reader_decodes_once(tmp_path: Path) -> None:
    with VideoReader(media.write_clip(tmp_path / "clip.mkv", media.movie(2))) as reader:
        list(reader.decode())
        with pytest.raises(ValueError, match="decodes once"):
            reader.decode()


def test_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    at_front = {"movflags": "faststart"}
    clip = media.write_clip(tmp_path / "cut.mp4", media.movie(30), codec="libx264", container_options=at_front)
    os.truncate(clip, clip.stat().st_size * 2 // 3)
    capfd.readouterr()
    decode(clip)
    assert capfd.readouterr() == ("", "")


@pytest.mark.real_clip
@pytest.mark.parametrize(
    ("real_clip", "num_frames", "cuts"),
    [
        ("carphone", 120, []),
        ("carphone_distorted", 120, []),
        ("single_face", 72, []),
        ("hand_over_mouth", 472, []),
        ("face_noface", 169, [72, 73]),  # to one black frame, and from it to the cartoon
        ("noface_face", 169, [96, 168]),  # to the face, and to one black frame
    ],
    indirect=["real_clip"],
)
def test_real_clips_have_their_frames_and_cuts(real_clip: Path, num_frames: int, cuts: list[int]) -> None:
    with VideoReader(real_clip) as reader:
        shots = [frame.shot for frame in reader.decode()]
        assert reader.losses == ()
        assert reader.info.num_frames == num_frames
    assert len(shots) == num_frames
    assert [i for i in range(1, len(shots)) if shots[i] != shots[i - 1]] == cuts


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory of Linux")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    clip = media.write_clip(tmp_path / "long.mkv", media.movie(8, 320, 240) * 40, codec="libx264", pts=range(320))
    process = psutil.Process()
    with VideoReader(clip) as reader:
        peaks = [process.memory_info().rss for _ in reader.decode()]
    assert max(peaks[200:]) - max(peaks[60:120]) < 8 << 20
