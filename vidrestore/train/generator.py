"""The published face generator as a torch module, its weights read from the package that carries them.

``random-face`` carries MobileStyleGAN as OpenVINO IR: an XML file that names each constant with its offset into a file
of raw values. Only the constants are read; the graph is ours (:mod:`vidrestore.restoration.mobilestyle`). Equal to
OpenVINO in float32 within 1e-4 (``tests/train/test_generator.py``).

Licence:
    random-face is published under Apache-2.0; its generator learned from FFHQ, which is CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.mobilestyle import GeneratorDims, StyleGenerator
from vidrestore.train.faces import MEAN_COUNT, MEAN_SEED, find_generator, latent_of

__all__ = ["Mapping", "load_generator", "load_mapping", "mean_style", "read_constants", "styles_of"]

_TYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}


def read_constants(xml_file: str | os.PathLike[str]) -> list[tuple[str, NDArray[np.generic]]]:
    """(name, value) of every constant of an OpenVINO IR network, in the order of the file.

    Args:
        xml_file: the ``.xml``; the raw values lie beside it in the ``.bin``.

    Raises:
        WeightsError: a file is missing, is no IR, or is shorter than the XML says.
    """
    path = Path(xml_file)
    try:
        root = ElementTree.parse(path).getroot()
        raw = path.with_suffix(".bin").read_bytes()
    except (OSError, ElementTree.ParseError) as error:
        raise WeightsError(f"{path}: cannot be read as an OpenVINO network: {error}") from error
    constants = []
    for layer in root.iterfind("layers/layer"):
        data = layer.find("data")
        if layer.get("type") != "Const" or data is None or data.get("element_type") not in _TYPES:
            continue
        offset, size = int(data.get("offset", "0")), int(data.get("size", "0"))
        if offset + size > len(raw):
            raise WeightsError(f"{path.with_suffix('.bin')}: is cut short: {len(raw)} bytes, {offset + size} expected")
        shape = tuple(int(n) for n in data.get("shape", "").split(",") if n.strip())
        value = np.frombuffer(raw[offset : offset + size], _TYPES[data.get("element_type", "")]).reshape(shape)
        constants.append((layer.get("name", ""), value))
    return constants


class Mapping(nn.Module):
    """z to w: z over its root mean square, then eight linear layers with leaky ReLU 0.2 and gain sqrt(2)."""

    def __init__(self, style: int = 512, layers: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(style, style) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        """w (B, style) of z (B, style)."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2) * 2**0.5
        return x


def load_mapping(folder: Path | None = None) -> Mapping:
    """The published mapping.

    Args:
        folder: of the IR files; None finds the installed package.

    Raises:
        ConfigError: the package is not installed.
        WeightsError: its files are not those that are expected.
    """
    path = (folder or find_generator()) / "MappingNetwork.xml"
    tensors = [v for _, v in read_constants(path) if v.dtype == np.float32 and v.size > 1]
    mapping = Mapping()
    if [t.shape for t in tensors] != [s for _ in mapping.layers for s in ((512, 512), (512,))]:
        raise WeightsError(f"{path}: expected eight linear layers of 512, found {[t.shape for t in tensors]}")
    state: dict[str, Tensor] = {}
    for i, (weight, bias) in enumerate(zip(tensors[::2], tensors[1::2], strict=True)):
        state |= {f"layers.{i}.weight": _tensor(weight), f"layers.{i}.bias": _tensor(bias)}
    mapping.load_state_dict(state)
    return mapping.eval().requires_grad_(False)


def load_generator(folder: Path | None = None) -> StyleGenerator:
    """The published synthesis network, 1024 x 1024.

    Args:
        folder: of the IR files; None finds the installed package.

    Raises:
        ConfigError: the package is not installed.
        WeightsError: its files are not those that are expected.
    """
    path = (folder or find_generator()) / "SynthesisNetwork.xml"
    constants = read_constants(path)
    generator = StyleGenerator(GeneratorDims())
    try:
        generator.load_state_dict(_state(constants, len(generator.dims.channels)))
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{path}: is not the synthesis network that is expected: {error}") from error
    return generator.eval().requires_grad_(False)


