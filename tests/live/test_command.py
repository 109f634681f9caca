from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import media
import pytest

from vidrestore.cli import main


def test_a_file_plays_once_into_a_recording_and_the_figures_are_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = media.write_clip(tmp_path / "clip.mkv", media.movie(15, 128, 96))
    out = tmp_path / "out.mkv"
    status = main(
        ["live", "--camera", str(clip), "--once", "--sink", str(out), "--json", "--device", "cpu", "--budget", "1000"]
    )
    figures = json.loads(capsys.readouterr().out)
    assert status == figures["exit_status"] == 0
    assert figures["camera"]["num_frames"] == 15
    assert figures["budget_ms"] == 1000
    with av.open(str(out)) as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    assert num_frames + figures["camera"]["dropped"] == 15


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--camera", "file:///etc/passwd"], 1, "unknown kind of address"),
        (["--camera", "absent.mp4", "--port", "0"], 2, "no such file"),
        (["--sink", "out.avi"], 1, "expected browser"),
        (["--size", "huge"], 1, "expected WxH"),
        (["--sink", "pipe:", "--json"], 1, "all of the standard output"),
        (["--budget", "-3"], 1, "latency_budget_ms"),
        (["--camera", "absent.mp4", "--sink", "v4l2:/dev/video-not-there"], 1, "modprobe"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    got = main(["live", *arguments])
    told = capsys.readouterr().err
    assert message in told
    assert got == status or (message == "modprobe" and got in (1, 4))
    assert "Traceback" not in told


def test_without_aiohttp_the_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    genuine = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aiohttp" else genuine(name))
    assert main(["live", "--camera", "clip.mp4"]) == 1
    assert "pip install 'vidrestore[live]'" in capsys.readouterr().err


def test_ctrl_c_ends_it_cleanly(face_clip: Path, tmp_path: Path) -> None:
    """A newcomer's command: it prints an address, which answers, and Ctrl-C ends it without a trace."""
    command = [sys.executable, "-m", "vidrestore", "live", "--camera", str(face_clip), "--port", "0", "--device", "cpu"]
    root = Path(__file__).parent.parent.parent
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("open http://127.0.0.1:")
            while not line.startswith("camera live"):
                line = process.stderr.readline()
                assert line
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.slow
def test_the_pictures_of_the_command_reach_another_process(face_clip: Path) -> None:
    """``vidrestore live --sink pipe: | player``: nothing but pictures comes out."""
    root = Path(__file__).parent.parent.parent
    live = [sys.executable, "-m", "vidrestore", "live", "--camera", str(face_clip), "--once", "--sink", "pipe:"]
    read = (
        "import av, sys; c = av.open(sys.stdin.buffer, format='nut');"
        "f = list(c.decode(video=0)); print(len(f), f[0].width, f[0].height)"
    )
    with subprocess.Popen(live, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as source:
        reader = subprocess.run(
            [sys.executable, "-c", read], stdin=source.stdout, capture_output=True, text=True, check=True, timeout=120
        )
    count, width, height = map(int, reader.stdout.split())
    assert (width, height) == (384, 256)
    assert 2 <= count <= 75
    assert source.returncode == 0
