"""SGPN: published names, published arithmetic, ablations, a start from StyleGAN2."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.restoration.seeded import fill_seeded, seeded_values
from vidrestore.restoration.sgpn import Sgpn, SgpnDims, SgpnDiscriminator, start_from_stylegan
from vidrestore.restoration.stylegan import ConstantInput, FusedLeakyReLU, ModulatedConv2d, ToRgb, upfirdn2d_plain

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_sgpn.py"))
SMALL: SgpnDims = GOLDEN["SMALL"]
TINY = SgpnDims(size=16, max_channels=8, area_channels=128, latent=4, style=8)


def inputs(batch: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    made: tuple[Tensor, Tensor, Tensor] = GOLDEN["inputs"](batch, size)
    return made


@pytest.fixture(scope="module")
def small() -> Sgpn:
    return fill_seeded(Sgpn(SMALL)).eval()


@pytest.mark.parametrize("name", ["sgpn", "sgpn_discriminator"])
def test_every_key_and_shape_is_the_published_one(name: str) -> None:
    GOLDEN["check_keys"](name)


def test_as_many_parameters_learn_as_in_the_published_networks() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in network.parameters()) for network in (Sgpn(), SgpnDiscriminator())]
    assert counts == [74_538_663, 28_982_849]


@pytest.mark.parametrize("case", ["sgpn", "discriminator"])
def test_outputs_are_the_golden_ones(case: str) -> None:
    GOLDEN["check"](case)


@pytest.mark.slow
def test_outputs_at_the_published_size_are_the_golden_ones() -> None:
    GOLDEN["check"]("sgpn_full")


class Published:
    """The released forward pass, step by step: kernels per picture, padded filters, nothing shared with ours."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def activate(self, x: Tensor, name: str) -> Tensor:
        bias = self.state[name]
        return 2**0.5 * functional.leaky_relu(x + bias.view(-1, *[1] * (x.ndim - 2)), 0.2)

    def conv(self, x: Tensor, name: str, **settings: Any) -> Tensor:
        weight = self.state[name]
        return functional.conv2d(x, weight / weight[0].numel() ** 0.5, **settings)

    def linear(self, x: Tensor, name: str, rate: float = 1.0) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.linear(x, weight * rate / weight.shape[1] ** 0.5, bias * rate)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kernel = self.state["netE.ecd1.0.0.kernel"]
        maps = [self.activate(self.conv(x, "netE.ecd0.0.0.weight"), "netE.ecd0.0.1.bias")]
        while maps[-1].shape[-1] > 4:
            blurred = upfirdn2d_plain(maps[-1], kernel, padding=(2, 2, 2, 2))
            layer = f"netE.ecd{len(maps)}.0"
            maps.append(self.activate(self.conv(blurred, f"{layer}.1.weight", stride=2), f"{layer}.2.bias"))
        z = self.linear(maps[-1].flatten(1), "netE.final_linear.0")
        return 2**0.5 * functional.leaky_relu(z, 0.2), maps[::-1]

    def modulated(self, x: Tensor, w: Tensor, name: str, *, up: bool = False, demodulates: bool = True) -> Tensor:
        weight = self.state[f"{name}.weight"]
        batch, (_, out, into, k, _) = len(x), weight.shape
        s = self.linear(w, f"{name}.modulation").view(batch, 1, into, 1, 1)
        weight = weight * s / (into * k * k) ** 0.5
        if demodulates:
            weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
        flat = x.reshape(1, batch * into, *x.shape[2:])
        if up:
            kernels = weight.transpose(1, 2).reshape(batch * into, out, k, k)
            y = functional.conv_transpose2d(flat, kernels, stride=2, groups=batch)
            y = y.view(batch, out, *y.shape[2:])
            return upfirdn2d_plain(y, self.state[f"{name}.blur.kernel"], padding=(1, 1, 1, 1))
        y = functional.conv2d(flat, weight.view(batch * out, into, k, k), padding=k // 2, groups=batch)
        return y.view(batch, out, *y.shape[2:])

    def rgb(self, x: Tensor, w: Tensor, name: str) -> Tensor:
        return self.modulated(x, w, f"{name}.conv", demodulates=False) + self.state[f"{name}.bias"]

    def __call__(self, degraded: Tensor, rendered: Tensor, coefficients: Tensor) -> Tensor:
        (z, seen), (z3, drawn) = self.encode(degraded), self.encode(rendered)
        w = torch.cat([z, z3, coefficients], 1)
        w = w * torch.rsqrt(w.square().mean(1, keepdim=True) + 1e-8)
        for i in (1, 2, 3):
            w = 2**0.5 * functional.leaky_relu(self.linear(w, f"netG.mlp.{i}", 0.01), 0.2)
        x = self.modulated(self.state["netG.input.input"].repeat(len(z), 1, 1, 1), w, "netG.conv1.conv")
        x = torch.cat([x, self.state["netG.conv1.noise.weight"] * seen[0]], 1)
        x = self.activate(x, "netG.conv1.activate.bias")
        image = self.rgb(x, w, "netG.to_rgb1")
        for level in range(1, len(seen)):
            for i in (2 * level - 2, 2 * level - 1):
                name = f"netG.convs.{i}"
                o = self.modulated(x, w, f"{name}.conv", up=i % 2 == 0)
                mask = self.conv(torch.cat([o, seen[level], drawn[level]], 1), f"{name}.convs_mask.0.weight")
                mask = torch.sigmoid(mask + self.state[f"{name}.convs_mask.0.bias"].view(1, -1, 1, 1))
                mixed = mask * seen[level] + (1 - mask) * drawn[level]
                x = self.activate(
                    torch.cat([o, self.state[f"{name}.noise.weight"] * mixed], 1), f"{name}.activate.bias"
                )
            kernel = self.state[f"netG.to_rgbs.{level - 1}.upsample.kernel"]
            image = upfirdn2d_plain(image, kernel, up=2, padding=(2, 1, 2, 1))
            image = image + self.rgb(x, w, f"netG.to_rgbs.{level - 1}")
        return image


def test_the_whole_network_is_the_published_arithmetic(small: Sgpn) -> None:
    given = inputs(3, 32)
    with torch.no_grad():
        expected = Published(small.state_dict())(*given)
        assert (small(*given) - expected).abs().max() <= 1e-4 * expected.std()


def test_forward_is_its_halves_in_a_row(small: Sgpn) -> None:
    degraded, rendered, coefficients = inputs(3, 32)
    with torch.no_grad():
        seen, drawn = small.encode(degraded), small.encode(rendered)
        assert torch.equal(small(degraded, rendered, coefficients), small.decode(seen, drawn, coefficients))
        order = torch.tensor([2, 0, 2])
        again = small.decode(seen.select(order), drawn.select(order), coefficients[order])
        torch.testing.assert_close(again, small(degraded, rendered, coefficients)[order], atol=1e-5, rtol=1e-5)


def test_the_mask_chooses_between_the_two_pictures(small: Sgpn) -> None:
    degraded, rendered, coefficients = inputs(1, 32)
    masks: list[Tensor] = []
    with torch.no_grad():
        seen, drawn = small.encode(degraded), small.encode(rendered)
        small.decode(seen, drawn, coefficients, masks)
        assert [m.shape[-1] for m in masks] == [8, 8, 16, 16, 32, 32]
        assert all(m.min() >= 0.0 and m.max() <= 1.0 for m in masks)
        for bias, chosen in ((60.0, seen), (-60.0, drawn)):  # masks of all ones, then of all zeros
            network = fill_seeded(Sgpn(SMALL))
            for block in network.netG.convs:
                block.convs_mask[0].bias.fill_(bias)
            style = network.netG.map(seen, drawn, coefficients)
            one = network.netG(style, seen, drawn)
            alone = chosen._replace(maps=(seen.maps[0], *chosen.maps[1:]))
            torch.testing.assert_close(one, network.netG(style, alone, alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"has_shape_prior": False}, {"has_generative_prior": False}, {"fusion": "concat"}],
    ids=lambda change: next(iter(change)),
)
def test_each_ablation_is_one_switch_and_trains(change: dict[str, Any]) -> None:
    dims = replace(TINY, **change)
    network = Sgpn(dims)
    with torch.no_grad():  # features come in from the start, so that every part has a gradient
        for name, parameter in network.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.5)
    degraded, rendered, coefficients = inputs(2, 16)
    image = network(degraded, rendered, coefficients)
    image.square().mean().backward()
    assert image.shape == (2, 3, 16, 16)
    unused = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    if dims.has_generative_prior:
        assert unused == set()
    else:  # the style is zero: its matrices have no effect
        assert all("modulation.weight" in name or "final_linear" in name for name in unused)
        assert not any("mlp" in name for name, _ in network.named_parameters())
    if not dims.has_shape_prior:
        assert torch.equal(image, network(degraded)), "neither render nor coefficients are looked at"
    if dims.fusion == "concat":
        assert not any("convs_mask" in name for name, _ in network.named_parameters())


