"""What StyleGAN2 is made of: each part against its plain definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from vidrestore.restoration.seeded import fill_seeded, seeded_values
from vidrestore.restoration.stylegan import (
    Blur,
    ConvLayer,
    EqualConv2d,
    EqualLinear,
    FusedLeakyReLU,
    ModulatedConv2d,
    PixelNorm,
    ResidualDown,
    ToRgb,
    Upsample,
    filter_kernel,
    upfirdn2d,
    upfirdn2d_plain,
)


def values(key: str, *shape: int) -> Tensor:
    return torch.from_numpy(seeded_values(key, shape))


def by_hand(x: Tensor, kernel: Tensor, up: int, down: int, padding: tuple[int, int, int, int]) -> Tensor:
    """The definition, sample by sample: one channel, no torch operator that could share a mistake."""
    (height, width), (rows, columns) = x.shape, kernel.shape
    left, right, above, below = padding
    tall, wide = height * up + above + below - rows + 1, width * up + left + right - columns + 1
    out = torch.zeros(-(-tall // down), -(-wide // down), dtype=x.dtype)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = 0.0
            for a in range(rows):
                for b in range(columns):
                    y, z = i * down + a - above, j * down + b - left
                    if y % up == 0 and z % up == 0 and 0 <= y // up < height and 0 <= z // up < width:
                        total += float(x[y // up, z // up] * kernel[rows - 1 - a, columns - 1 - b])
            out[i, j] = total
    return out


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 2, 1), (1, 1, 1, 1), (3, 4, 0, 2)])
def test_upfirdn_is_its_definition(up: int, down: int, padding: tuple[int, int, int, int]) -> None:
    x, kernel = values("x", 1, 2, 5, 7).double(), values("kernel", 3, 4).double()  # neither square nor symmetric
    got = upfirdn2d(x, kernel, up=up, down=down, padding=padding)
    for channel in range(2):
        torch.testing.assert_close(got[0, channel], by_hand(x[0, channel], kernel, up, down, padding))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(*[st.integers(-1, 5)] * 4),
)
def test_upfirdn_equals_the_published_steps(
    height: int, width: int, taps: int, up: int, down: int, padding: tuple[int, int, int, int]
) -> None:
    left, right, above, below = padding
    if width * up + left + right < taps or height * up + above + below < taps:
        return  # nothing would be left
    x, kernel = values("x", 2, 3, height, width), values("kernel", taps, taps)
    expected = upfirdn2d_plain(x, kernel, up=up, down=down, padding=padding)
    got = upfirdn2d(x, kernel, up=up, down=down, padding=padding)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_upfirdn_has_the_definition_s_gradient() -> None:
    x, kernel = values("x", 1, 2, 4, 4).double().requires_grad_(), filter_kernel().double()
    assert torch.autograd.gradcheck(lambda v: upfirdn2d(v, kernel, up=2, padding=(2, 1, 2, 1)), x)
    assert torch.autograd.gradgradcheck(lambda v: upfirdn2d(v, kernel, padding=(2, 2, 2, 2)).square(), x)


def test_filters_keep_a_constant_picture() -> None:
    ones = torch.ones(1, 3, 16, 16)
    torch.testing.assert_close(Upsample()(ones)[..., 2:-2, 2:-2], torch.ones(1, 3, 28, 28))
    torch.testing.assert_close(Blur(2, 1)(ones)[..., 2:-2, 2:-2], torch.ones(1, 3, 12, 12))


def modulated(layer: ModulatedConv2d, x: Tensor, style: Tensor) -> Tensor:
    """The published form: a kernel of its own for each picture, plain filter."""
    out = []
    for one, s in zip(x, layer.modulation(style), strict=True):
        weight = layer.scale * layer.weight[0] * s[None, :, None, None]
        if layer.demodulates:
            weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        if layer.blur is None:
            out.append(functional.conv2d(one[None], weight, padding=weight.shape[-1] // 2))
        else:
            wide = functional.conv_transpose2d(one[None], weight.transpose(0, 1), stride=2)
            out.append(upfirdn2d_plain(wide, layer.blur.kernel, padding=(1, 1, 1, 1)))
    return torch.cat(out)


@pytest.mark.parametrize("upsamples", [False, True])
@pytest.mark.parametrize("demodulates", [False, True])
def test_modulation_is_the_published_one(upsamples: bool, demodulates: bool) -> None:
    layer = fill_seeded(ModulatedConv2d(6, 5, 3, 8, demodulates=demodulates, upsamples=upsamples))
    x, style = values("x", 3, 6, 8, 8), values("style", 3, 8)
    got = layer(x, style)
    assert got.shape == (3, 5, 16, 16) if upsamples else (3, 5, 8, 8)
    torch.testing.assert_close(got, modulated(layer, x, style), atol=1e-5, rtol=1e-5)


def test_demodulation_brings_unit_variance() -> None:
    layer = ModulatedConv2d(64, 64, 3, 8)
    x = torch.randn(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    for gain in (0.1, 10.0):
        out = layer(x, gain * torch.ones(2, 8))[..., 1:-1, 1:-1]
        assert 0.7 < out.std().item() < 1.4


def test_equalised_layers_scale_as_they_run() -> None:
    x = values("x", 2, 6)
    linear = fill_seeded(EqualLinear(6, 4, rate=0.01, bias=1.0))
    expected = x @ (linear.weight * 0.01 / math.sqrt(6)).t() + linear.bias * 0.01
    torch.testing.assert_close(linear(x), expected)
    assert torch.equal(EqualLinear(6, 4, bias=1.0).bias, torch.ones(4))
    conv = fill_seeded(EqualConv2d(6, 4, 3, padding=1, bias=True))
    image = values("image", 1, 6, 5, 5)
    plain = functional.conv2d(image, conv.weight / math.sqrt(54), conv.bias, padding=1)
    torch.testing.assert_close(conv(image), plain)


def test_activation_is_sqrt_two_times_the_leaky_relu() -> None:
    x, layer = values("x", 2, 3, 4, 4), fill_seeded(FusedLeakyReLU(3))
    before = x.clone()
    expected = math.sqrt(2) * functional.leaky_relu(x + layer.bias.view(1, 3, 1, 1), 0.2)
    torch.testing.assert_close(layer(x), expected)
    assert torch.equal(x, before), "the input is somebody else's"
    assert torch.autograd.gradcheck(layer.double(), x.double().requires_grad_())


def test_pixel_norm_gives_unit_length_per_component() -> None:
    y = PixelNorm()(5.0 * values("x", 3, 10))
    torch.testing.assert_close(y.square().mean(1), torch.ones(3))


def test_a_picture_is_added_to_the_one_below() -> None:
    layer = fill_seeded(ToRgb(4, 8))
    x, style, below = values("x", 1, 4, 8, 8), values("style", 1, 8), values("below", 1, 3, 4, 4)
    alone = layer(x, style)
    torch.testing.assert_close(layer(x, style, below) - alone, layer.upsample(below), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_halving_layers_halve(size: int) -> None:
    assert ConvLayer(4, 6, size, halves=True)(values("x", 1, 4, 16, 16)).shape == (1, 6, 8, 8)
    assert ResidualDown(4, 6)(values("x", 1, 4, 16, 16)).shape == (1, 6, 8, 8)
