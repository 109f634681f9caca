"""``vidrestore inpaint``: missing parts of faces are made up."""

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
from vidrestore.errors import ConfigError

__all__ = ["inpaint_command"]

WHITE_GROW_PX = 2  # a lossy encoder smears the edge of a white hole so far


def inpaint_command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The video with holes, scratches or stains.")],
    output: OutputOption,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="MASK", help="White is missing: a picture for all frames, or a video."),
    ] = None,
    white: Annotated[bool, typer.Option("--white", help="What is white in the video itself is missing.")] = False,
    grow: Annotated[
        int | None,
        typer.Option("--grow", min=0, max=100, metavar="PIXELS", help="Take holes larger by so much; 2 with --white."),
    ] = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    strength: StrengthOption = None,
    device: DeviceOption = None,
    codec: CodecOption = None,
    crf: CrfOption = None,
    speed: SpeedOption = None,
    settings: SettingsOption = None,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Make up the missing parts of faces; only what the mask covers changes (wants codeformer_inpainting)."""
    if (mask is not None) == white:
        raise ConfigError("say where the holes are: either --mask FILE or --white")
    config = config_of(
        preset, config_file, settings, strength=strength, device=device, codec=codec, crf=crf, speed=speed
    )
    from vidrestore.pipeline import restore
    from vidrestore.tasks import Inpaint

    task = Inpaint(mask, grow_px=grow if grow is not None else WHITE_GROW_PX if white else 0)
    with signals_noted() as check, progress_bar(source, show=not quiet and not as_json) as tell:
        result = restore(source, output, config, overwrite=overwrite, progress=tell, task=task, check=check)
    return tell_result(result, "completed", quiet=quiet, as_json=as_json)
