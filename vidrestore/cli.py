"""The command line: flags -> config -> pipeline -> exit status. It and its commands/ are the only ones that print.

Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vidrestore import __version__
from vidrestore.commands import models, train
from vidrestore.commands.bench import bench_command
from vidrestore.commands.colorize import colorize_command
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
    Stopped,
    StrengthOption,
    config_of,
    errors,
    print_json,
    progress_bar,
    say,
    signals_noted,
    tell_result,
)
from vidrestore.commands.inpaint import inpaint_command
from vidrestore.commands.live import live_command
from vidrestore.commands.pictures import PICTURE_SUFFIXES, restore_pictures_and_tell
from vidrestore.commands.tracks import tracks_command
from vidrestore.config import RestoreConfig, load_config, preset_names, preset_text
from vidrestore.errors import (
    ConfigError,
    DecodeError,
    DeviceError,
    EncodeError,
    VidrestoreError,
    WeightsError,
    printable,
)
from vidrestore.loading import without_collecting

__all__ = ["ExitStatus", "main"]


app = typer.Typer(
    name="vidrestore",
    help="Restores the faces of old, small, noisy or compressed video; everything else stays as it is.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
presets_app = typer.Typer(help="Named settings.", no_args_is_help=True)
app.add_typer(presets_app, name="presets")
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.command("bench")(bench_command)
app.command("colorize")(colorize_command)
app.command("inpaint")(inpaint_command)
app.command("live")(live_command)
app.command("tracks")(tracks_command)


@app.command("restore")
def restore_command(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="The video to restore; or a picture, or a folder of them.")
    ],
    output: OutputOption,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    strength: StrengthOption = None,
    network: Annotated[str | None, typer.Option(help="Which network: compact, codeformer, sgpn, mobile, auto.")] = None,
    fidelity: Annotated[
        float | None, typer.Option("--fidelity", "-w", help="codeformer, mobile: 0 cleanest, 1 closest to the input.")
    ] = None,
    device: DeviceOption = None,
    codec: CodecOption = None,
    crf: CrfOption = None,
    speed: SpeedOption = None,
    settings: SettingsOption = None,
    aligned: Annotated[
        bool, typer.Option("--aligned", help="Pictures that are faces already, cut out as FFHQ's are, 512 px at best.")
    ] = False,
    sidecar: Annotated[
        bool,
        typer.Option("--sidecar", help="Write what was tracked to OUT.vidrestore.json, to be edited and replayed."),
    ] = False,
    tracks: Annotated[
        Path | None,
        typer.Option(
            "--tracks", metavar="FILE", help="Take faces and settings from a sidecar, without detecting anew."
        ),
    ] = None,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Restore the faces of a video, or of pictures."""
    replayed = None
    if tracks is not None:
        from vidrestore.sidecar import Sidecar

        replayed = Sidecar(tracks)
    config = config_of(
        preset,
        config_file,
        settings,
        strength=strength,
        network=network,
        w=fidelity,
        device=device,
        codec=codec,
        crf=crf,
        speed=speed,
        base=replayed.settings if replayed is not None else None,
    )
    if aligned or source.is_dir() or source.suffix.lower() in PICTURE_SUFFIXES:
        if sidecar or tracks is not None:
            raise ConfigError("--sidecar and --tracks are for videos, not for pictures")
        return restore_pictures_and_tell(
            source, output, config, is_aligned=aligned, overwrite=overwrite, quiet=quiet, as_json=as_json
        )
    with without_collecting(keeps=True):
        from vidrestore.pipeline import restore  # heavy: after the flags are known to be right

    with signals_noted() as check, progress_bar(source, show=not quiet and not as_json) as tell:
        result = restore(
            source,
            output,
            config,
            overwrite=overwrite,
            progress=tell,
            check=check,
            sidecar=sidecar,
            tracks=replayed,
        )
    return tell_result(result, "restored", quiet=quiet, as_json=as_json)


