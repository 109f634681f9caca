"""``vidrestore models``: weights that do not come with the package."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vidrestore.commands.common import ExitStatus, JsonFlag, print_json, say
from vidrestore.errors import printable

__all__ = ["app"]

app = typer.Typer(help="Weights that do not come with the package.", no_args_is_help=True)


@app.command("list")
def models_list_command(as_json: JsonFlag = False) -> ExitStatus:
    """Name the weight files that can be used, and which are here."""
    from vidrestore.restoration.weights import MODELS, WeightStore

    store = WeightStore()
    here = {name: store.receipt(name) is not None for name in MODELS}
    if as_json:
        print_json([dataclasses.asdict(entry) | {"is_here": here[name]} for name, entry in MODELS.items()])
        return ExitStatus.WHOLE
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("compact", "here", "ours, comes with the package, Apache-2.0")
    for name, entry in MODELS.items():
        terms = "" if entry.allows_commercial_use else " (non-commercial)"
        table.add_row(name, "here" if here[name] else "-", entry.purpose + terms)
    Console(highlight=False).print(table)
    return ExitStatus.WHOLE


@app.command("card")
def models_card_command(
    name: Annotated[str, typer.Argument(help="A model's name.")], as_json: JsonFlag = False
) -> ExitStatus:
    """Tell a model's origin, licence and checksum."""
    from vidrestore.restoration.weights import WeightStore, find_model

    if name == "compact":
        typer.echo((resources.files("vidrestore.restoration.data") / "compact.md").read_text("utf-8"))
        return ExitStatus.WHOLE
    entry, store = find_model(name), WeightStore()
    receipt = store.receipt(name)
    if as_json:
        print_json(dataclasses.asdict(entry) | {"receipt": receipt})
        return ExitStatus.WHOLE
    rows = {
        "model": entry.name,
        "purpose": entry.purpose,
        "file": entry.file,
        "address": entry.address,
        "licence": entry.licence,
        "commercial use": "allowed" if entry.allows_commercial_use else "not allowed",
        "SHA-256": entry.sha256 or "not known",
        "here": f"{store.path(name)}, from {receipt.source_file}" if receipt else "no",
    }
    for key, value in rows.items():
        typer.echo(printable(f"{key}: {value}"))
    return ExitStatus.WHOLE


@app.command("convert")
def models_convert_command(
    name: Annotated[str, typer.Argument(help="Which model the file is, such as codeformer.")],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The published .pth file.")],
    accept: Annotated[bool, typer.Option("--accept-licence", help="You have read the licence and accept it.")] = False,
) -> ExitStatus:
    """Read a published weight file, once and safely, into a form that runs can load."""
    from vidrestore.restoration.convert import convert_weights
    from vidrestore.restoration.weights import WeightStore, find_model

    entry, store = find_model(name), WeightStore()
    if not entry.allows_commercial_use:
        say(f"{entry.file} is under the {entry.licence}")
    receipt = convert_weights(source, entry, store, accepts_licence=accept)
    if entry.sha256 is not None and receipt.source_sha256 != entry.sha256:
        say(f"its SHA-256 is {receipt.source_sha256}, others saw {entry.sha256}", head="note: ", style="yellow")
    say(f"{store.path(name)}: ready; use it with --network {entry.network}")
    return ExitStatus.WHOLE


@app.command("verify")
def models_verify_command() -> ExitStatus:
    """Compare the converted files with what was recorded when they were made."""
    from vidrestore.restoration.weights import MODELS, WeightStore

    store = WeightStore()
    for name in MODELS:
        if store.receipt(name) is not None:
            store.verify(name)
            say(f"{name}: unchanged")
    return ExitStatus.WHOLE
