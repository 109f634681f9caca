"""``vidrestore bench``: the figures of this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from vidrestore.commands.common import (
    ConfigOption,
    DeviceOption,
    ExitStatus,
    JsonFlag,
    PresetOption,
    SettingsOption,
    config_of,
    print_json,
    signals_noted,
)

if TYPE_CHECKING:
    from vidrestore.bench import BenchReport

__all__ = ["bench_command"]


def bench_command(
    clip: Annotated[Path | None, typer.Argument(metavar="[CLIP]", help="A video to run as a whole as well.")] = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    network: Annotated[str | None, typer.Option(help="Which network, as in `restore`.")] = None,
    device: DeviceOption = None,
    settings: SettingsOption = None,
    seconds: Annotated[float, typer.Option(min=0.05, max=600.0, help="For each line of the table.")] = 2.0,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Measure how fast this machine is: the network, cutting faces out and putting them back, and a clip."""
    config = config_of(preset, config_file, settings, network=network, device=device)
    from vidrestore.bench import bench  # heavy: after the flags are known to be right

    with signals_noted() as check:
        report = bench(config, clip, part_s=seconds, check=check)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _show(report)
    return ExitStatus.WHOLE


def _show(report: BenchReport) -> None:
    out = Console(highlight=False)
    out.print(f"{report.device}, {report.cores} cores")
    if report.load_average is not None and report.load_average > 0.5:
        out.print(f"something else was running (load {report.load_average:.1f}): the figures are too low")
    table = Table(title=f"{report.network}, {report.size_px} px", box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name in ("batch", "ms a face", "faces/s"):
        table.add_column(name, justify="right")
    for line in report.networks:
        table.add_row(str(line.batch), f"{line.ms_per_face:.1f}", f"{line.faces_per_second:.1f}")
    out.print(table)
    table = Table(title="one face, on the CPU", box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name in ("frame", "face px", "cut out, ms", "put back, ms"):
        table.add_column(name, justify="right")
    for row in report.kernels:
        table.add_row(f"{row.width}x{row.height}", str(row.face_px), f"{row.sample_ms:.1f}", f"{row.composite_ms:.1f}")
    out.print(table)
    if report.clip is None:
        return
    clip = report.clip
    table = Table(
        title=f"{clip.num_frames} frames, {clip.num_faces} faces in {clip.elapsed_s:.1f} s: "
        f"{clip.frames_per_second:.1f} frames/s",
        box=None,
        padding=(0, 2, 0, 0),
        title_justify="left",
    )
    for name in ("stage", "at work, s", "without input, s", "without room, s"):
        table.add_column(name, justify="right")
    for stage, spent in clip.stages.items():
        table.add_row(stage, f"{spent.busy_s:.2f}", f"{spent.starved_s:.2f}", f"{spent.blocked_s:.2f}")
    out.print(table)
