"""``vidrestore live``: a camera in, a restored picture out, while it happens."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from vidrestore.commands.common import (
    ConfigOption,
    DeviceOption,
    ExitStatus,
    JsonFlag,
    Stopped,
    errors,
    print_json,
    say,
    signals_noted,
)
from vidrestore.config import load_config
from vidrestore.errors import ConfigError, printable

if TYPE_CHECKING:
    from vidrestore.config import RestoreConfig
    from vidrestore.live.address import CameraAddress, SinkAddress
    from vidrestore.live.server import LiveServer
    from vidrestore.live.session import LiveSession
    from vidrestore.live.sinks import PipeWriter

__all__ = ["live_command"]


def live_command(
    camera: Annotated[
        str, typer.Option(help="A number, /dev/videoN, rtsp:// udp:// http:// ..., or a file that plays as a camera.")
    ] = "0",
    sink: Annotated[
        list[str] | None,
        typer.Option(
            help="browser, v4l2:/dev/videoN, virtualcam, pipe:, pipe:y4m, udp://HOST:PORT, or a new .mkv or .mp4; "
            "repeatable. Without it: browser."
        ),
    ] = None,
    preset: Annotated[str, typer.Option("--preset", "-p", help="Named settings; see `presets list`.")] = "live",
    config_file: ConfigOption = None,
    network: Annotated[str | None, typer.Option(help="Which network restores.")] = None,
    device: DeviceOption = None,
    budget: Annotated[float | None, typer.Option(help="Age in ms that a frame may have at the sink.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size to ask the camera for.")] = None,
    rate: Annotated[float | None, typer.Option(help="Frames per second to ask the camera for.")] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Left and right exchanged, as in a mirror.")] = False,
    once: Annotated[bool, typer.Option("--once", help="A file plays once instead of again and again.")] = False,
    folder: Annotated[
        Path, typer.Option(help="Where the page's snapshots, recordings and settings go; made when needed.")
    ] = Path("vidrestore-live"),
    host: Annotated[
        str, typer.Option(help="Address of the page's server; any but this machine's own asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port of the page's server; 0 takes a free one.")] = None,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Restore the faces of a camera, a stream or a playing file while it happens, and watch it in the browser."""
    flags = {
        ("restore", "network"): network,
        ("restore", "device"): device,
        ("live", "latency_budget_ms"): budget,
        ("live", "rate"): rate,
        ("live", "mirror"): mirror or None,
        **_size_flags(size),
    }
    overrides: dict[str, dict[str, Any]] = {}
    for (stage, key), value in flags.items():
        if value is not None:
            overrides.setdefault(stage, {})[key] = value
    config = load_config(preset=preset, file=config_file, overrides=overrides)
    from vidrestore.live.address import parse_camera, parse_sink

    address = parse_camera(camera)
    sinks = [parse_sink(one) for one in sink or ["browser"]]
    num_pipes = sum(one.kind == "pipe" for one in sinks)
    if num_pipes > 1 or (num_pipes and as_json):
        raise ConfigError("--sink pipe: takes all of the standard output; no second pipe and no --json beside it")
    if any(one.kind == "browser" for one in sinks):
        _need_aiohttp()
    with signals_noted() as check:
        session, server = _build(config, address, sinks, folder=folder, host=host, port=port, loops=not once)
        line = _StatusLine(session.figures, check)
        status = ExitStatus.WHOLE
        try:
            session.run(line.check)
        except Stopped as stopped:  # how a live run ends: everything is closed by now, so there is nothing to report
            status = stopped.status
        finally:
            line.end()
            if server is not None:
                server.close()
    if as_json:
        print_json(session.figures() | {"exit_status": int(status)})
    return status


def _build(
    config: RestoreConfig,
    camera: CameraAddress,
    addresses: list[SinkAddress],
    *,
    folder: Path,
    host: str,
    port: int | None,
    loops: bool,
) -> tuple[LiveSession, LiveServer | None]:
    """Puts the parts together; whatever fails, nothing stays open."""
    pipe = _own_standard_output() if any(one.kind == "pipe" for one in addresses) else None
    from vidrestore.live.capture import open_camera
    from vidrestore.live.session import LiveSession
    from vidrestore.live.sinks import Sink, make_sink

    sinks: list[Sink] = []
    try:
        for one in addresses:
            made = make_sink(one, config.encode, pipe=pipe)
            if made is not None:
                sinks.append(made)
        session = LiveSession(
            config,
            lambda pause: open_camera(camera, config.live, config.decode, loops=loops, pause=pause),
            sinks,
            folder=folder,
        )
        if all(one.kind != "browser" for one in addresses):
            return session, None
        from vidrestore.live.server import LiveServer

        server = LiveServer(session, config.live, host=host, port=port)
        session.add_sink(server.preview)
        say(f"open {server.address} in a browser; Ctrl-C ends it")
        return session, server
    except BaseException:
        for sink in sinks:
            sink.close()
        raise


def _size_flags(size: str | None) -> dict[tuple[str, str], Any]:
    if size is None:
        return {}
    width, x, height = size.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size {printable(size)}: expected WxH, such as 1280x720")
    return {("live", "width"): int(width), ("live", "height"): int(height)}


def _need_aiohttp() -> None:
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError(
            "the browser page wants the package aiohttp, which is not here: pip install 'vidrestore[live]'; "
            "or name another --sink"
        )


def _own_standard_output() -> PipeWriter:
    """Standard output for the pictures alone: what anybody else prints there goes to standard error from now on."""
    from vidrestore.live.sinks import PipeWriter

    if sys.stdout.isatty():
        raise ConfigError("--sink pipe: standard output is a terminal; send it to a program: ... | ffplay -")
    sys.stdout.flush()
    number = sys.stdout.fileno()
    own = os.dup(number)
    os.dup2(sys.stderr.fileno(), number)
    return PipeWriter(own)


class _StatusLine:
    """One line on the terminal that tells how it goes, told anew each second; nothing where there is no terminal."""

    def __init__(self, figures: Callable[[], dict[str, Any]], check: Callable[[], None]) -> None:
        self._figures, self._check = figures, check
        self._told_s = time.monotonic()
        self._was = ""

    def check(self) -> None:
        """Looks for signals, and tells."""
        self._check()
        now_s = time.monotonic()
        if now_s - self._told_s < 1.0:
            return
        self._told_s = now_s
        values = self._figures()
        camera, latency = values["camera"], values["stages"].get("latency")
        if camera["status"] != self._was:
            self._was = camera["status"]
            say(f"camera {self._was}: {camera['message'] or camera['description']}")
        if errors.is_terminal and latency is not None:
            text = (
                f"{values['rates']['shown']:.1f} of {values['rates']['camera']:.1f} frames/s, "
                f"latency {latency['p50']:.0f} ms (p95 {latency['p95']:.0f}), {camera['dropped']} dropped, "
                f"{values['faces']} faces, {values['rung']['name']}"
            )
            errors.print(Text(text[: errors.width - 1].ljust(errors.width - 1)), end="\r")

    def end(self) -> None:
        """Leaves the line."""
        if errors.is_terminal:
            errors.print()