@app.command("probe")
def probe_command(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The video to look at.")],
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    device: DeviceOption = None,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Tell what is in a video, which faces are found, and what `restore` would do and take."""
    overrides = {"restore": {"device": device}} if device is not None else None
    config = load_config(preset=preset, file=config_file, overrides=overrides)
    with without_collecting(keeps=True):
        from vidrestore.inspection import probe

    report = probe(source, config)
    if as_json:
        print_json(dataclasses.asdict(report))
        return ExitStatus.WHOLE
    out = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in report.rows():
        table.add_row(name, Text(printable(value)))
    out.print(table)
    return ExitStatus.WHOLE


@app.command("doctor")
def doctor_command(as_json: JsonFlag = False) -> ExitStatus:
    """Check that everything a run needs is here, and say how to get what is missing."""
    from vidrestore.doctor import examine

    checks = examine()
    whole = all(check.is_good or check.is_optional for check in checks)
    status = ExitStatus.WHOLE if whole else ExitStatus.RESOURCE
    if as_json:
        print_json({"checks": [dataclasses.asdict(c) for c in checks], "exit_status": int(status)})
        return status
    out = Console(highlight=False)
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for check in checks:
        mark = Text("ok", "green") if check.is_good else Text("-" if check.is_optional else "MISSING", "yellow")
        advice = f"\n{check.advice}" if check.advice and not check.is_good else ""
        table.add_row(mark, check.name, Text(printable(check.found)) + advice)
    out.print(table)
    return status


@presets_app.command("list")
def presets_list_command(as_json: JsonFlag = False) -> ExitStatus:
    """Name the presets and whom they are for."""
    purposes = {name: preset_text(name).splitlines()[0].lstrip("# ") for name in preset_names()}
    if as_json:
        print_json(purposes)
        return ExitStatus.WHOLE
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, purpose in purposes.items():
        table.add_row(name, purpose)
    Console(highlight=False).print(table)
    return ExitStatus.WHOLE


@presets_app.command("show")
def presets_show_command(
    name: Annotated[str, typer.Argument(help="A preset's name.")],
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Show every setting that a preset leads to; those it changes are marked."""
    config = load_config(preset=name)
    if as_json:
        print_json(config.as_dict())
        return ExitStatus.WHOLE
    default = RestoreConfig().as_dict()
    lines = [preset_text(name).splitlines()[0]]
    for stage, values in config.as_dict().items():
        lines += ["", f"[{stage}]"]
        for key, value in values.items():
            mark = "" if value == default[stage][key] else f"    # default: {json.dumps(default[stage][key])}"
            text = "# " + key + ": the codec's own" if value is None else f"{key} = {json.dumps(value)}"
            lines.append(text + mark)
    typer.echo("\n".join(lines))
    return ExitStatus.WHOLE


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"vidrestore {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Runs a command and gives its exit status; ``vidrestore`` in the shell."""
    if arguments is None:  # a process of our own
        # waiting OpenMP threads sleep: the stages beside the network need the core that they would spin on
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        arguments = sys.argv[1:]
    as_json = "--json" in arguments
    try:
        status = app(args=arguments, prog_name="vidrestore", standalone_mode=False)
        return int(status) if isinstance(status, int) else int(ExitStatus.WHOLE)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.TyperException, VidrestoreError, OSError, MemoryError) as error:
        status = exit_status_of(error)
        _report(error, status, as_json=as_json)
        return int(status)
    except Stopped as stopped:
        word = "terminated" if stopped.status == ExitStatus.TERMINATED else "interrupted"
        _report(f"{word}; nothing half-written was left", stopped.status, as_json=as_json)
        return int(stopped.status)
    except (KeyboardInterrupt, typer.Abort):
        return int(ExitStatus.INTERRUPTED)
    except Exception as error:  # noqa: BLE001, the last resort: a defect of ours, told as one
        errors.print(Text(traceback.format_exc().rstrip()))
        message = f"internal error, please report it with the lines above: {type(error).__name__}: {error}"
        _report(message, ExitStatus.INTERNAL, as_json=as_json)
        return int(ExitStatus.INTERNAL)


def exit_status_of(error: BaseException) -> ExitStatus:
    """The exit status that an error leads to."""
    if isinstance(error, (typer.TyperException, ConfigError)):
        return ExitStatus.USAGE
    if isinstance(error, DecodeError):
        return ExitStatus.INPUT
    if isinstance(error, EncodeError):  # the world refused (disk, permission), or the name was wrong
        return ExitStatus.RESOURCE if isinstance(error.__cause__, OSError) else ExitStatus.USAGE
    if isinstance(error, (DeviceError, WeightsError, OSError, MemoryError)):
        return ExitStatus.RESOURCE
    return ExitStatus.INTERNAL


def _report(error: BaseException | str, status: ExitStatus, *, as_json: bool) -> None:
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    message = message or type(error).__name__
    if isinstance(error, MemoryError):
        message = f"out of memory {message}"
    if as_json:
        kind = error if isinstance(error, str) else type(error).__name__
        print_json({"error": printable(message), "kind": kind, "exit_status": int(status)})
    say(message, head="vidrestore: ", style="red")


if __name__ == "__main__":
    sys.exit(main())
