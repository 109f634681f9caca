"""Turns a published ``.pth`` into ``.safetensors``, in a child process that can do nothing else.

The child opens the file with ``weights_only=True``, which unpickles tensors and plain containers alone; should that
ever be got around, an audit hook ends the process at the first attempt to open a socket, start a program or write
anywhere but the target, and limits of the operating system bound its memory, time and output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.weights import ModelEntry, Receipt, WeightStore, sha256_of

__all__ = ["convert_weights", "shut_the_door"]

MEMORY_BYTES = 16 * 2**30  # address space: torch's own libraries take several GB of it
FILE_BYTES = 2 * 2**30
CPU_S = 300
FORBIDDEN = ("socket.", "subprocess.", "os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "ctypes.dlopen")


def convert_weights(source: Path, entry: ModelEntry, store: WeightStore, *, accepts_licence: bool) -> Receipt:
    """Converts a published file into the store.

    Args:
        source: the ``.pth`` file.
        entry: which model it is said to be.
        store: where the result goes.
        accepts_licence: the user has seen and accepted the licence; it is recorded, so once is enough.

    Raises:
        ConfigError: the licence restricts use and was not accepted.
        WeightsError: the file is missing, damaged, hostile, or of another network; nothing is left in the store.
    """
    if accepts_licence:
        store.accept(entry)
    if not store.has_accepted(entry):
        raise ConfigError(f"{entry.file} is under the {entry.licence}; accept it with --accept-licence")
    if not source.is_file():
        raise WeightsError(f"{source}: there is no such file")
    source_sha256 = sha256_of(source)
    store.folder.mkdir(parents=True, exist_ok=True)
    target = store.path(entry.name)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _run_child(source, part, entry)
        converted_sha256 = sha256_of(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    receipt = Receipt(entry.name, source.name, source_sha256, converted_sha256, licence_accepted=True)
    store.keep(receipt)
    return receipt


def _run_child(source: Path, part: Path, entry: ModelEntry) -> None:
    command = [sys.executable, "-I", "-c", "from vidrestore.conversion import child; child()"]
    arguments = [str(source.absolute()), str(part.absolute()), entry.name]
    try:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=2 * CPU_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{source}: reading it took too long, it is damaged or hostile") from error
    if done.returncode == 0:
        return
    try:
        message = json.loads(done.stdout)["error"]
    except (ValueError, KeyError, TypeError):
        lines = done.stderr.strip().splitlines()
        message = f"{source}: could not be read ({lines[-1] if lines else f'status {done.returncode}'})"
    raise WeightsError(message)


def shut_the_door(target: Path) -> None:
    """No sockets, no programs, no writing elsewhere, bounded memory, time and output; there is no way back."""
    try:
        import resource
    except ImportError:  # not on this system; the audit hook stays
        pass
    else:
        for kind, bound in (
            (resource.RLIMIT_AS, MEMORY_BYTES),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_CPU, CPU_S),
        ):
            resource.setrlimit(kind, (bound, bound))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            os._exit(13)
        if event == "open" and not isinstance(arguments[0], int):
            path, mode = arguments[0], arguments[1]
            if isinstance(mode, str) and set(mode) & set("wax+") and Path(os.fsdecode(path)) != target:
                os._exit(13)

    sys.addaudithook(watch)
