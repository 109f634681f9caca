"""Trains ``mobile`` on a GPU machine that has no network and takes little luggage.

What a training reads out of installed packages (the generator and its mapping, ST-LPIPS, dlib's embedding: 72 MB) is
packed where they are installed, at 24 MB: float16 with 6 to 10 bits of mantissa, bytes sorted by significance, LZMA.
Measured on three faces: pictures 54 dB from the generator's own, identity and ST-LPIPS within 0.5 % of theirs; weights
that are shipped never go this way. Held-out faces for the validation go along at the side that the run trains at. ::

    python benchmarks/gpu_training.py pack luggage --faces data/faces
    python benchmarks/gpu_training.py train luggage runs/mobile --config mobile_h100 --set run.max_seconds=300

The second command wants torch with CUDA, CuPy, numba, OpenCV, pydantic and safetensors, and no PyAV. Where the package
is not installed it wants two links in the repository: ``ln -s ../kernels vidrestore/kernels``, likewise ``presets``. It
leaves ``mobile.safetensors``, ``log.jsonl`` and a sheet of pictures; the weights also in halves, where files may not be
large.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from vidrestore.evaluate.embedding import FaceEmbedding, load_embedding
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.restoration.mobilestyle import GeneratorDims, StyleGenerator
from vidrestore.train import device_samples, mobile
from vidrestore.train.data import list_images
from vidrestore.train.generator import Mapping as LatentMapping
from vidrestore.train.generator import load_generator, load_mapping, mean_style
from vidrestore.train.run import shipped_config

BITS = {"generator": 7, "mapping": 7, "embedding": 6, "alex": 6}
"""Mantissa bits that stay of each part's large tensors; small ones keep float16's ten."""
_LARGE = 4096


def squeeze(values: np.ndarray, bits: int) -> np.ndarray:
    """float16 with so many bits of mantissa, rounded to nearest."""
    drop = 23 - bits
    whole = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = ((whole + (1 << (drop - 1))) >> drop << drop).astype(np.uint32).view(np.float32)
    small = rounded.astype(np.float16)
    if not np.isfinite(small).all():
        raise SystemExit("a parameter does not fit float16")
    return small


def pack(folder: Path, faces: Path, count: int, side: int) -> None:
    """Writes all that :func:`train` reads."""
    (folder / "faces").mkdir(parents=True, exist_ok=True)
    parts = {
        "generator": load_generator(),
        "mapping": load_mapping(),
        "embedding": load_embedding(),
        "alex": ShiftTolerantLpips("alex"),
    }
    for name, module in parts.items():
        write_part(folder, name, module.state_dict())
    np.save(folder / "mean.npy", mean_style().numpy())
    for path in list_images(faces)[:count]:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise SystemExit(f"{path}: is no picture that can be read")
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / "faces" / f"{path.stem}.jpg"), small, [cv2.IMWRITE_JPEG_QUALITY, 93])
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


def write_part(folder: Path, name: str, state: Mapping[str, Tensor]) -> None:
    """One network's parameters: their names and shapes as JSON, their bytes as LZMA."""
    values = {key: value.detach().float().numpy() for key, value in state.items()}
    flat = [squeeze(v, BITS[name] if v.size > _LARGE else 10).ravel() for v in values.values()]
    planes = np.concatenate(flat).view(np.uint8).reshape(-1, 2).T  # the low bytes, then the high ones
    (folder / f"{name}.json").write_text(json.dumps([(key, list(v.shape)) for key, v in values.items()]), "utf-8")
    (folder / f"{name}.xz").write_bytes(lzma.compress(np.ascontiguousarray(planes).tobytes()))


def read_part(folder: Path, name: str) -> dict[str, Tensor]:
    """What :func:`write_part` wrote, as float32."""
    raw = np.frombuffer(lzma.decompress((folder / f"{name}.xz").read_bytes()), np.uint8)
    flat = np.ascontiguousarray(raw.reshape(2, -1).T).view(np.float16).ravel().astype(np.float32)
    state, at = {}, 0
    for key, shape in json.loads((folder / f"{name}.json").read_text("utf-8")):
        size = int(np.prod(shape))
        state[key] = torch.from_numpy(flat[at : at + size].reshape(shape).copy())
        at += size
    return state


def use(folder: Path) -> None:
    """Lets trainings of this process read their networks from the luggage in place of packages."""

    def generator() -> StyleGenerator:
        network = StyleGenerator(GeneratorDims())
        network.load_state_dict(read_part(folder, "generator"))
        return network.eval().requires_grad_(False)

    def mapping() -> LatentMapping:
        network = LatentMapping()
        network.load_state_dict(read_part(folder, "mapping"))
        return network.eval().requires_grad_(False)

    def embedding() -> FaceEmbedding:
        network = FaceEmbedding()
        network.load_state_dict(read_part(folder, "embedding"))
        return network.eval().requires_grad_(False)

    def metric(net: str) -> ShiftTolerantLpips:
        with tempfile.TemporaryDirectory() as room:
            torch.save(read_part(folder, net), Path(room) / "weights.pth")
            return ShiftTolerantLpips("alex", Path(room) / "weights.pth")

    def mean() -> Tensor:
        return torch.from_numpy(np.load(folder / "mean.npy"))

    changes = {
        "load_generator": generator,
        "load_mapping": mapping,
        "load_embedding": embedding,
        "mean_style": mean,
        "ShiftTolerantLpips": metric,
    }
    for module in (mobile, device_samples):
        for name, change in changes.items():
            if hasattr(module, name):
                setattr(module, name, change)


def train(folder: Path, target: Path, config: str, settings: list[str]) -> None:
    """One run; a line of its losses every ``run.log_every`` steps, the validation last."""
    use(folder)
    source = config if config.endswith(".toml") else shipped_config(config)
    options = mobile.load_config(source, [f"data.faces={folder / 'faces'}", "data.held_out=64", *settings])
    begin = time.perf_counter()

    def heard(step: int, share: float, values: Mapping[str, float]) -> None:
        told = {name: round(value, 4) for name, value in values.items()}
        print(f"{target.name} {step} {share:.3f} {time.perf_counter() - begin:.0f} s {told}", flush=True)

    report = mobile.train(options, target, progress=heard)
    print(f"{report.steps} steps", {name: round(value, 4) for name, value in report.values.items()})
    if options.run.device.startswith("cuda"):
        print(f"{torch.cuda.get_device_name()}: at most {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    content = report.weights.read_bytes()
    half = len(content) // 2
    for name, part in (("a", content[:half]), ("b", content[half:])):
        Path(f"{report.weights}.{name}").write_bytes(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="where the packages are installed")
    packing.add_argument("luggage", type=Path)
    packing.add_argument("--faces", type=Path, required=True, help="folder of generated faces; the first are taken")
    packing.add_argument("--count", type=int, default=64)
    packing.add_argument("--side", type=int, default=256)
    training = commands.add_parser("train", help="where the GPU is")
    training.add_argument("luggage", type=Path)
    training.add_argument("target", type=Path)
    training.add_argument("--config", default="mobile_h100", help="name of a shipped configuration, or a file")
    training.add_argument("--set", action="append", default=[], dest="settings", metavar="TABLE.KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.luggage, arguments.faces, arguments.count, arguments.side)
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "4")
        train(arguments.luggage, arguments.target, arguments.config, arguments.settings)


if __name__ == "__main__":
    main()
