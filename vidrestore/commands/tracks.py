"""``vidrestore tracks``: who is in a video, how well they are followed, and a sidecar to choose them by."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vidrestore.commands.common import (
    ConfigOption,
    DeviceOption,
    ExitStatus,
    JsonFlag,
    OverwriteFlag,
    PresetOption,
    QuietFlag,
    SettingsOption,
    config_of,
    errors,
    print_json,
    say,
    signals_noted,
)

__all__ = ["tracks_command"]


def tracks_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The video to look at.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.json", help="A sidecar of the tracks, for `restore --tracks`."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw plots of each track and a contact sheet per person.")
    ] = None,
    checks_boxes: Annotated[
        bool, typer.Option("--check", help="Run the detector on every frame too, and tell how many boxes agree.")
    ] = False,
    drawn: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json", help="A sidecar of this video: the boxes under `manual` in it are faces to follow."
        ),
    ] = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    device: DeviceOption = None,
    settings: SettingsOption = None,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Tell who is in a video: tracks, measures, plots, contact sheets, and a sidecar to edit and replay."""
    config = config_of(preset, config_file, settings, device=device)
    from vidrestore.overview import look_over  # heavy: after the flags are known to be right

    boxes = None
    if drawn is not None:
        from vidrestore.sidecar import Sidecar

        boxes = Sidecar(drawn)

    def tell(done: int, expected: int | None) -> None:
        if errors.is_terminal and not quiet and not as_json:
            errors.print(f"{done} of {expected or '?'} frames", end="\r")

    with signals_noted() as check:
        overview = look_over(
            source,
            config,
            output=output,
            pictures=pictures,
            checks_boxes=checks_boxes,
            drawn=boxes,
            overwrite=overwrite,
            progress=tell,
            check=check,
        )
    status = ExitStatus.WHOLE if overview.is_whole else ExitStatus.LOSSES
    if as_json:
        print_json(dataclasses.asdict(overview) | {"exit_status": int(status)})
        return status
    _print(overview)
    if not quiet:
        for file in overview.files:
            say(file)
    for loss in overview.losses:
        say(loss.message, head="lost: ", style="yellow")
    return status


def _print(overview: Any) -> None:
    out = Console(highlight=False)
    looks = f"the detector looked {overview.detections_per_frame:.2f} times a frame"
    agree = "" if overview.boxes_matched is None else f", {100 * overview.boxes_matched:.1f} % of its boxes are matched"
    out.print(
        f"{overview.num_frames} frames, {overview.num_shots} shots, {len(overview.people)} people, {looks}{agree}",
        soft_wrap=True,
    )
    if not overview.people:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("id", "frames", "width", "confidence", "strength", "yaw", "jitter", "mouth", "identity"):
        table.add_column(name, justify="right")
    for person in overview.people:
        table.add_row(
            f"{person.id}",
            f"{person.first_frame}-{person.last_frame} ({person.num_frames})",
            f"{person.width_px:.0f} px",
            f"{person.score:.2f}",
            f"{person.strength:.2f}",
            _span(person.yaw_deg, "{:.0f}", "°"),
            "-" if person.jitter is None else f"{person.jitter:.2f} %",
            _span(person.mouth, "{:.2f}", ""),
            "-" if person.identity_spread is None else f"±{person.identity_spread:.2f}",
        )
    out.print(table)


def _span(span: tuple[float, float] | None, form: str, unit: str) -> str:
    return "-" if span is None else f"{form.format(span[0])}..{form.format(span[1])}{unit}"
