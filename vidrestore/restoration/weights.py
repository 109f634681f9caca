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

__all__ = ["MODELS", "ModelEntry", "Receipt", "WeightStore", "default_folder", "find_model", "missing", "sha256_of"]

S_LAB = (
    "S-Lab License 1.0: redistribution and use for non-commercial purposes only; "
    "commercial use needs the permission of its contributors"
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A published weight file."""

    name: str
    """What the commands call it, and the key of its layout in conversion.py."""
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
    use: str
    """The command that wants it."""
    can_be_pulled: bool = True
    """``address`` is the file's own; otherwise it is a page from where a person gets it."""


_CODEFORMER = "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"
_SGPN = "https://github.com/TencentYoutuResearch/FaceRestoration-sgpn"
_TENCENT = "SGPN licence (THL A29 Limited, a Tencent company): for academic research only"
_BASEL = "Basel Face Model 2009 licence (University of Basel): for research only, each user registers with them"
_MIT = "MIT, as facexlib publishes it; trained by others on WIDER FACE, whose pictures are for research"


def _codeformer(
    name: str, purpose: str, use: str, *, num_bytes: int | None = None, sha256: str | None = None
) -> ModelEntry:
    """An entry of CodeFormer's release v0.1.0."""
    return ModelEntry(name, f"{name}.pth", f"{_CODEFORMER}{name}.pth", S_LAB, False, num_bytes, sha256, purpose, use)


MODELS = {
    entry.name: entry
    for entry in [
        _codeformer(
            "codeformer",
            "CodeFormer (Zhou et al., NeurIPS 2022): blind face restoration at 512 pixels",
            "vidrestore restore --network codeformer",
            num_bytes=376637898,
            sha256="1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        ),
        _codeformer("codeformer_colorization", "CodeFormer for grey and faded faces", "vidrestore colorize"),
        _codeformer(
            "codeformer_inpainting",
            "CodeFormer for faces with missing parts",
            "vidrestore inpaint",
            sha256="b0d1b868c3dacf75d637bbcc0d4b3dd4ce2a064a338dfb4d35c740d3b4ae8797",
        ),
        _codeformer("codeformer_stage2", "CodeFormer before its last training stage", "training"),
        _codeformer(
            "vqgan_code1024",
            "the autoencoder and codebook under CodeFormer",
            "training",
            num_bytes=255078528,
            sha256="4d1c6741b3cffcbdc2cd1a12b2c3c2442282e042d5de66909cb643d4fa31b20f",
        ),
        _codeformer("vqgan_discriminator", "the discriminator that the autoencoder was trained against", "training"),
        ModelEntry(
            "retinaface",
            "detection_Resnet50_Final.pth",
            f"{_FACEXLIB}v0.1.0/detection_Resnet50_Final.pth",
            _MIT,
            True,
            109497761,
            "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
            "RetinaFace with ResNet-50: finds small, hidden and turned faces that YuNet misses",
            "vidrestore restore --set detect.detector=retinaface",
        ),
        ModelEntry(
            "retinaface_mobile",
            "detection_mobilenet0.25_Final.pth",
            f"{_FACEXLIB}v0.1.0/detection_mobilenet0.25_Final.pth",
            _MIT,
            True,
            1789735,
            None,
            "RetinaFace with MobileNet 0.25: the small one",
            "vidrestore restore --set detect.detector=retinaface_mobile",
        ),
        ModelEntry(
            "parsenet",
            "parsing_parsenet.pth",
            f"{_FACEXLIB}v0.2.2/parsing_parsenet.pth",
            _MIT.partition(";")[0],
            True,
            85331193,
            "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
            "ParseNet: names 19 parts of a face",
            "programs, vidrestore.restoration.parsenet",
        ),
        ModelEntry(
            "sgpn",
            "sgpn.pth",
            _SGPN,
            _TENCENT,
            False,
            None,
            None,
            "SGPN (Zhu et al., CVPR 2022): restoration with a shape prior; wants d3dfr and bfm2009 too",
            "vidrestore restore --network sgpn",
            can_be_pulled=False,
        ),
        ModelEntry(
            "d3dfr",
            "d3dfr_finetune_ours.pth",
            _SGPN,
            _TENCENT,
            False,
            None,
            None,
            "SGPN's regressor: reads a face's shape off a degraded picture",
            "vidrestore restore --network sgpn, or --set track.model=bfm",
            can_be_pulled=False,
        ),
        ModelEntry(
            "bfm2009",
            "BFM09_model_info.mat",
            _SGPN,
            _BASEL,
            False,
            None,
            None,
            "Basel Face Model 2009 with expressions: the mesh that d3dfr's numbers are about",
            "vidrestore restore --network sgpn, or --set track.model=bfm",
            can_be_pulled=False,
        ),
    ]
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

    def accept(self, entry: ModelEntry) -> None:
        """Records that the user has seen and accepted a model's licence, so that nobody asks again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "licences.json"
        _write_json(path, self._accepted() | {entry.name: entry.licence})

    def has_accepted(self, entry: ModelEntry) -> bool:
        """Whether a model's licence, in its present words, was accepted, or asks for nothing."""
        return entry.allows_commercial_use or self._accepted().get(entry.name) == entry.licence

    def _accepted(self) -> dict[str, str]:
        try:
            accepted = json.loads((self.folder / "licences.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}  # nothing was accepted, or it cannot be known: the user is asked again
        return accepted if isinstance(accepted, dict) else {}

    def keep(self, receipt: Receipt) -> None:
        """Writes the receipt of a file that was just put in place."""
        _write_json(self.path(receipt.name).with_suffix(".json"), asdict(receipt))

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
    if not entry.can_be_pulled:
        return (
            f"the weights of {entry.name} are not here; get {entry.file} through {entry.address} and run: "
            f"vidrestore models convert {entry.name} {entry.file}"
        )
    return (
        f"the weights of {entry.name} are not here; run: vidrestore models pull {entry.name}, or get {entry.file} from "
        f"{entry.address} and run: vidrestore models convert {entry.name} {entry.file}"
    )


def _write_json(path: Path, value: object) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1) + "\n", "utf-8")
    os.replace(part, path)
