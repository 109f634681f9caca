"""``mobile``: SGPN's idea at real-time size, on top of ``compact``.

Figure:
    RGB face (B, 3, 512, 512) or (B, 3, 256, 256) in [-1, 1]
    ├─ trunk: :class:`CompactNet` at 256 px, levels of 64, 32, 16 and 8 px
    ├─ prior encoder (depthwise, shared): the crop at 128 px, and the rendered 3D face with its mask at 128 px
    │    -> maps F_crop, F_render at 64, 32, 16, 8 px; codes of both
    ├─ latent: codes of crop and render, 257 coefficients -> style w (512)
    ├─ generator (pretrained, depthwise, Haar): 4 px -> 8 -> 16 -> 32 -> 64 px
    │    each block reads AFFB(x, F_crop, F_render) = M F_crop + (1 - M) F_render, M = sigmoid(1 x 1 of all three)
    └─ joins: each block's map, through 1 x 1 and times (1 - w_fidelity), is added to the trunk's level of that size
    -> trunk's decoder -> change of the picture; at 512 px also gains of the finest octave.

    With the fidelity weight 1 nothing of the prior arrives: the trunk alone, closest to the input. With 0 all of it.

Paper:
    SGPN (Zhu et al., CVPR 2022): shape prior, generative prior, adaptive feature fusion (AFFB); its maps are added
    here, not concatenated. MobileStyleGAN (Belousov 2021) for the generator. The decoder that has the last word is the
    trunk's and not the generator's: a picture that is good already is not painted anew.

Range:
    Input and output are RGB in [-1, 1], not clamped. The mean of each colour over the crop stays the input's.

Size:
    8.8 M parameters, 2.2 G multiply-adds per face at the default widths; half of the latter are the prior's.

Weights:
    ``vidrestore/restoration/data/mobile.safetensors``, float16 on disk, our own, Apache-2.0; card ``mobile.md``.

Precision:
    float32, float16 and bfloat16 under autocast.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.restoration.compact import CompactDims, CompactNet, dims_of
from vidrestore.restoration.mobilestyle import StyleBlock, StyleGenerator

__all__ = [
    "MOBILE_SIZE",
    "NUM_COEFFICIENTS",
    "PRIOR_SIZE",
    "MobileDims",
    "MobileNet",
    "load_mobile",
    "save_mobile",
    "shipped_mobile",
]

MOBILE_SIZE = 512
"""Side in pixels of the crop that the network restores."""
PRIOR_SIZE = 128
"""Side in pixels at which the prior's encoder looks at the crop and at the rendered face."""

NUM_COEFFICIENTS = 257
"""Numbers that describe a 3D face."""

_FORMAT = "vidrestore-mobile-1"
_SLOPE = 0.2
_TRUNK = 256


@dataclass(frozen=True, slots=True)
class MobileDims:
    """Sizes of a :class:`MobileNet`."""

    trunk: CompactDims = field(default_factory=CompactDims)
    """Of the network that has the last word; its levels must be 64, 32, 16 and 8 px of 256."""
    encoder: tuple[int, ...] = (32, 48, 64, 96, 128)
    """Channels of the prior's encoder at 64, 32, 16, 8 and 4 px."""
    style: int = 512
    """Length of w."""
    base: int = 512
    """Channels of the generator at 4 px."""
    rank: int = 160
    """Of the generator's first convolution, whose published form alone has 2.4 M parameters."""
    generator: tuple[int, ...] = (512, 512, 512, 512)
    """Channels of the generator's blocks at 8, 16, 32 and 64 px."""
    whole: bool = False
    """The generator's last block has its second convolution, too, which alone is half of the prior's arithmetic."""
    codes: int = 64
    """Channels at 4 px that the style is found from."""
    hidden: int = 384
    """Width of the layers that find the style."""
    uses_shape: bool = True
    """Ablation: without, render and coefficients are not looked at."""
    uses_generator: bool = True
    """Ablation: without, the prior's maps go to the trunk as the encoder made them."""

    def __post_init__(self) -> None:
        """Checks that trunk and generator meet."""
        if len(self.generator) != len(self.trunk.widths) or len(self.encoder) != len(self.generator) + 1:
            raise ValueError(f"trunk, encoder and generator must have the same levels, got {self}")


