"""``compact``: a small U-Net without 3D knowledge, for weak machines and as the first network that we train.

Figure:
    RGB face (B, 3, 256, 256) in [-1, 1]
    -> cosine transform of 4 x 4 blocks in opponent colours, scaled to unit spread: 48 channels on 64 x 64
    -> encoder: residual blocks of two plain 3 x 3 convolutions on 64, 32, 16 and 8 pixels, strided 3 x 3 in between
    -> decoder: 1 x 1 to the finer width, bilinear doubling, sum with the encoder's features, residual block
    -> 3 x 3 to gains and to a free residual in the transform's domain
    -> change = gains * bands of the input (four octaves, luma and colour apart) + free residual
    -> without what repeats every four pixels, and without its mean
    -> input + change.

    A gain below 0 removes what is noise or blocking in an octave at a place, a gain above 0 sharpens: the network has
    to recognise damage and detail, and need not paint what it keeps.

Paper:
    None of its own. A U-Net (Ronneberger et al. 2015) with sums in place of concatenations and residual blocks
    without normalisation (EDSR, Lim et al. 2017), gated by squeeze and excitation (Hu et al. 2018).

Range:
    Input and output are RGB in [-1, 1]; the output is not clamped, so it may leave the range by a little. The
    mean of each colour channel over the crop is that of the input exactly (up to rounding): the network cannot
    change the exposure or the white balance of a face.

Size:
    2.8 M parameters, 1.0 G multiply-adds per face at the default widths. Sides of the input must be multiples of 32.

Weights:
    ``vidrestore/restoration/data/compact.safetensors``, float16 on disk, our own, Apache-2.0; its card is
    ``compact.md`` beside it.

Precision:
    float32 and bfloat16/float16 under autocast. The file holds float16, which the loader widens to float32.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError

__all__ = [
    "COMPACT_SIZE",
    "CompactDims",
    "CompactNet",
    "dims_of",
    "load_compact",
    "save_compact",
    "shipped_weights",
    "without_grid",
]

COMPACT_SIZE = 256
"""Side in pixels of the crop that the shipped weights were trained on."""

_NETWORK = "compact"
_FORMAT = "1"
_SLOPE = 0.2  # of the leaky ReLU; a common choice for networks without normalisation
_GAIN = 0.5  # of the free residual: keeps Adam's steps in the head small beside the residual
_BLOCK = 4
_NEAR = (
    5  # blocks over which a pattern is looked for, 20 pixels; over 9 a trained network painted smaller patches of it
)
_LIMIT = 30.0  # deviations; noise of 14 / 255, the strongest in training, stays below: pictures of pure noise stay tame
_BANDS = 4


@dataclass(frozen=True, slots=True)
class CompactDims:
    """The numbers that fix the layout of a :class:`CompactNet`."""

    widths: tuple[int, ...] = (48, 80, 128, 192)
    """Channels at 1/4, 1/8, 1/16, ... of the input's size. The defaults give 2.8 M parameters."""
    encoder_blocks: tuple[int, ...] = (0, 1, 1, 2)
    """Residual blocks per level on the way down; the last entry is the bottom."""
    decoder_blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks per level on the way up, finest level first."""
    without_grid: bool = True
    """The change goes through :func:`without_grid`. Files from before this was there say nothing of it and are read
    as False."""

    def __post_init__(self) -> None:
        """Checks that the levels agree."""
        levels = len(self.widths)
        if levels < 1 or len(self.encoder_blocks) != levels or len(self.decoder_blocks) != levels - 1:
            raise ValueError(f"blocks {self.encoder_blocks}, {self.decoder_blocks} do not fit widths {self.widths}")
        if min(self.widths) < 1 or min(self.encoder_blocks + self.decoder_blocks, default=0) < 0:
            raise ValueError(f"widths must be positive, got {self}")

    @property
    def multiple(self) -> int:
        """The input's sides must be multiples of this."""
        return _BLOCK << (len(self.widths) - 1)


