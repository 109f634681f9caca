"""Weight files that do not come with the package: what they are, under which licence, and where they are kept.

A published ``.pth`` is a pickle, which can run code; it is never opened by a run. ``models convert`` reads it once, in
a child process that may do nothing else (``convert.py``), and leaves a ``.safetensors`` in the store, which is all that
a run loads. A restricted licence is shown and has to be accepted once per file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidrestore.config import nearest
from vidrestore.errors import ConfigError, WeightsError

__all__ = ["MODELS", "ModelEntry", "Receipt", "WeightStore", "default_folder", "find_model", "sha256_of"]

S_LAB = (
    "S-Lab License 1.0: redistribution and use for non-commercial purposes only; "
    "commercial use needs the permission of its contributors"
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A published weight file."""

    name: str
    """What the commands call it."""
    network: str
    """Value of ``restore.network`` that uses it."""
    file: str
    """Its official file name."""
    address: str
    """Where its authors publish it."""
    licence: str
    allows_commercial_use: bool
    num_bytes: int | None
    """Size in bytes, None if the authors do not state it and nobody was seen to."""
    sha256: str | None
    """SHA-256 as seen in public code of third parties; no publisher states one. None: recorded on first use."""
    purpose: str


MODELS = {
    "codeformer": ModelEntry(
        name="codeformer",
        network="codeformer",
        file="codeformer.pth",
        address="https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
        licence=S_LAB,
        allows_commercial_use=False,
        num_bytes=376637898,
        sha256="1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        purpose="CodeFormer (Zhou et al., NeurIPS 2022): blind face restoration at 512 pixels",
    )
}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is known of a converted file; kept beside it as JSON."""

    name: str
    source_file: str
    """Name of the file that was converted."""
    source_sha256: str
    converted_sha256: str
    licence_accepted: bool


def find_model(name: str) -> ModelEntry:
    """The entry of that name.

    Raises:
        ConfigError: there is none; the nearest is offered.
    """
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}, {nearest(name, list(MODELS))}")
    return MODELS[name]


def default_folder() -> Path:
    """Where converted weights are kept unless a program says otherwise: the user's data folder."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "vidrestore" / "weights"


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error


class WeightStore:
    """A folder of converted weights.

    Args:
        folder: made when the first file comes; None is :func:`default_folder`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else default_folder()

    def path(self, name: str) -> Path:
        """Where a model's converted file lies or would lie."""
        return self.folder / f"{find_model(name).name}.safetensors"

    def receipt(self, name: str) -> Receipt | None:
        """What is known of a model's converted file, or None where there is none.

        Raises:
            WeightsError: the receipt is damaged.
        """
        path = self.path(name).with_suffix(".json")
        if not path.is_file() or not self.path(name).is_file():
            return None
        try:
            return Receipt(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{path}: is damaged; convert {find_model(name).file} again") from error

    def keep(self, receipt: Receipt) -> None:
        """Writes the receipt of a file that was just put in place."""
        target = self.path(receipt.name).with_suffix(".json")
        part = target.with_suffix(".json.part")
        part.write_text(json.dumps(asdict(receipt), indent=1) + "\n", "utf-8")
        os.replace(part, target)

    def verify(self, name: str) -> Receipt:
        """Compares a converted file with what was recorded when it was made.

        Raises:
            WeightsError: it is missing or has changed.
        """
        receipt = self.receipt(name)
        if receipt is None:
            raise WeightsError(missing(find_model(name)))
        found = sha256_of(self.path(name))
        if found != receipt.converted_sha256:
            raise WeightsError(
                f"{self.path(name)}: has changed since it was converted (SHA-256 {found}, recorded "
                f"{receipt.converted_sha256}); convert {find_model(name).file} again"
            )
        return receipt

    def load(self, name: str) -> Mapping[str, Tensor]:
        """The tensors of a converted file, on the CPU.

        Raises:
            WeightsError: it is missing, or no safetensors file.
        """
        path = self.path(name)
        if self.receipt(name) is None:
            raise WeightsError(missing(find_model(name)))
        try:
            with safe_open(str(path), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no mapping
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: is no readable safetensors file ({error})") from error


def missing(entry: ModelEntry) -> str:
    """One line that says how to get a model's weights."""
    return (
        f"the weights of {entry.name} are not here; get {entry.file} from {entry.address} and run: "
        f"vidrestore models convert {entry.name} {entry.file}"
    )
