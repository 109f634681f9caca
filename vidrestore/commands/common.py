"""What the commands share: exit statuses, the consoles, signals, JSON, and options that several of them take.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.text import Text

from vidrestore.config import RestoreConfig, load_config
from vidrestore.errors import ConfigError, printable

__all__ = [
    "CodecOption",
    "ConfigOption",
    "CrfOption",
    "DeviceOption",
    "ExitStatus",
    "JsonFlag",
    "OutputOption",
    "OverwriteFlag",
    "PresetOption",
    "QuietFlag",
    "SettingsOption",
    "SpeedOption",
    "Stopped",
    "StrengthOption",
    "config_of",
    "errors",
    "overrides_of",
    "print_json",
    "progress_bar",
    "say",
    "signals_noted",
    "tell_result",
]


class ExitStatus(IntEnum):
    """What the shell is told; documented in the README."""

    WHOLE = 0
    USAGE = 1
    INPUT = 2
    LOSSES = 3
    RESOURCE = 4
    INTERNAL = 5
    INTERRUPTED = 130
    TERMINATED = 143


class Stopped(BaseException):
    """Ctrl-C or SIGTERM arrived; unwinds everything, so that half-written files are removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = ExitStatus.TERMINATED if number == signal.SIGTERM else ExitStatus.INTERRUPTED


errors = Console(stderr=True, highlight=False)
"""Standard error."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
PresetOption = Annotated[str | None, typer.Option("--preset", "-p", help="Named settings; see `presets list`.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="A TOML file of settings, over the preset.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Where the result goes.")]
StrengthOption = Annotated[float | None, typer.Option(help="How much of the change is applied, 0 to 1.")]
CodecOption = Annotated[str | None, typer.Option(help="h264, hevc, av1, ffv1, prores or dnxhr.")]
CrfOption = Annotated[int | None, typer.Option(help="Quality of h264, hevc and av1; lower is better.")]
SpeedOption = Annotated[str | None, typer.Option(help="Encoder effort: ultrafast ... veryslow.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="STAGE.OPTION=VALUE", help="Any other option; repeatable.")
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]


@contextmanager
def signals_noted() -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM only set a flag; the function given raises when it is asked. The second signal raises at once.

    So no exception strikes in the middle of a lock, of a thread's start or of a file's creation.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        if len(noted) > 1:
            raise Stopped(number)

    def check() -> None:
        if noted:
            raise Stopped(noted[0])

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: the program that called us keeps its own handling
        yield check
        return
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message: str, *, head: str = "", style: str = "") -> None:
    """One line on standard error, never folded."""
    errors.print(Text(head, style) + Text(printable(message)), soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON value on standard output; arrays, fractions, paths and dataclasses as plain values."""
    sys.stdout.write(json.dumps(value, default=_plain, indent=2) + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def tell_result(result: Any, done: str, *, quiet: bool, as_json: bool) -> ExitStatus:
    """Shows what a run did and what it lost, and gives its exit status.

    Args:
        result: a ``RestoreResult``.
        done: what was done to the faces: restored, coloured.
        quiet: no summary; losses are told all the same.
        as_json: one JSON object in place of both.
    """
    status = ExitStatus.WHOLE if result.is_whole else ExitStatus.LOSSES
    if as_json:
        print_json(result.as_dict() | {"exit_status": int(status)})
        return status
    if not quiet:
        say(
            f"{result.output}: {result.num_frames} frames, {result.num_faces} faces of {result.num_people} people "
            f"{done} in {result.elapsed_s:.1f} s "
            f"({result.num_frames / max(result.elapsed_s, 1e-9):.1f} frames/s on {result.device})"
        )
    _warn_of_losses(result)
    return status


def _warn_of_losses(result: Any) -> None:
    for loss in result.losses:
        say(loss.message, head="lost: ", style="yellow")
    for skipped in result.skipped_streams:
        say(skipped, head="not copied: ", style="yellow")
    if result.num_kept_faces:
        say(f"{result.num_kept_faces} faces, on which the network failed", head="left as they were: ", style="yellow")


def config_of(
    preset: str | None,
    config_file: Path | None,
    settings: list[str] | None,
    *,
    strength: float | None = None,
    network: str | None = None,
    w: float | None = None,
    device: str | None = None,
    codec: str | None = None,
    crf: int | None = None,
    speed: str | None = None,
    base: Mapping[str, Mapping[str, Any]] | None = None,
) -> RestoreConfig:
    """Defaults < a run before < preset < file < ``--set`` < the other flags; None is a flag that was not given.

    Raises:
        ConfigError: an unknown name, or a value out of its bounds.
    """
    overrides = overrides_of(settings or [])
    for stage, key, value in [
        ("blend", "strength", strength),
        ("restore", "network", network),
        ("restore", "w", w),
        ("restore", "device", device),
        ("encode", "codec", codec),
        ("encode", "crf", crf),
        ("encode", "speed", speed),
    ]:
        if value is not None:
            overrides.setdefault(stage, {})[key] = value
    return load_config(base=base, preset=preset, file=config_file, overrides=overrides)


def overrides_of(settings: list[str]) -> dict[str, dict[str, Any]]:
    """``stage.option=value`` flags as nested values; a value is read as JSON where it is JSON, else as a word."""
    nested: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        stage, dot, key = name.strip().partition(".")
        if not equals or not dot or not key:
            raise ConfigError(f"--set {setting}: expected STAGE.OPTION=VALUE, such as --set track.lookahead=8")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        nested.setdefault(stage, {})[key] = value
    return nested


@contextmanager
def progress_bar(source: Path, *, show: bool) -> Iterator[Callable[[Any], None] | None]:
    if not show or not errors.is_terminal:
        yield None
        return
    bar = ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fps]:.1f} frames/s, {task.fields[faces]} faces"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    )
    task = bar.add_task(Text(printable(source.name)).plain, total=None, fps=0.0, faces=0)

    def tell(progress: Any) -> None:
        total = progress.expected_frames
        bar.update(
            task,
            completed=progress.num_frames,
            total=max(total, progress.num_frames) if total else None,
            fps=progress.num_frames / max(progress.elapsed_s, 1e-9),
            faces=progress.num_faces,
        )

    with bar:
        yield tell
