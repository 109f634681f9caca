"""Sound, subtitles, chapters and the rest: every packet as it was, in step with the pictures."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media
import psutil
import pytest
from av.stream import Disposition

from vidrestore.config import EncodeOptions
from vidrestore.decode.reader import VideoReader
from vidrestore.decode.source import CONTAINERS as READERS_DEMUXERS
from vidrestore.encode.streams import DEMUXERS
from vidrestore.encode.writer import VideoWriter, WrittenVideo
from vidrestore.errors import EncodeError

FONT = bytes(range(256)) * 30
CHAPTERS = [
    {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "first"}},
    {"id": 2, "start": 400, "end": 1200, "time_base": Fraction(1, 1000), "metadata": {"title": "second"}},
]
COMMENT = Disposition.comment | Disposition.hearing_impaired
WORDS = [(0, 300, "Hello <i>there</i>"), (400, 200, "and good bye"), (900, 100, "äöü, 漢字")]


def restore(source: Path, target: Path, **options: Any) -> WrittenVideo:
    made = EncodeOptions(speed="ultrafast", **options)
    with VideoReader(source) as reader, VideoWriter(target, reader.info, made, source=source) as writer:
        for frame in reader.decode():
            writer.write(frame)
    assert writer.result is not None
    return writer.result


def everything(path: Path, audio: list[str], subtitle: str = "subrip", num_frames: int = 30) -> Path:
    """A Matroska file with all kinds of streams, two languages and a font."""
    with av.open(path, "w") as container:
        container.metadata["title"] = "A title"
        container.set_chapters(CHAPTERS)
        video: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "bf": "2"})
        video.codec_context.width, video.codec_context.height = 64, 48
        tones = [media._add_tone(container, name) for name in audio]
        for tone, language in zip(tones, ("deu", "eng"), strict=False):
            tone.metadata["language"] = language
            tone.disposition = Disposition.default if language == "deu" else COMMENT
        words: Any = container.add_mux_stream(subtitle, time_base=Fraction(1, 1000))
        words.metadata["language"] = "fra"
        container.add_attachment("font.ttf", "application/x-truetype-font", FONT)
        container.start_encoding()
        for start, duration, text in WORDS:
            packet = av.Packet(text.encode())
            packet.pts = packet.dts = start
            packet.duration, packet.time_base, packet.stream, packet.is_keyframe = (
                duration,
                Fraction(1, 1000),
                words,
                True,
            )
            container.mux(packet)
        for i, frame in enumerate(media.movie(num_frames)):
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for i, tone in enumerate(tones):
            media._write_tone(container, tone, num_frames / 25, 330.0 * (i + 1))
    return path


ASS = b"[Script Info]\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n[Events]\nFormat: Text\n"


def with_subtitles_in_mp4(path: Path) -> Path:
    plain = media.write_clip(path.with_name("plain.mp4"), media.movie(30), codec="libx264", audio=["aac"])
    with av.open(plain) as old, av.open(path, "w") as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        words: Any = new.add_stream("mov_text")
        words.codec_context.subtitle_header = ASS
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream_index]
                new.mux(packet)
        for start, duration, text in WORDS:
            content = text.encode()
            made = av.Packet(len(content).to_bytes(2, "big") + content)
            made.pts = made.dts = start
            made.duration, made.time_base, made.stream = duration, Fraction(1, 1000), words
            new.mux(made)
    return path


def close(a: list[tuple[bytes, Fraction | None]], b: list[tuple[bytes, Fraction | None]], tick: Fraction) -> bool:
    """Payloads equal, times within one tick."""
    return [p for p, _ in a] == [p for p, _ in b] and all(
        x is not None and y is not None and abs(x - y) <= tick for (_, x), (_, y) in zip(a, b, strict=True)
    )


def test_matroska_keeps_everything(tmp_path: Path) -> None:
    source = everything(tmp_path / "in.mkv", ["aac", "libopus"])
    result = restore(source, tmp_path / "out.mkv")
    assert (result.copied, result.skipped) == ({"audio": 2, "subtitle": 1, "attachment": 1}, ())
    for kind, index in (("audio", 0), ("audio", 1), ("subtitle", 0)):
        before, after = media.packets(source, kind, index), media.packets(tmp_path / "out.mkv", kind, index)
        assert len(before) > 2
        assert close(before, after, Fraction(1, 1000))
    with av.open(tmp_path / "out.mkv") as made:
        assert made.metadata["title"] == "A title"
        assert [s.language for s in made.streams if s.type in ("audio", "subtitle")] == ["deu", "eng", "fra"]
        assert [s.disposition for s in made.streams.audio] == [Disposition.default, COMMENT]
        assert [(c["start"], c["end"], c["metadata"]) for c in made.chapters()] == [
            (c["start"] * 10**6, c["end"] * 10**6, c["metadata"]) for c in CHAPTERS
        ]
        (font,) = made.streams.attachments
        assert (font.name, font.mimetype, font.data) == ("font.ttf", "application/x-truetype-font", FONT)


@pytest.mark.parametrize("name", ["out.mp4", "out.mov", "out.mkv", "out.ts"])
def test_audio_packets_are_copied_bit_for_bit(tmp_path: Path, name: str) -> None:
    source = media.write_clip(tmp_path / "in.mp4", media.movie(30), codec="libx264", audio=["aac", "ac3"])
    result = restore(source, tmp_path / name)
    assert (result.copied, result.skipped) == ({"audio": 2}, ())
    for index in range(2):
        before, after = media.packets(source, "audio", index), media.packets(tmp_path / name, "audio", index)
        if name.endswith(".ts"):
            # AAC gets its ADTS header of 7 bytes; all times are moved by the same, since B-frames start before zero
            assert [p[-len(q) :] for (p, _), (q, _) in zip(after, before, strict=True)] == [q for q, _ in before]
            moves = [b - a for (_, a), (_, b) in zip(before, after, strict=True) if a is not None and b is not None]
            assert max(moves) - min(moves) <= Fraction(2, 90000)
            continue
        # Matroska has no times before zero. The encoder's run-in is kept apart where its length is known, which it is
        # of an MP4 from FFmpeg 9 on; else it is moved to zero.
        if name.endswith(".mkv") and after[0][1] == 0:
            before = [(p, max(t, Fraction(0)) if t is not None else t) for p, t in before]
        assert close(before, after, Fraction(1, 1000))
        assert [duration for duration in durations(tmp_path / name, index) if duration <= 0] == []


def durations(path: Path, index: int) -> list[int]:
    with av.open(path) as container:
        return [p.duration or 0 for p in container.demux(container.streams.audio[index]) if p.size]


@pytest.mark.parametrize(("name", "codec"), [("out.mkv", "h264"), ("out.mkv", "ffv1"), ("out.mp4", "h264")])
def test_pictures_keep_their_times_beside_sound_that_starts_early(tmp_path: Path, name: str, codec: Any) -> None:
    source = media.write_clip(tmp_path / "in.mp4", media.movie(12), codec="libx264", audio=["aac"])
    assert min(t for _, t in media.packets(source, "audio") if t is not None) < 0
    restore(source, tmp_path / name, codec=codec)
    with VideoReader(tmp_path / name) as reader:
        assert [frame.pts * frame.time_base for frame in reader.decode()] == [Fraction(i, 25) for i in range(12)]


def test_subtitles_change_their_wrapping_and_keep_their_words(tmp_path: Path) -> None:
    source = with_subtitles_in_mp4(tmp_path / "in.mp4")
    assert restore(source, tmp_path / "there.mkv").copied == {"audio": 1, "subtitle": 1}
    made = media.packets(tmp_path / "there.mkv", "subtitle")
    assert made == [(text.encode(), Fraction(start, 1000)) for start, _, text in WORDS]
    assert restore(tmp_path / "there.mkv", tmp_path / "back.mp4").copied == {"audio": 1, "subtitle": 1}
    back = [(p[2:], t) for p, t in media.packets(tmp_path / "back.mp4", "subtitle") if p[:2] != b"\0\0"]
    plain = [text.replace("<i>", "").replace("</i>", "").encode() for _, _, text in WORDS]
    assert back == [(text, Fraction(start, 1000)) for text, (start, _, _) in zip(plain, WORDS, strict=True)]


@pytest.mark.parametrize(
    ("name", "codec", "copied", "words"),
    [
        ("out.mp4", "h264", {"audio": 2, "subtitle": 1}, ["attachment"]),
        ("out.webm", "av1", {"audio": 1}, ["aac", "subrip", "attachment"]),
        ("out.ts", "h264", {"audio": 2}, ["subrip", "attachment"]),
        ("out.avi", "ffv1", {"audio": 1}, ["opus", "subrip", "attachment"]),
        ("out.mxf", "prores", {}, ["aac", "opus", "subrip", "attachment"]),
    ],
)
def test_what_a_container_cannot_hold_is_named(
    tmp_path: Path, name: str, codec: Any, copied: dict[str, int], words: list[str]
) -> None:
    source = everything(tmp_path / "in.mkv", ["aac", "libopus"])
    result = restore(source, tmp_path / name, codec=codec)
    assert result.copied == copied
    assert len(result.skipped) == len(words)
    for word, sentence in zip(words, result.skipped, strict=True):
        assert word in sentence
    with VideoReader(tmp_path / name) as reader:
        assert len(list(reader.decode())) == 30


def test_copying_can_be_switched_off(tmp_path: Path) -> None:
    source = everything(tmp_path / "in.mkv", ["aac"])
    assert restore(source, tmp_path / "out.mkv", copy_streams=False).copied == {}
    with av.open(tmp_path / "out.mkv") as made:
        assert len(made.streams) == 1


@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_cover_pictures_go_along(tmp_path: Path, name: str) -> None:
    jpeg: Any = av.CodecContext.create("mjpeg", "w")
    jpeg.width, jpeg.height, jpeg.pix_fmt, jpeg.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
    (image,) = [*jpeg.encode(media.picture("yuvj420p", 32, 32)), *jpeg.encode(None)][:1]
    source = tmp_path / "in.mp4"
    plain = media.write_clip(tmp_path / "plain.mp4", media.movie(5), codec="libx264")
    with av.open(plain) as old, av.open(source, "w") as new:
        video = new.add_stream_from_template(old.streams.video[0])
        cover: Any = new.add_stream("mjpeg", width=32, height=32, pix_fmt="yuvj420p")
        cover.disposition = Disposition.attached_pic
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                new.mux(packet)
        made = av.Packet(bytes(image))
        made.stream, made.pts, made.dts, made.is_keyframe = cover, 0, 0, True
        new.mux(made)
    assert restore(source, tmp_path / name).skipped == ()
    with av.open(tmp_path / name) as container:
        pictures = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        assert len(pictures) == 1
        assert bytes(next(p for p in container.demux(pictures[0]) if p.size)) == bytes(image)
    with VideoReader(tmp_path / name) as reader:
        assert len(list(reader.decode())) == 5


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.ts"])
@pytest.mark.parametrize("share", [0.4, 0.8])
def test_copying_a_cut_source_ends_where_its_data_ends(tmp_path: Path, name: str, share: float) -> None:
    source = media.write_clip(
        tmp_path / name,
        media.movie(50),
        codec="libx264",
        audio=["aac"],
        options={"g": "10"},
        container_options={"movflags": "faststart"} if name.endswith("mp4") else {},
    )
    os.truncate(source, int(source.stat().st_size * share))
    result = restore(source, tmp_path / "out.mkv")
    assert result.num_frames > 0
    before, after = media_until_damage(source), media.packets(tmp_path / "out.mkv", "audio")
    header = 7 if name.endswith("ts") else 0  # a transport stream's ADTS header becomes the track's
    assert [p for p, _ in after] == [p[header:] for p in before]


def media_until_damage(path: Path) -> list[bytes]:
    found = []
    with av.open(path) as container:
        try:
            for packet in container.demux(container.streams.audio):
                if packet.size and (packet.dts is not None or packet.pts is not None):
                    found.append(bytes(packet))
        except av.error.FFmpegError:
            pass
    return found


def test_a_long_silence_of_subtitles_does_not_hold_the_sound_up(tmp_path: Path) -> None:
    source = everything(tmp_path / "in.mkv", ["aac"], num_frames=300)
    restore(source, tmp_path / "out.mkv")
    places: dict[str, list[float]] = {"audio": [], "video": []}
    with av.open(tmp_path / "out.mkv") as made:
        for packet in made.demux():
            if packet.size and packet.stream.type in places and packet.pos is not None:
                places[packet.stream.type].append(packet.pos)
    # interleaved: neither kind lies in one piece at one end of the file
    assert max(places["video"]) > sorted(places["audio"])[len(places["audio"]) * 3 // 4]
    assert max(places["audio"]) > sorted(places["video"])[len(places["video"]) * 3 // 4]


def test_memory_stays_bounded_while_copying(tmp_path: Path) -> None:
    source = media.write_clip(
        tmp_path / "in.mkv", media.movie(8) * 75, codec="libx264", audio=["pcm_s16le"] * 4, pts=range(600)
    )
    process = psutil.Process()
    peaks = []
    made = EncodeOptions(speed="ultrafast")
    with VideoReader(source) as reader, VideoWriter(tmp_path / "out.mkv", reader.info, made, source=source) as writer:
        for frame in reader.decode():
            writer.write(frame)
            peaks.append(process.memory_info().rss)
    assert max(peaks[400:]) - max(peaks[150:250]) < 8 << 20


def test_tags_in_an_old_encoding_do_no_harm(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    everything(source, ["aac"], num_frames=3)
    content = source.read_bytes()
    assert content.count(b"A title") == 1
    source.write_bytes(content.replace(b"A title", b"A t\xeftle"))
    restore(source, tmp_path / "out.mkv")
    assert b"A t\xeftle" in (tmp_path / "out.mkv").read_bytes()


def test_the_copier_reads_what_the_reader_reads() -> None:
    assert DEMUXERS == READERS_DEMUXERS


def test_a_source_that_went_away_is_an_error_of_the_output(tmp_path: Path) -> None:
    source = media.write_clip(tmp_path / "in.mkv", media.movie(2))
    with VideoReader(source) as reader:
        frames = list(reader.decode())
        info = reader.info
    source.unlink()
    with (
        pytest.raises(EncodeError, match="No such file"),
        VideoWriter(tmp_path / "out.mkv", info, source=source) as writer,
    ):
        writer.write(frames[0])
    assert os.listdir(tmp_path) == []
