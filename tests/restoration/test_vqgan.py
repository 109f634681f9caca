"""The vector-quantised autoencoder: published names, published arithmetic, loading."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import WeightsError
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values
from vidrestore.restoration.vqgan import (
    AttnBlock,
    Downsample,
    Encoder,
    Generator,
    PatchDiscriminator,
    ResBlock,
    Upsample,
    VectorQuantizer,
    VQAutoencoder,
    VqganDims,
    load_published,
)

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_networks.py"))
SMALL: VqganDims = GOLDEN["SMALL_VQGAN"]
TINY = VqganDims(
    image_size=16,
    base_channels=8,
    multipliers=(1, 2),
    attention_sizes=(8,),
    codebook_size=16,
    code_channels=8,
    norm_groups=4,
)


def values(key: str, *shape: int) -> Tensor:
    return torch.from_numpy(seeded_values(key, shape))


@pytest.mark.parametrize("name", ["vqautoencoder", "vqgan_discriminator"])
def test_every_key_and_shape_is_the_published_one(name: str) -> None:
    GOLDEN["check_keys"](name)


@pytest.mark.parametrize("case", ["vqgan", "discriminator"])
def test_outputs_are_the_golden_ones(case: str) -> None:
    GOLDEN["check"](case)


def test_layers_stand_where_the_published_tables_have_them() -> None:
    with torch.device("meta"):
        encoder, generator = Encoder(VqganDims()), Generator(VqganDims())
    assert encoder.skip_index == {512: 2, 256: 5, 128: 8, 64: 11, 32: 14, 16: 18}
    assert generator.fusion_index == {16: 6, 32: 9, 64: 12, 128: 15, 256: 18, 512: 21}
    kinds = {nn.Conv2d: "c", ResBlock: "r", AttnBlock: "a", Downsample: "d", Upsample: "u", nn.GroupNorm: "n"}
    assert "".join(kinds[type(block)] for block in encoder.blocks) == "crrdrrdrrdrrdrrdrarararnc"
    assert "".join(kinds[type(block)] for block in generator.blocks) == "crarraraurrurrurrurrurrnc"


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    network = fill_seeded(VQAutoencoder(SMALL)).eval()
    images = values("batch", 3, 3, 64, 64)
    with torch.no_grad():
        together = network.decode(network.predict_codes(network.encode(images)))
        alone = [network.decode(network.predict_codes(network.encode(image[None]))) for image in images]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_forward_is_its_parts_in_a_row() -> None:
    network = fill_seeded(VQAutoencoder(TINY)).eval()
    images = values("parts", 2, 3, 16, 16)
    with torch.no_grad():
        reconstruction = network(images)
        codes = network.predict_codes(network.encode(images))
        torch.testing.assert_close(reconstruction.image, network.decode(codes), atol=1e-5, rtol=1e-5)
    assert torch.equal(reconstruction.quantised.codes, codes)


def test_attention_is_softmax_over_keys_scaled_by_the_root_of_the_channels() -> None:
    block = fill_seeded(AttnBlock(8, groups=4))
    x = values("x", 2, 8, 3, 5)
    t = block.norm(x)
    q, k, v = (conv(t).flatten(2) for conv in (block.q, block.k, block.v))  # (B, C, H * W)
    weights = torch.einsum("bci,bcj->bij", q, k).mul(8**-0.5).softmax(dim=2)
    mixed = torch.einsum("bij,bcj->bci", weights, v).reshape(2, 8, 3, 5)
    torch.testing.assert_close(block(x), x + block.proj_out(mixed), atol=1e-5, rtol=1e-5)


def test_a_residual_block_keeps_its_input_or_maps_it_one_to_one() -> None:
    same, wider = fill_seeded(ResBlock(8, 8, groups=4)), fill_seeded(ResBlock(8, 12, groups=4))
    x = values("x", 1, 8, 4, 4)
    for block, shortcut in ((same, x), (wider, wider.conv_out(x))):
        nn.init.zeros_(block.conv2.weight)
        nn.init.zeros_(block.conv2.bias)
        torch.testing.assert_close(block(x), shortcut)


def test_downsampling_pads_right_and_bottom_only() -> None:
    layer = Downsample(1)
    nn.init.zeros_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    with torch.no_grad():
        layer.conv.weight[0, 0, 0, 0] = 1.0  # the top-left tap sees the even pixels
        assert layer(x).flatten().tolist() == [0.0, 2.0, 8.0, 10.0]
        layer.conv.weight.zero_()
        layer.conv.weight[0, 0, 2, 2] = 1.0  # the bottom-right tap sees padding at the far border
        assert layer(x).flatten().tolist() == [10.0, 0.0, 0.0, 0.0]


def test_lookup_equals_the_one_hot_product() -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    codes = torch.tensor([[3, 0, 15, 7, 7, 1, 2, 9, 4]])
    product = functional.one_hot(codes, 16).float() @ quantizer.embedding.weight
    assert torch.equal(quantizer.lookup(codes), product.reshape(1, 3, 3, 8).permute(0, 3, 1, 2))


def test_nearest_is_the_least_distance() -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    latent = values("latent", 2, 8, 4, 4)
    tokens = latent.permute(0, 2, 3, 1).reshape(-1, 1, 8)
    by_hand = (tokens - quantizer.embedding.weight).square().sum(-1).argmin(-1)
    assert torch.equal(quantizer.nearest(latent), by_hand.reshape(2, 16))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=4, max_size=4))
def test_a_quantised_latent_maps_to_itself(indices: list[int]) -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    codes = torch.tensor([indices])
    assert torch.equal(quantizer.nearest(quantizer.lookup(codes)), codes)


def test_the_gradient_passes_the_quantizer_unchanged() -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    latent = values("latent", 1, 8, 2, 2).requires_grad_()
    weights = values("weights", 1, 8, 2, 2)
    (quantizer(latent).latent * weights).sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, weights)
    assert quantizer.embedding.weight.grad is None


def test_the_codebook_moves_a_quarter_as_fast_as_the_encoder() -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    latent = values("latent", 1, 8, 1, 1).requires_grad_()
    quantised = quantizer(latent)
    quantised.loss.backward()
    code = int(quantised.codes)
    gap = (latent.detach().flatten() - quantizer.embedding.weight[code].detach()) * 2.0 / 8.0
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad.flatten(), gap)
    torch.testing.assert_close(quantizer.embedding.weight.grad[code], -0.25 * gap)


def test_perplexity_counts_the_entries_in_use() -> None:
    quantizer = fill_seeded(VectorQuantizer(TINY))
    entries = quantizer.lookup(torch.tensor([[5, 5, 9, 9]]))
    assert quantizer(entries).perplexity.item() == pytest.approx(2.0, abs=1e-3)


def test_a_512_picture_is_judged_on_30_by_30_patches() -> None:
    with torch.device("meta"):
        assert PatchDiscriminator()(torch.empty(1, 3, 512, 512)).shape == (1, 1, 30, 30)


def test_bfloat16_weights_give_float32_pictures_close_to_the_float32_ones() -> None:
    network = fill_seeded(VQAutoencoder(SMALL)).eval()
    codes = torch.arange(256).reshape(1, 256) % SMALL.codebook_size
    with torch.no_grad():
        exact = network.decode(codes)
        network.generator.to(torch.bfloat16)
        lowered = network.decode(codes)
    assert lowered.dtype == torch.float32
    assert (lowered - exact).std() < 0.02 * exact.std()


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "params_d", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_weights_load(wrapper: str | None, prefix: str) -> None:
    state = seeded_state(VQAutoencoder(TINY), seed=5)
    flat = {prefix + key: value for key, value in state.items()}
    network = VQAutoencoder(TINY)
    load_published(network, flat if wrapper is None else {wrapper: flat, "iter": 3})
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_the_moving_average_is_preferred() -> None:
    average, last = seeded_state(VQAutoencoder(TINY), seed=1), seeded_state(VQAutoencoder(TINY), seed=2)
    network = VQAutoencoder(TINY)
    load_published(network, {"params": last, "params_ema": average})
    assert torch.equal(network.quantize.embedding.weight, average["quantize.embedding.weight"])


def test_loading_brings_a_network_off_the_meta_device_in_float32() -> None:
    with torch.device("meta"):
        network = VQAutoencoder(TINY)
    state = {key: value.half() for key, value in seeded_state(VQAutoencoder(TINY)).items()}
    load_published(network, state)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network(values("x", 1, 3, 16, 16)).image.isfinite().all()


def test_refused_weights_are_named() -> None:
    network = VQAutoencoder(TINY)
    good = seeded_state(network)
    key = "encoder.blocks.1.conv1.weight"
    spoilt: list[tuple[dict[str, object], str]] = [
        ({k: v for k, v in good.items() if k != key}, rf"some\.pth: {key} is missing"),
        ({**good, "extra.weight": torch.zeros(1)}, r"some\.pth: extra\.weight is unexpected"),
        ({**good, key: good[key][:4]}, rf"{key} has shape \(4, 8, 3, 3\), expected \(8, 8, 3, 3\)"),
        ({**good, key: "no tensor"}, rf"{key} is a str, expected a tensor"),
        ({**good, key: good[key] * float("nan")}, rf"{key} holds NaN or infinity"),
        ({}, "encoder.blocks.0.weight is missing"),
    ]
    for state, message in spoilt:
        with pytest.raises(WeightsError, match=message):
            load_published(network, state, source="some.pth")


def test_refused_weights_leave_the_network_as_it_was() -> None:
    network = fill_seeded(VQAutoencoder(TINY))
    state = seeded_state(network, seed=1)
    del state["generator.blocks.0.weight"]
    with pytest.raises(WeightsError):
        load_published(network, state)
    assert torch.equal(network.encoder.blocks[0].weight, seeded_state(network)["encoder.blocks.0.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "does not halve 5 times"),
        ({"base_channels": 48}, "no multiples of 32"),
        ({"multipliers": ()}, "does not halve"),
    ],
)
def test_impossible_dims_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VqganDims(**change)