def _state(constants: list[tuple[str, NDArray[np.generic]]], num_blocks: int) -> dict[str, Tensor]:
    """Named constants are taken by name. Folded kernels and noise maps have running numbers for names: they stand
    between the named ones in a fixed order (kernel, noise, bias), so they are found by their neighbours."""
    floats = [(name, value) for name, value in constants if value.dtype == np.float32]
    names = [name for name, _ in floats]
    named = {name: _tensor(value) for name, value in floats}

    def before(bias: str, steps: int) -> Tensor:
        return _tensor(floats[names.index(bias) - steps][1])

    def scale_after(bias: str) -> float:
        return float(floats[names.index(bias) + 1][1].reshape(()))

    state = {"constant": named["m.input.input"]}

    def convolution(ours: str, theirs: str, *, depthwise: bool) -> None:
        modulation = f"{theirs}.conv.modulation"
        scale = scale_after(f"{modulation}.bias")  # of the equalised learning rate, folded into our linear layer
        state[f"{ours}.modulation.weight"] = named[f"{modulation}.weight"] * scale
        state[f"{ours}.modulation.bias"] = named[f"{modulation}.bias"].flatten() * scale
        if depthwise:
            state[f"{ours}.depthwise.weight"] = named[f"{theirs}.conv.weight_dw"].flatten(1, 2)
        state[f"{ours}.pointwise.weight"] = before(f"{theirs}.bias", 2)
        state[f"{ours}.noise"] = before(f"{theirs}.bias", 1)
        state[f"{ours}.pointwise.bias"] = named[f"{theirs}.bias"].flatten()

    convolution("first", "m.conv1", depthwise=False)
    for i in range(num_blocks):
        state[f"blocks.{i}.up.weight"] = named[f"m.layers.{i}.up.modulation.weight"]
        state[f"blocks.{i}.up.bias"] = named[f"m.layers.{i}.up.modulation.bias"].flatten()
        for conv in ("conv1", "conv2"):
            convolution(f"blocks.{i}.{conv}", f"m.layers.{i}.{conv}", depthwise=True)
    image = f"m.layers.{num_blocks - 1}.to_img"
    scale = scale_after(f"{image}.conv.modulation.bias")
    state["head.modulation.weight"] = named[f"{image}.conv.modulation.weight"] * scale
    state["head.modulation.bias"] = named[f"{image}.conv.modulation.bias"].flatten() * scale
    state["head.pointwise.weight"] = named[f"{image}.conv.weight"]
    state["head.pointwise.bias"] = named[f"{image}.bias"].flatten()
    return state


def _tensor(value: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32))


def mean_style() -> Tensor:
    """(512,) mean of the published mapping over the seeds that the faces' truncation is drawn towards."""
    mapping = load_mapping()
    z = np.concatenate([latent_of(MEAN_SEED + i)[0] for i in range(MEAN_COUNT)])
    with torch.inference_mode():
        mean: Tensor = mapping(torch.from_numpy(z)).mean(0)
    return mean.clone()


def styles_of(paths: Sequence[Path], mean: Tensor) -> Tensor:
    """(F, 512) styles of generated faces, from the numbers that are their names.

    Raises:
        ConfigError: a name is no number.
    """
    if not all(path.stem.isdecimal() for path in paths):
        raise ConfigError("data.generated is set, but not all pictures have a number for a name")
    drawn = [latent_of(int(path.stem)) for path in paths]
    mapping = load_mapping()
    with torch.inference_mode():
        w = mapping(torch.from_numpy(np.concatenate([z for z, _ in drawn])))
        psi = torch.tensor([psi for _, psi in drawn], dtype=torch.float32)[:, None]
        styles: Tensor = mean + psi * (w - mean)
    return styles.clone()