class _Separable(nn.Module):
    """Depthwise 3 x 3 and pointwise 1 x 1, twice; a sum where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs)
        self.mix = nn.Conv2d(inputs, outputs, 1)
        self.spread2 = nn.Conv2d(outputs, outputs, 3, 1, 1, groups=outputs)
        self.mix2 = nn.Conv2d(outputs, outputs, 1)
        for layer in (self.mix, self.mix2):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.mix2.weight.mul_(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.mix(self.spread(x)), _SLOPE)
        out: Tensor = x + self.mix2(functional.leaky_relu(self.spread2(x), _SLOPE))
        return out


class _Encoder(nn.Module):
    """One look at a picture of 128 px with a mask: maps at 64, 32, 16, 8 and 4 px."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(16, widths[0], 3, padding=1)  # 2 x 2 pixels of 3 colours and a mask
        self.levels = nn.ModuleList(
            _Separable(widths[max(0, i - 1)], width, 2 if i else 1) for i, width in enumerate(widths)
        )

    def forward(self, picture: Tensor) -> list[Tensor]:
        x = self.stem(functional.pixel_unshuffle(picture, 2).contiguous(memory_format=torch.channels_last))
        maps = []
        for level in self.levels:
            x = level(functional.leaky_relu(x, _SLOPE))
            maps.append(x)
        return maps


class _Fusion(nn.Module):
    """AFFB: which of two maps to believe, at each place and channel."""

    def __init__(self, own: int, width: int) -> None:
        super().__init__()
        self.mask = nn.Conv2d(own + 2 * width, width, 1)
        nn.init.zeros_(self.mask.weight)
        nn.init.zeros_(self.mask.bias)  # type: ignore[arg-type]

    def forward(self, own: Tensor, crop: Tensor, render: Tensor) -> Tensor:
        mask = torch.sigmoid(self.mask(torch.cat([own, crop, render], 1)))
        fused: Tensor = render + mask * (crop - render)
        return fused


class _First(nn.Module):
    """The generator's first map, (B, base, 4, 4): its constant times the style, and a 3 x 3 convolution of low rank."""

    noise: Tensor

    def __init__(self, base: int, style: int, rank: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, base, 4, 4))
        self.modulation = nn.Linear(style, base)
        self.down = nn.Conv2d(base, rank, 3, padding=1, bias=False)
        self.up = nn.Conv2d(rank, base, 1)
        self.register_buffer("noise", torch.zeros(1, 1, 4, 4))

    def forward(self, style: Tensor) -> Tensor:
        x = self.constant * self.modulation(style)[..., None, None]
        return functional.leaky_relu(self.up(self.down(x)) + self.noise, _SLOPE)


