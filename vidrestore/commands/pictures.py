"""The part of ``vidrestore restore`` that takes pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from vidrestore.commands.common import ExitStatus, errors, print_json, say, signals_noted
from vidrestore.config import RestoreConfig

__all__ = ["PICTURE_SUFFIXES", "restore_pictures_and_tell"]

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def restore_pictures_and_tell(
    source: Path,
    output: Path,
    config: RestoreConfig,
    *,
    is_aligned: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> ExitStatus:
    """Restores pictures, shows what became of them, and gives the exit status."""
    from vidrestore.pictures import restore_pictures

    with signals_noted() as check, _bar(show=not quiet and not as_json) as tell:
        result = restore_pictures(
            source, output, config, is_aligned=is_aligned, overwrite=overwrite, progress=tell, check=check
        )
    status = ExitStatus.WHOLE if result.is_whole else ExitStatus.LOSSES
    if as_json:
        print_json(result.as_dict() | {"exit_status": int(status)})
        return status
    if not quiet:
        without = f", {result.num_without_face} without a face" if result.num_without_face else ""
        say(
            f"{result.output}: {result.num_pictures} pictures{without}, {result.num_faces} faces restored in "
            f"{result.elapsed_s:.1f} s on {result.device}"
        )
    for _, message in result.failures:
        say(message, head="left out: ", style="yellow")
    return status


@contextmanager
def _bar(*, show: bool) -> Iterator[Callable[[int, int], None] | None]:
    if not show or not errors.is_terminal:
        yield None
        return
    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with ProgressBar(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
