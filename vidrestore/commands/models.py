"""``vidrestore models``: weights that do not come with the package."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from vidrestore.commands.common import ExitStatus, JsonFlag, errors, print_json, say, signals_noted
from vidrestore.errors import ConfigError, WeightsError, printable

if TYPE_CHECKING:
    from vidrestore.restoration.weights import ModelEntry, WeightStore

__all__ = ["app"]

AcceptOption = Annotated[bool, typer.Option("--accept-licence", help="You have read the licence and accept it.")]

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
    for name, place in _ours().items():
        table.add_row(
            name, place, "ours, comes with the package, Apache-2.0" if place == "here" else "ours, not trained"
        )
    for name, entry in MODELS.items():
        terms = "" if entry.allows_commercial_use else " (non-commercial)"
        table.add_row(name, "here" if here[name] else "-", entry.purpose + terms)
    Console(highlight=False).print(table)
    return ExitStatus.WHOLE


def _ours() -> dict[str, str]:
    """Our own networks, and whether their weights came with the package."""
    data = resources.files("vidrestore.restoration.data")
    return {name: "here" if (data / f"{name}.safetensors").is_file() else "-" for name in ("compact", "mobile")}


@app.command("card")
def models_card_command(
    name: Annotated[str, typer.Argument(help="A model's name.")], as_json: JsonFlag = False
) -> ExitStatus:
    """Tell a model's origin, licence and checksum."""
    from vidrestore.restoration.weights import WeightStore, find_model

    if name in _ours():
        typer.echo((resources.files("vidrestore.restoration.data") / f"{name}.md").read_text("utf-8"))
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
        "licence accepted": "yes" if store.has_accepted(entry) else "no",
        "commercial use": "allowed" if entry.allows_commercial_use else "not allowed",
        "SHA-256": entry.sha256 or "not known",
        "for": entry.use,
        "here": f"{store.path(name)}, from {receipt.source_file}" if receipt else "no",
    }
    for key, value in rows.items():
        typer.echo(printable(f"{key}: {value}"))
    return ExitStatus.WHOLE


@app.command("convert")
def models_convert_command(
    name: Annotated[str, typer.Argument(help="Which model the file is, such as codeformer.")],
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The published .pth file.")],
    accept: AcceptOption = False,
) -> ExitStatus:
    """Read a published weight file, once and safely, into a form that runs can load."""
    from vidrestore.restoration.convert import convert_weights
    from vidrestore.restoration.weights import WeightStore, find_model

    entry, store = find_model(name), WeightStore()
    _accept_licence(entry, store, accept=accept)
    receipt = convert_weights(source, entry, store, accepts_licence=accept)
    if entry.sha256 is not None and receipt.source_sha256 != entry.sha256:
        say(f"its SHA-256 is {receipt.source_sha256}, others saw {entry.sha256}", head="note: ", style="yellow")
    say(f"{store.path(name)}: ready; for {entry.use}")
    return ExitStatus.WHOLE


@app.command("pull")
def models_pull_command(
    name: Annotated[str, typer.Argument(help="Which model, such as codeformer.")],
    accept: AcceptOption = False,
    address: Annotated[
        str | None, typer.Option("--from", metavar="ADDRESS", help="A mirror to fetch the official file from.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", envvar="VIDRESTORE_OFFLINE", help="Open no connection; fail instead.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Fetch it although it is here.")] = False,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Fetch a published weight file from its authors, check it, and convert it; the only command that goes online."""
    from vidrestore.download import download
    from vidrestore.restoration.convert import convert_weights
    from vidrestore.restoration.weights import WeightStore, find_model, missing

    entry, store = find_model(name), WeightStore()
    receipt = store.receipt(name)
    if receipt is None or again:
        if offline:
            raise WeightsError(f"{entry.file} is not here, and --offline forbids to fetch it from {entry.address}")
        if not entry.can_be_pulled and address is None:
            raise ConfigError(f"{entry.file} has no address of its own; {missing(entry)}")
        _accept_licence(entry, store, accept=accept)
        source = store.folder / "downloads" / entry.file
        source.parent.mkdir(parents=True, exist_ok=True)
        expected = entry.sha256 or (receipt.source_sha256 if receipt else None)
        with signals_noted() as check, _transfer_bar(entry.file, show=not as_json) as tell:
            download(
                address or entry.address,
                source,
                sha256=expected,
                num_bytes=entry.num_bytes,
                progress=tell,
                check=check,
            )
        try:
            receipt = convert_weights(source, entry, store, accepts_licence=accept)
        finally:
            source.unlink(missing_ok=True)
        if entry.sha256 is None:
            say(f"nobody states its SHA-256; {receipt.source_sha256} is recorded", head="note: ", style="yellow")
    if as_json:
        print_json(dataclasses.asdict(receipt) | {"path": store.path(name)})
    else:
        say(f"{store.path(name)}: ready; for {entry.use}")
    return ExitStatus.WHOLE


def _accept_licence(entry: ModelEntry, store: WeightStore, *, accept: bool) -> None:
    """Shows a licence that restricts use and asks, unless it was accepted before; a script has to say so itself."""
    if store.has_accepted(entry):
        return
    say(f"{entry.file} is under the {entry.licence}")
    if accept or (sys.stdin.isatty() and typer.confirm("Do you accept it?", err=True)):
        store.accept(entry)
        return
    raise ConfigError(f"the licence of {entry.file} has to be accepted once: add --accept-licence")


@contextmanager
def _transfer_bar(name: str, *, show: bool) -> Iterator[Callable[[int, int | None], None] | None]:
    if not show or not errors.is_terminal:
        yield None
        return
    with ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=errors,
        transient=True,
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda here, whole: bar.update(task, completed=here, total=whole)


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