class MobileNet(nn.Module):
    """Restores aligned faces with a shape prior and a generative prior in one feed-forward pass.

    Args:
        dims: the layout; the default is that of the shipped weights.
    """

    def __init__(self, dims: MobileDims | None = None) -> None:
        super().__init__()
        self.dims = dims = dims or MobileDims()
        widths, generator = dims.encoder, dims.generator
        self.trunk = CompactNet(dims.trunk)
        self.encoder = _Encoder(widths)
        codes = 16 * dims.codes
        self.codes = nn.Conv2d(widths[-1], dims.codes, 1)
        self.latent = nn.Sequential(
            nn.Linear(2 * codes + NUM_COEFFICIENTS, dims.hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(dims.hidden, dims.hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(dims.hidden, dims.style),
        )
        self.first = _First(dims.base, dims.style, dims.rank)
        inputs = (dims.base, *generator)
        self.blocks = nn.ModuleList(
            StyleBlock(
                inputs[i],
                inputs[i + 1],
                dims.style,
                8 * 2**i,
                extra=widths[-2 - i],
                whole=dims.whole or i + 1 < len(generator),
            )
            for i in range(len(generator))
        )
        self.fusions = nn.ModuleList(_Fusion(inputs[i] // 4, widths[-2 - i]) for i in range(len(generator)))
        sources = generator if dims.uses_generator else tuple(widths[-2 - i] for i in range(len(generator)))
        self.joins = nn.ModuleList(nn.Conv2d(sources[i], dims.trunk.widths[-1 - i], 1) for i in range(len(generator)))
        self.fine = nn.Conv2d(dims.trunk.widths[0], 64, 1)
        blocks: list[Any] = list(self.blocks)
        starts_at_zero: list[Any] = [*self.joins, self.fine, *(block.conv1.extra for block in blocks)]
        for layer in starts_at_zero:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, render: Tensor, coefficients: Tensor, w: Tensor) -> Tensor:
        """The restored faces.

        Args:
            image: (B, 3, S, S) RGB in [-1, 1]; S is 512 or 256.
            render: (B, 4, 128, 128) the 3D face as RGB in [-1, 1], -1 beside it, and its mask in {0, 1}.
            coefficients: (B, 257) of the 3D face.
            w: (B,) fidelity weight in [0, 1].

        Returns:
            (B, 3, S, S) in about [-1, 1].
        """
        small = functional.avg_pool2d(image, image.shape[-1] // _TRUNK)
        levels = self.trunk.encode(small)
        for i, change in enumerate(self.prior(small, render, coefficients)):
            levels[-1 - i] = levels[-1 - i] + (1.0 - w).view(-1, 1, 1, 1) * change
        return self._finish(image, small, levels)

    def without_prior(self, image: Tensor) -> Tensor:
        """What :meth:`forward` gives where w is 1, for a third of its arithmetic."""
        small = functional.avg_pool2d(image, image.shape[-1] // _TRUNK)
        return self._finish(image, small, self.trunk.encode(small))

    def _finish(self, image: Tensor, small: Tensor, levels: list[Tensor]) -> Tensor:
        """From the trunk's levels to the picture, at its own size."""
        x = self.trunk.decode(levels)
        restored = self.trunk.change(small, x)
        if image.shape[-1] == _TRUNK:
            return restored
        scale = image.shape[-1] // _TRUNK
        grown = functional.interpolate(
            restored - small, scale_factor=float(scale), mode="bilinear", align_corners=False
        )
        gains = functional.pixel_shuffle(self.fine(functional.leaky_relu(x, _SLOPE)), 8)  # (B, 1, 512, 512)
        finest = image - functional.interpolate(small, scale_factor=float(scale), mode="bilinear", align_corners=False)
        out: Tensor = image + grown + gains * finest
        return out

    def prior(self, small: Tensor, render: Tensor, coefficients: Tensor) -> list[Tensor]:
        """What is added to the trunk's levels, the coarsest first.

        Args:
            small: (B, 3, 256, 256).
            render: as in :meth:`forward`.
            coefficients: likewise.
        """
        crop_maps, render_maps, style = self.look(small, render, coefficients)
        x = self.first(style)
        changes: list[Tensor] = []
        parts: list[tuple[Any, Any, Any]] = list(zip(self.blocks, self.fusions, self.joins, strict=True))
        for i, (block, fusion, join) in enumerate(parts):
            grown = block.grow(x, style)
            fused = fusion(grown, crop_maps[-2 - i], render_maps[-2 - i])
            if self.dims.uses_generator:
                x = block.refine(grown, style, fused)
                changes.append(join(x))
            else:
                x = block.refine(grown, style)
                changes.append(join(fused))
        return changes

    def look(self, small: Tensor, render: Tensor, coefficients: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """What the prior sees: maps of the crop and of the render, finest first, and the style (B, style)."""
        crop = functional.avg_pool2d(small, small.shape[-1] // PRIOR_SIZE)
        if not self.dims.uses_shape:
            render, coefficients = torch.zeros_like(render), torch.zeros_like(coefficients)
        both = torch.cat([torch.cat([crop, torch.ones_like(crop[:, :1])], 1), render])
        maps = [m.chunk(2) for m in self.encoder(both)]  # one pass of the shared encoder over both
        codes = torch.cat([self.codes(part).flatten(1) for part in maps[-1]], 1)
        style: Tensor = self.latent(torch.cat([codes, coefficients], 1))
        return [m[0] for m in maps], [m[1] for m in maps], style

    @torch.no_grad()
    def start_from(self, trunk: CompactNet, generator: StyleGenerator, mean_style: Tensor) -> None:
        """Takes over a trained trunk and the published generator; at first the result is the trunk's.

        Args:
            trunk: with the same dims.
            generator: its first blocks are taken, its first convolution in low rank.
            mean_style: (style,), what the latent begins with.
        """
        self.trunk.load_state_dict(trunk.state_dict())
        wide = generator.first.pointwise.weight  # (base, base, 3, 3)
        left, values, right = torch.linalg.svd(wide.flatten(1), full_matrices=False)
        rank = self.dims.rank
        self.first.constant.copy_(generator.constant)
        self.first.modulation.load_state_dict(generator.first.modulation.state_dict())
        self.first.down.weight.copy_((values[:rank, None] * right[:rank]).view(rank, *wide.shape[1:]))
        self.first.up.weight.copy_(left[:, :rank, None, None])
        self.first.up.bias.copy_(generator.first.pointwise.bias)  # type: ignore[union-attr, arg-type]
        self.first.noise.copy_(generator.first.noise)
        for own, published in zip(self.blocks, generator.blocks, strict=False):
            own.load_state_dict(published.state_dict(), strict=False)  # all but what reads the fused maps
        last: Any = self.latent[-1]
        last.weight.mul_(0.1)
        last.bias.copy_(mean_style)


def shipped_mobile() -> Path:
    """The path of ``mobile.safetensors`` in the installed package."""
    return Path(str(resources.files("vidrestore.restoration.data").joinpath("mobile.safetensors")))


def save_mobile(network: MobileNet, path: str | os.PathLike[str], *, notes: Mapping[str, str] | None = None) -> None:
    """Writes the network as float16 safetensors, dims in the metadata; the file appears whole or not at all.

    Raises:
        WeightsError: a parameter is not finite, or does not fit float16.
    """
    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in network.state_dict().items()}
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"parameter {name} has values that are not finite in float16, it is not saved")
    target = Path(path)
    part = target.with_name(target.name + ".part")
    metadata = {"format": _FORMAT, "dims": json.dumps(asdict(network.dims)), **(notes or {})}
    save_file(state, str(part), metadata=metadata)
    part.chmod(0o644)  # safetensors writes it for the owner alone
    os.replace(part, target)


def load_mobile(path: str | os.PathLike[str] | None = None, device: torch.device | str = "cpu") -> MobileNet:
    """The network with the weights of a file, in evaluation mode, float32, channels-last.

    Args:
        path: a file of :func:`save_mobile`; None is the file that the package ships.
        device: where the parameters go.

    Raises:
        WeightsError: the file is missing, is no safetensors file, belongs to another network, or does not fit it.
    """
    source = shipped_mobile() if path is None else Path(path)
    if path is None and not source.is_file():
        raise WeightsError("this version comes without weights of mobile; docs/training.md says how to train them")
    if not source.is_file():
        raise WeightsError(f"{source}: there is no such weight file")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no iterator
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{source}: not a readable safetensors file ({error})") from error
    network = MobileNet(_read_dims(source, metadata))
    expected = network.state_dict()
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += [name for name in expected.keys() & state.keys() if state[name].shape != expected[name].shape]
    if wrong:
        raise WeightsError(f"{source}: tensors do not fit the network: {', '.join(wrong[:3])}")
    if not all(value.is_floating_point() and bool(torch.isfinite(value).all()) for value in state.values()):
        raise WeightsError(f"{source}: holds values that are not finite")
    network.load_state_dict({k: v.float() for k, v in state.items()})
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().requires_grad_(False)


def _read_dims(source: Path, metadata: Mapping[str, str]) -> MobileDims:
    if metadata.get("format") != _FORMAT:
        raise WeightsError(f"{source}: expected {_FORMAT}, got {metadata.get('format')!r}")
    try:
        raw: dict[str, Any] = json.loads(metadata["dims"])
        trunk = dims_of(raw.pop("trunk"))
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        dims = MobileDims(trunk=trunk, **values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{source}: the dims in its metadata cannot be read ({error})") from error
    sizes = (
        *dims.trunk.widths,
        *dims.encoder,
        *dims.generator,
        dims.style,
        dims.base,
        dims.rank,
        dims.codes,
        dims.hidden,
    )
    blocks = sum(dims.trunk.encoder_blocks + dims.trunk.decoder_blocks)
    if not all(isinstance(n, int) and 0 < n <= 4096 for n in sizes) or len(dims.generator) > 7 or blocks > 64:
        raise WeightsError(f"{source}: the dims in its metadata are beyond reason: {dims}")
    return dims
