"""Files that are no videos: one sentence each, no crash, no hang, no network."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

import av
import media
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidrestore.decode import source
from vidrestore.decode.reader import VideoReader
from vidrestore.errors import DecodeError

CONCAT = "ffconcat version 1.0\nfile '{}'\nduration 1\n"
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


def refusal(path: Path) -> str:
    with pytest.raises(DecodeError) as caught:
        VideoReader(path)
    message = str(caught.value)
    assert message.isprintable()
    assert caught.value.path == os.fspath(path)
    return message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0" * 4096, "known container"),
        (bytes(i * 89 % 256 for i in range(9000)), "known container"),
        (b"hello, this is a text and no video\n" * 40, "known container"),
        (SDP.encode(), "known container"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 400, "known container|no video stream|no frame"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2\0\0\0\x08mdat", "index is missing"),
    ],
    ids=["empty", "zeros", "noise", "text", "sdp", "broken-mkv", "mp4-without-index"],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip"])
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=reason):
        VideoReader(path)
    refusal(path)


@pytest.mark.parametrize("script", [CONCAT, PLAYLIST], ids=["concat", "m3u8"])
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.txt"])
def test_lists_of_files_are_never_followed(tmp_path: Path, name: str, script: str) -> None:
    real = media.write_clip(tmp_path / "real.ts", media.movie(3), codec="libx264")
    path = tmp_path / name
    path.write_text(script.format(real), "utf-8")
    assert "known container" in refusal(path)


def test_missing_files_folders_and_pictures_are_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.mp4")
    assert "is a folder" in refusal(tmp_path)
    assert "not" in refusal(tmp_path / "nothing.mp4" / "below")
    media.write_clip(tmp_path / "still.png", media.movie(1, pix_fmt="gray"), codec="png", format="image2")
    assert "known container" in refusal(tmp_path / "still.png")


def test_a_name_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(DecodeError, match="no file name"):
        VideoReader("a\0b.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = media.write_clip(tmp_path / "secret.mkv", media.movie(1))
    path.chmod(0)
    assert "no permission" in refusal(path)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    messages: list[str] = []
    thread = threading.Thread(target=lambda: messages.append(refusal(tmp_path / "pipe.mp4")), daemon=True)
    thread.start()
    thread.join(10)
    assert messages
    assert "no regular file" in messages[0]


@pytest.mark.parametrize("name", ["tone.wav", "tone.m4a", "tone.mp3", "tone.flac", "tone.mka"])
def test_sound_alone_has_no_video_stream(tmp_path: Path, name: str) -> None:
    codec = {"wav": "pcm_s16le", "m4a": "aac", "mp3": "libmp3lame", "flac": "flac", "mka": "libopus"}
    path = tmp_path / name
    with av.open(path, "w") as container:
        stream = container.add_stream(codec[path.suffix[1:]], rate=48000)
        stream.codec_context.layout = "mono"
        kind = stream.codec_context.format.name
        dtype = {"f": np.float32, "s16": np.int16, "s32": np.int32}[kind.removesuffix("p").replace("flt", "f")]
        for start in range(0, 48000, 960):
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 960), dtype), format=kind, layout="mono")
            tone.sample_rate, tone.pts = 48000, start
            container.mux(stream.encode(tone))
        container.mux(stream.encode(None))
    assert "no video stream in it (found: audio)" in refusal(path)


def test_escape_bytes_of_a_name_never_reach_the_message(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31mred\nline\udce9.mp4"
    path.write_bytes(b"no video at all")
    message = refusal(path)
    assert "a\\x1b[31mred\\nline\\udce9.mp4" in message


def test_names_that_look_like_addresses_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media.write_clip(tmp_path / "plain.mkv", media.movie(2))
    monkeypatch.chdir(tmp_path)
    for name in ("http:plain.mkv", "concat:plain.mkv|plain.mkv", "-plain.mkv", "pipe:0", "a%03d.mkv"):
        os.link("plain.mkv", name)
        with VideoReader(name) as reader:
            assert len(list(reader.decode())) == 2


@pytest.mark.parametrize(("width", "height"), [(16385, 16), (16, 16400), (1 << 20, 1 << 20)])
def test_absurd_sizes_are_refused(width: int, height: int) -> None:
    with pytest.raises(DecodeError, match="at most 16384 a side"):
        source.check_size(width, height, "clip.mp4")


def test_a_file_that_claims_an_absurd_size_is_refused(tmp_path: Path) -> None:
    clip = media.write_clip(tmp_path / "clip.avi", media.movie(1, 64, 48), codec="rawvideo")
    content = clip.read_bytes()
    size = struct.pack("<ii", 64, 48)
    assert content.count(size) >= 2  # the headers of file and stream
    clip.write_bytes(content.replace(size, struct.pack("<ii", 50_000, 48)))
    assert "50000x48 pixels, at most 16384 a side" in refusal(clip)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["a.mp4", "a.mkv", "a.avi", "a.ts"]))
def test_damaged_files_decode_or_are_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    whole = whole_clip(tmp_path_factory, name)
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(len(content) // 4, len(content)))
    path = tmp_path_factory.getbasetemp() / f"damaged-{name}"
    path.write_bytes(content[:cut])
    try:
        with VideoReader(path) as reader:
            pts = [frame.pts for frame in reader.decode()]
    except DecodeError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert pts == sorted(set(pts))


CLIPS: dict[str, bytes] = {}


def whole_clip(factory: pytest.TempPathFactory, name: str) -> bytes:
    if name not in CLIPS:
        codec = "mpeg4" if name.endswith("avi") else "libx264"
        path = media.write_clip(factory.mktemp("whole") / name, media.movie(8), codec=codec, audio=["aac"])
        CLIPS[name] = path.read_bytes()
    return CLIPS[name]
