"""``vidrestore colorize``: colours for the faces of a grey video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidrestore.commands.common import (
    CodecOption,
    ConfigOption,
    CrfOption,
    DeviceOption,
    ExitStatus,
    JsonFlag,
    OutputOption,
    OverwriteFlag,
    PresetOption,
    QuietFlag,
    SettingsOption,
    SpeedOption,
    StrengthOption,
    config_of,
    progress_bar,
    signals_noted,
    tell_result,
)

__all__ = ["colorize_command"]


def colorize_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The grey, sepia or faded video.")],
    output: OutputOption,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    strength: StrengthOption = None,
    hold: Annotated[
        int,
        typer.Option("--hold", min=1, max=10_000, metavar="FRAMES", help="Frames over which colours are averaged."),
    ] = 48,
    device: DeviceOption = None,
    codec: CodecOption = None,
    crf: CrfOption = None,
    speed: SpeedOption = None,
    settings: SettingsOption = None,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Colour the faces of a grey video; brightness and everything else stay (wants codeformer_colorization)."""
    config = config_of(
        preset, config_file, settings, strength=strength, device=device, codec=codec, crf=crf, speed=speed
    )
    from vidrestore.pipeline import restore
    from vidrestore.tasks import Colorize

    task = Colorize(hold_frames=hold)
    with signals_noted() as check, progress_bar(source, show=not quiet and not as_json) as tell:
        result = restore(source, output, config, overwrite=overwrite, progress=tell, task=task, check=check)
    return tell_result(result, "coloured", quiet=quiet, as_json=as_json)
