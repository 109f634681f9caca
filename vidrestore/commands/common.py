"""What the commands share: exit statuses, the consoles, signals, JSON, and options that several of them take.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from fractions import Fraction
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from vidrestore.errors import printable

__all__ = [
    "ConfigOption",
    "DeviceOption",
    "ExitStatus",
    "JsonFlag",
    "PresetOption",
    "Stopped",
    "errors",
    "print_json",
    "say",
    "signals_noted",
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