class StyleGan(nn.Module):
    """StyleGAN2's generator without its noise, in the layout of rosinality's port."""

    def __init__(self, dims: SgpnDims) -> None:
        super().__init__()
        style = dims.style
        self.input = ConstantInput(dims.channels(4))
        self.conv1 = self.block(dims.channels(4), dims.channels(4), style, False)
        self.to_rgb1 = ToRgb(dims.channels(4), style, upsamples=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        below = dims.channels(4)
        for size in dims.sizes[1:]:
            here = dims.channels(size)
            self.convs.extend([self.block(below, here, style, True), self.block(here, here, style, False)])
            self.to_rgbs.append(ToRgb(here, style))
            below = here

    @staticmethod
    def block(into: int, out: int, style: int, up: bool) -> nn.ModuleDict:
        parts = {"conv": ModulatedConv2d(into, out, 3, style, upsamples=up), "activate": FusedLeakyReLU(out)}
        return nn.ModuleDict(parts)

    def forward(self, w: Tensor) -> Tensor:
        x = self.conv1["activate"](self.conv1["conv"](self.input(len(w)), w))
        image: Tensor = self.to_rgb1(x, w)
        for i, to_rgb in enumerate(self.to_rgbs):
            for block in self.convs[2 * i : 2 * i + 2]:
                x = block["activate"](block["conv"](x, w))
            image = to_rgb(x, w, image)
        return image

    def published_state(self) -> dict[str, Tensor]:
        """With what the port's files hold besides: the factors of the noise, the noise maps, its own mapping."""
        state = dict(self.state_dict())
        names = ["conv1", *[f"convs.{i}" for i in range(len(self.convs))]]
        state |= {f"{name}.noise.weight": torch.full((1,), 0.3) for name in names}
        return state | {"noises.noise_0": torch.zeros(1, 1, 4, 4), "style.1.weight": torch.zeros(8, 8)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_generator_starts_as_a_stylegan(wrapped: bool) -> None:
    dims = replace(TINY, size=32, max_channels=64, area_channels=1024)
    plain = fill_seeded(StyleGan(replace(dims, size=64, area_channels=1024)), seed=3)  # larger: its last level is left
    state = plain.published_state()
    network = Sgpn(dims)
    filled = start_from_stylegan(network, {"g_ema": state, "d": {}} if wrapped else state)
    assert "netG.convs.3.conv.weight" in filled
    assert not any("mlp" in key or "netE" in key for key in filled)
    small = StyleGan(dims)
    small.load_state_dict({key: state[key] for key in small.state_dict()})
    w = torch.from_numpy(seeded_values("w", (2, dims.style)))
    degraded, rendered, _ = inputs(2, 32)
    with torch.no_grad():
        seen, drawn = network.encode(degraded), network.encode(rendered)
        expected, got = small(w), network.netG(w, seen, drawn)
        assert (got - expected).abs().mean() <= 0.02 * expected.std(), "it paints what StyleGAN2 paints"
    network.netG(w, seen, drawn).square().mean().backward()
    factors = [p.grad for name, p in network.netG.named_parameters() if name.endswith("noise.weight")]
    assert all(g is not None and g.any() for g in factors), "and the features can come in"


def test_a_file_that_is_no_stylegan_is_refused() -> None:
    state = fill_seeded(StyleGan(TINY)).published_state()
    network = Sgpn(TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"convs\.1\.conv\.weight is missing"):
        start_from_stylegan(network, {k: v for k, v in state.items() if k != "convs.1.conv.weight"})
    with pytest.raises(WeightsError, match="does not fit"):
        start_from_stylegan(network, state | {"input.input": torch.zeros(1, 9, 4, 4)})
    with pytest.raises(WeightsError, match="NaN"):
        start_from_stylegan(network, state | {"to_rgb1.bias": torch.full((1, 3, 1, 1), float("nan"))})
    with pytest.raises(WeightsError, match="no generative prior"):
        start_from_stylegan(Sgpn(replace(TINY, has_generative_prior=False)), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_discriminator_takes_any_batch() -> None:
    network = fill_seeded(SgpnDiscriminator(SMALL))
    with torch.no_grad():
        images = GOLDEN["picture"]("batch", 6, 3, 32, 32)
        assert network(images).shape == (6, 1)  # 4 does not divide 6: one group
        assert network(images[:1]).shape == (1, 1)
        # of eight pictures, 0, 2, 4, 6 are a group and 1, 3, 5, 7 the other, as published
        eight = GOLDEN["picture"]("eight", 8, 3, 32, 32)
        changed = eight.clone()
        changed[1] += 0.5
        moved = (network(changed) - network(eight)).abs().flatten() > 0
        assert moved.tolist() == [False, True] * 4


def test_autocast_keeps_the_picture(small: Sgpn) -> None:
    given = inputs(2, 32)
    with torch.no_grad():
        image = small(*given)
        with torch.autocast("cpu", torch.bfloat16):
            low = small(*given).float()
    assert (low - image).std() <= 0.03 * image.std()


def test_wrong_pictures_are_refused(small: Sgpn) -> None:
    with pytest.raises(ValueError, match=r"expected pictures \(B, 3, 32, 32\)"):
        small(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="has a shape prior"):
        small(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="power of two"):
        SgpnDims(size=24)
