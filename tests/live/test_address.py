from __future__ import annotations

import pytest

from vidrestore.config import LiveOptions
from vidrestore.errors import ConfigError
from vidrestore.live.address import STREAMS, parse_camera, parse_sink, without_secrets
from vidrestore.live.capture import open_attempts


@pytest.mark.parametrize(
    ("text", "platform", "kind", "name"),
    [
        ("0", "linux", "device", "/dev/video0"),
        ("2", "darwin", "device", "2"),
        ("/dev/video7", "linux", "device", "/dev/video7"),
        ("video=Webcam", "win32", "device", "video=Webcam"),
        ("clip.mp4", "linux", "file", "clip.mp4"),
        ("video=Webcam", "linux", "file", "video=Webcam"),
        ("rtsp://camera/stream", "linux", "stream", "rtsp://camera/stream"),
        ("udp://127.0.0.1:5000", "linux", "stream", "udp://127.0.0.1:5000"),
    ],
)
def test_cameras_are_told_apart(text: str, platform: str, kind: str, name: str) -> None:
    camera = parse_camera(text, platform=platform)
    assert (camera.kind, camera.name) == (kind, name)


@pytest.mark.parametrize("text", ["file:///etc/passwd", "concat://a|b", "data://x", "gopher://x", "  "])
def test_other_schemes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--camera"):
        parse_camera(text)


def test_windows_wants_a_name() -> None:
    with pytest.raises(ConfigError, match="video=NAME"):
        parse_camera("0", platform="win32")


def test_a_password_is_never_shown() -> None:
    address = "rtsp://me:secret@camera:554/a?key=alsosecret"
    assert without_secrets(address) == parse_camera(address).shown == "rtsp://camera:554/a"
    with pytest.raises(ConfigError) as refused:
        parse_camera("sftp://me:secret@host/x")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("browser", "browser", ""),
        ("v4l2:/dev/video9", "v4l2", "/dev/video9"),
        ("pipe:", "pipe", "nut"),
        ("pipe:y4m", "pipe", "yuv4mpegpipe"),
        ("udp://127.0.0.1:5000", "udp", "udp://127.0.0.1:5000"),
        ("out.mkv", "file", "out.mkv"),
        ("virtualcam", "virtualcam", ""),
    ],
)
def test_sinks_are_told_apart(text: str, kind: str, name: str) -> None:
    sink = parse_sink(text)
    assert (sink.kind, sink.name) == (kind, name)


@pytest.mark.parametrize(
    "text", ["out.avi", "v4l2:/etc/passwd", "v4l2:/dev/../etc/x", "udp://host", "udp://h:1/p", "rtmp://x/y.mkv", ""]
)
def test_other_sinks_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_sink(text)


def test_no_stream_may_reach_a_file_or_a_list_of_addresses() -> None:
    for rules in STREAMS.values():
        assert not {"file", "pipe", "fd", "concat", "subfile", "data"} & set(rules.protocols.split(","))
        assert not {"hls", "dash", "concat", "ffmetadata", "image2", "lavfi"} & set(rules.demuxers.split(","))


def test_a_device_is_asked_for_what_was_wished_and_taken_as_it_is_in_the_end() -> None:
    live = LiveOptions(width=640, height=480, rate=15.0)
    first, second, last = open_attempts(parse_camera("0", platform="linux"), live, platform="linux")
    assert first.format == "v4l2"
    assert first.options == {"video_size": "640x480", "framerate": "15", "input_format": "mjpeg"}
    assert "input_format" not in second.options
    assert last.options == {}
    assert [a.format for a in open_attempts(parse_camera("1", platform="darwin"), live, platform="darwin")] == [
        "avfoundation"
    ] * 3
    assert open_attempts(parse_camera("video=A", platform="win32"), live, platform="win32")[0].format == "dshow"


def test_a_stream_is_opened_with_its_allow_lists() -> None:
    (attempt,) = open_attempts(parse_camera("rtsp://camera/x"), LiveOptions())
    assert attempt.options["protocol_whitelist"] == STREAMS["rtsp"].protocols
    assert attempt.options["format_whitelist"] == STREAMS["rtsp"].demuxers
    assert attempt.options["rtsp_transport"] == "tcp"
