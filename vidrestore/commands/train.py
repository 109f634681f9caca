"""``vidrestore train``: the networks that come with the package, and those of the papers."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vidrestore.commands.common import ExitStatus, JsonFlag, errors, print_json, say

__all__ = ["app"]

app = typer.Typer(help="Train the networks that come with the package.", no_args_is_help=True)


@app.command("faces")
def train_faces_command(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.")],
    count: Annotated[int, typer.Option(help="How many faces.", min=1)] = 4000,
    start: Annotated[
        int, typer.Option(help="Number of the first face; a face depends on its number alone.", min=0)
    ] = 0,
) -> ExitStatus:
    """Make faces to train on, with the generator of the package random-face; those that are there are kept."""
    from vidrestore.train.faces import make_faces

    def tell(done: int, total: int) -> None:
        if errors.is_terminal or done % 100 == 0 or done == total:
            errors.print(f"{done} of {total} faces", end="\r" if errors.is_terminal else "\n")

    made = make_faces(folder, start, count, progress=tell)
    say(f"{folder}: {made} faces made, {count - made} were there")
    return ExitStatus.WHOLE


@app.command("compact")
def train_compact_command(
    folder: Annotated[Path, typer.Argument(help="Where checkpoint, log and weights go; a run that is there goes on.")],
    config_file: Annotated[str, typer.Option("--config", help="A TOML file, or a shipped one's name.")] = "compact",
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Train the compact network; Ctrl-C writes a checkpoint, and the same command goes on from it."""
    from vidrestore.train import loop

    path = Path(config_file)
    config = loop.load_config(path if path.suffix == ".toml" else loop.shipped_config(config_file))
    interrupted = False

    def tell(step: int, share: float, values: Mapping[str, float]) -> None:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        say(f"step {step}, {100 * share:.1f} %: {numbers}")

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        report = loop.train(config, folder, progress=None if as_json else tell, stop=lambda: interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        gains = ", ".join(
            f"{level} {degraded:.2f} -> {restored:.2f} dB" for level, (degraded, restored) in report.psnr.items()
        )
        say(f"{report.weights}: {report.steps} steps in {report.seconds:.0f} s; held-out faces: {gains}")
    return ExitStatus.INTERRUPTED if interrupted else ExitStatus.WHOLE