class _Block(nn.Module):
    """x + gate * conv(act(conv(act(x)))), where the gate of each channel is learned from the mean over the picture.

    The gate lets the kind and strength of the damage, which is the same all over a face, choose among filters
    (squeeze and excitation, Hu et al. 2018). The second convolution starts small: a block starts near the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.gate = nn.Conv2d(width, width, 1)
        _start(self.first)
        _start(self.second, 0.2)  # keeps the variance of a chain without normalisation flat
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.leaky_relu(self.first(functional.leaky_relu(x, _SLOPE)), _SLOPE)
        gate = 2.0 * torch.sigmoid(self.gate(hidden.mean((2, 3), keepdim=True)))  # (B, C, 1, 1), at first 1
        out: Tensor = x + gate * self.second(hidden)
        return out


def _start(layer: nn.Conv2d, gain: float = 1.0) -> None:
    """Weights that keep the variance of what has gone through the leaky ReLU, times ``gain`` squared."""
    nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
    with torch.no_grad():
        layer.weight.mul_(gain)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _block_cosines() -> tuple[Tensor, Tensor, Tensor]:
    """The orthonormal cosine transform of a block in three opponent colours, and how wide its coefficients spread.

    A block's mean spreads 250 times wider than its finest detail, which is what a restorer looks at: without this
    scaling the first layer sees next to nothing of it, and training hardly moves.

    Returns:
        (48, 48) coefficients from the channels of a pixel unshuffle; (48,) standard deviations of the coefficients of
        degraded faces; (48,) those of (clean - degraded). Both are fits of power laws to 48 training samples.
    """
    place = torch.arange(_BLOCK, dtype=torch.float64)
    cosines = torch.cos(torch.pi / _BLOCK * place[:, None] * (place[None] + 0.5))
    cosines = cosines / cosines.norm(dim=1, keepdim=True)
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    colours = colours / colours.norm(dim=1, keepdim=True)
    transform = torch.kron(colours, torch.kron(cosines, cosines))
    square = (place[:, None] ** 2 + place[None] ** 2).clamp_min(1.0).flatten()  # of the frequency
    inputs = torch.stack([0.28 / square, 0.042 / square, 0.028 / square]).clamp_min(0.003)
    inputs[:, 0] = torch.tensor([2.8, 0.74, 0.33])
    changes = torch.stack([0.21 / square**0.55, 0.07 / square**0.8, 0.042 / square**0.8])
    changes[:, 0] = torch.tensor([0.43, 0.21, 0.12])
    return transform.float(), inputs.flatten().float(), changes.flatten().float()


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width) for _ in range(count)))


class CompactNet(nn.Module):
    """Restores aligned faces in one feed-forward pass.

    Args:
        dims: the layout; the default is that of the shipped weights.
    """

    analysis: Tensor
    synthesis: Tensor
    taps: Tensor
    tent: Tensor
    luma: Tensor

    def __init__(self, dims: CompactDims | None = None) -> None:
        super().__init__()
        self.dims = dims = dims or CompactDims()
        widths, levels = dims.widths, len(dims.widths)
        pixels = 3 * _BLOCK**2
        self.stem = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(widths[i], dims.encoder_blocks[i]) for i in range(levels))
        self.down = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1) for i in range(levels - 1)
        )
        self.up = nn.ModuleList(nn.Conv2d(widths[i + 1], widths[i], 1) for i in range(levels - 1))
        self.decoder = nn.ModuleList(_blocks(widths[i], dims.decoder_blocks[i]) for i in range(levels - 1))
        self._outputs = [pixels, _BANDS * _BLOCK**2, _BANDS]
        self.head = nn.Conv2d(widths[0], sum(self._outputs), 3, padding=1)
        for layer in (self.stem, *self.down):
            _start(layer)
        for layer in self.up:
            _start(layer, 0.5)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # of the starlet transform (Starck et al. 2007)
        transform, input_spread, change_spread = _block_cosines()
        self.register_buffer("analysis", (transform / input_spread[:, None])[..., None, None], persistent=False)
        self.register_buffer("synthesis", (transform.T * change_spread)[..., None, None], persistent=False)
        self.register_buffer("taps", taps.expand(3, 1, 1, 5).contiguous(), persistent=False)
        self.register_buffer("tent", tent_taps(), persistent=False)
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """The restored faces.

        Args:
            image: (B, 3, H, W) RGB in [-1, 1]; H and W are multiples of 32 (of ``dims.multiple``).

        Returns:
            (B, 3, H, W) in about [-1, 1], not clamped; the mean of each channel of each face is the input's.
        """
        return self.change(image, self.decode(self.encode(image)))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of a picture, (B, C, S, S) at 1/4, 1/8, ... of its size; the last one is the bottom."""
        x = functional.conv2d(functional.pixel_unshuffle(image, _BLOCK), self.analysis)  # (B, 48, H/4, W/4)
        x = x.clamp(-_LIMIT, _LIMIT)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        levels: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            x = blocks(x)
            levels.append(x)
            if level < len(self.down):
                x = self.down[level](x)
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """(B, C, H/4, W/4): what :meth:`change` reads, from the features of :meth:`encode`, to which may be added."""
        x = levels[-1]
        for level in reversed(range(len(self.decoder))):
            x = functional.interpolate(self.up[level](x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = self.decoder[level](x + levels[level])
        return x

    def change(self, image: Tensor, x: Tensor) -> Tensor:
        """The restored faces, from the picture and the features of :meth:`decode`."""
        out = self.head(functional.leaky_relu(x, _SLOPE))  # (B, 48 + 64 + 4, H/4, W/4)
        free, fine, colour = torch.split(out, self._outputs, 1)
        change = _GAIN * functional.pixel_shuffle(functional.conv2d(free, self.synthesis), _BLOCK)
        luma_gains = functional.pixel_shuffle(fine, _BLOCK)  # (B, 4, H, W)
        size = (image.shape[-2], image.shape[-1])
        colour_gains = functional.interpolate(colour, size=size, mode="bilinear", align_corners=False)
        for i, band in enumerate(self._bands(image)):
            luma = (band * self.luma).sum(1, keepdim=True)
            change = change + luma_gains[:, i : i + 1] * luma + colour_gains[:, i : i + 1] * (band - luma)
        if self.dims.without_grid:
            change = without_grid(change, self.tent)
        return image + change - change.mean((2, 3), keepdim=True)

    def _bands(self, image: Tensor) -> list[Tensor]:
        """The starlet bands of the picture, finest first; their sum and a blurred rest give the picture."""
        bands = []
        for i in range(_BANDS):
            step = 2**i
            soft = functional.pad(image, (2 * step,) * 4, mode="replicate")
            soft = functional.conv2d(soft, self.taps, dilation=(1, step), groups=3)
            soft = functional.conv2d(soft, self.taps.transpose(2, 3), dilation=(step, 1), groups=3)
            bands.append(image - soft)
            image = soft
        return bands


def without_grid(change: Tensor, tent: Tensor | None = None) -> Tensor:
    """The change, without patterns that repeat every four pixels over some distance.

    A network that paints blocks of 4 x 4 pixels can lower a perceptual loss by one and the same texture in every block,
    which that loss takes for detail and the eye for a grid. Here each of the 16 places of a block is averaged over the
    blocks around, and what these averages differ by is taken away. A change that varies slowly passes as it is: a
    triangle of 7 taps, which keeps slopes and is zero at every frequency of the grid, is set aside before.

    Args:
        change: (B, C, H, W), sides multiples of 4.
        tent: :func:`tent_taps` on the device of ``change``, where they must not be sent there anew.
    """
    last = torch.channels_last  # these small convolutions and means are ten times as fast in it
    change, channels = change.contiguous(memory_format=last), change.shape[1]
    taps = tent_taps().to(change) if tent is None else tent
    smooth = functional.pad(change, (3,) * 4, mode="replicate").contiguous(memory_format=last)
    smooth = functional.conv2d(smooth, taps.expand(channels, 1, 1, 7), groups=channels)
    smooth = functional.conv2d(smooth, taps.view(7, 1).expand(channels, 1, 7, 1), groups=channels)
    places = functional.pixel_unshuffle(change - smooth, _BLOCK).contiguous(memory_format=last)  # (B, 16 C, H/4, W/4)
    for kernel in ((1, _NEAR), (_NEAR, 1)):
        margin = (kernel[0] // 2, kernel[1] // 2)
        places = functional.avg_pool2d(places, kernel, 1, margin, count_include_pad=False)
    each = torch.unflatten(places, 1, (channels, _BLOCK**2))  # no number of the batch: an exported network takes any
    places = (each - each.mean(2, keepdim=True)).flatten(1, 2).contiguous(memory_format=last)
    return change - functional.pixel_shuffle(places, _BLOCK)


def tent_taps() -> Tensor:
    """(7,) low-pass that keeps slopes and is zero at all frequencies of a pattern of four pixels."""
    return torch.tensor([1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0]) / _BLOCK**2


def shipped_weights() -> Path:
    """The path of ``compact.safetensors`` in the installed package."""
    return Path(str(resources.files("vidrestore.restoration.data").joinpath("compact.safetensors")))


def save_compact(network: CompactNet, path: str | os.PathLike[str], *, notes: Mapping[str, str] | None = None) -> None:
    """Writes the network as float16 safetensors, dims in the metadata; the file appears whole or not at all.

    Args:
        network: the network.
        path: target, conventionally ``.safetensors``; an older file is replaced.
        notes: further metadata, such as ``{"step": "12000"}``.

    Raises:
        WeightsError: a parameter is not finite, or does not fit float16.
    """
    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in network.state_dict().items()}
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise WeightsError(f"parameter {name} has values that are not finite in float16, it is not saved")
    metadata = {"network": _NETWORK, "format": _FORMAT, "dims": json.dumps(asdict(network.dims))}
    target = Path(path)
    part = target.with_name(target.name + ".part")
    save_file(state, str(part), metadata=metadata | dict(notes or {}))
    part.chmod(0o644)  # safetensors writes it for the owner alone
    os.replace(part, target)


def load_compact(path: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu") -> CompactNet:
    """The network with the weights of a file, in evaluation mode, float32, channels-last.

    Args:
        path: a file of :func:`save_compact`; None is the file that the package ships.
        device: where the parameters go.

    Raises:
        WeightsError: the file is missing, is no safetensors file, belongs to another network, or holds tensors that
            are missing, too many, of a wrong shape or not finite.
    """
    source = shipped_weights() if path is None else Path(path)
    if not source.is_file():
        raise WeightsError(f"{source}: there is no such weight file")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118, no iterator
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{source}: not a readable safetensors file ({error})") from error
    network = CompactNet(_read_dims(source, metadata))
    _check_state(source, network, state)
    network.load_state_dict({k: v.float() for k, v in state.items()})
    return network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _read_dims(source: Path, metadata: Mapping[str, str]) -> CompactDims:
    if metadata.get("network") != _NETWORK or metadata.get("format") != _FORMAT:
        raise WeightsError(
            f"{source}: expected weights of network {_NETWORK!r} in format {_FORMAT}, "
            f"got network {metadata.get('network')!r} in format {metadata.get('format')!r}"
        )
    try:
        raw = json.loads(metadata["dims"])
        dims = dims_of(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{source}: the dims in its metadata cannot be read ({error})") from error
    # A damaged or hostile file must not make us allocate the machine's memory: 64 times the default is plenty.
    if max(dims.widths) > 2048 or len(dims.widths) > 6 or sum(dims.encoder_blocks + dims.decoder_blocks) > 64:
        raise WeightsError(f"{source}: the dims in its metadata are beyond reason: {dims}")
    return dims


def dims_of(raw: Mapping[str, Any]) -> CompactDims:
    """The dims of a file's metadata, already out of JSON.

    Raises:
        TypeError: an unknown key, or a value of a wrong kind.
        ValueError: the levels do not agree.
    """
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    dims = CompactDims(**{"without_grid": False, **values})
    if not isinstance(dims.without_grid, bool):
        raise TypeError(f"without_grid must be true or false, got {dims.without_grid!r}")
    return dims


def _check_state(source: Path, network: CompactNet, state: Mapping[str, Tensor]) -> None:
    expected = network.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise WeightsError(f"{source}: tensors do not fit the network, missing {missing[:3]}, unknown {extra[:3]}")
    for name, value in state.items():
        if value.shape != expected[name].shape or not value.is_floating_point():
            raise WeightsError(
                f"{source}: tensor {name} must be {tuple(expected[name].shape)} of floats, "
                f"got {tuple(value.shape)} {value.dtype}"
            )
        if not math.isfinite(float(value.float().abs().sum())):
            raise WeightsError(f"{source}: tensor {name} holds values that are not finite")
