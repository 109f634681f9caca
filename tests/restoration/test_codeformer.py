"""CodeFormer: published names, published arithmetic, precision, gradients, export."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import ConfigError, WeightsError
from vidrestore.restoration.codeformer import (
    COLORIZATION,
    INPAINTING,
    RESTORATION,
    CodeFormer,
    CodeFormerDims,
    FusionBlock,
    TransformerLayer,
    match_statistics,
)
from vidrestore.restoration.export import export_onnx
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values
from vidrestore.restoration.vqgan import VQAutoencoder, VqganDims, load_published

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_networks.py"))
SMALL: CodeFormerDims = GOLDEN["SMALL_CODEFORMER"]
TINY = CodeFormerDims(
    VqganDims(
        image_size=16,
        base_channels=8,
        multipliers=(1, 2),
        attention_sizes=(8,),
        codebook_size=16,
        code_channels=8,
        norm_groups=4,
    ),
    width=16,
    num_heads=4,
    num_layers=2,
    fusion_sizes=(8, 16),
)


def values(key: str, *shape: int) -> Tensor:
    return torch.from_numpy(seeded_values(key, shape))


def network_of(dims: CodeFormerDims) -> CodeFormer:
    return fill_seeded(CodeFormer(dims)).eval()


@pytest.fixture(scope="module")
def small() -> CodeFormer:
    return network_of(SMALL)


@pytest.mark.parametrize("name", ["codeformer", "codeformer_colorization", "codeformer_inpainting"])
def test_every_key_and_shape_is_the_published_one(name: str) -> None:
    GOLDEN["check_keys"](name)


def test_as_many_parameters_learn_as_in_the_published_network() -> None:
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in CodeFormer(variant.dims).parameters() if p.requires_grad)
            for variant in (RESTORATION, COLORIZATION, INPAINTING)
        ]
    assert counts == [59_788_608, 58_721_984, 58_459_840]


def test_outputs_are_the_golden_ones() -> None:
    GOLDEN["check"]("codeformer")


@pytest.mark.slow
def test_outputs_at_the_published_size_are_the_golden_ones() -> None:
    GOLDEN["check"]("codeformer_full")


def test_shapes_at_the_published_size() -> None:
    with torch.device("meta"):
        network = CodeFormer()
        encoding = network.encode(torch.empty(2, 3, 512, 512))
        logits = network.predict_logits(encoding.latent)
        image = network(torch.empty(2, 3, 512, 512))
    assert encoding.latent.shape == (2, 256, 16, 16)
    assert [tuple(skip.shape[1:]) for skip in encoding.skips] == [
        (256, 32, 32),
        (256, 64, 64),
        (128, 128, 128),
        (128, 256, 256),
    ]
    assert logits.shape == (2, 256, 1024)
    assert image.shape == (2, 3, 512, 512)


def test_a_batch_equals_its_pictures_one_by_one(small: CodeFormer) -> None:
    images = values("batch", 3, 3, 64, 64)
    with torch.no_grad():
        codes = small.predict_codes(small.encode(images).latent)
        together = small(images)
        for i, image in enumerate(images):
            assert torch.equal(codes[i], small.predict_codes(small.encode(image[None]).latent)[0])
            torch.testing.assert_close(together[i], small(image[None])[0], atol=1e-4, rtol=1e-4)


def test_forward_is_its_parts_in_a_row(small: CodeFormer) -> None:
    images = values("parts", 1, 3, 64, 64)
    with torch.no_grad():
        latent, skips = small.encode(images)
        codes = small.predict_codes(latent)
        assert torch.equal(small(images, 0.7), small.decode(codes, skips, 0.7, latent=latent))
        assert torch.equal(small(images, 0.7, adain=False), small.decode(codes, skips, 0.7))


def test_w_zero_is_no_fusion_and_needs_no_skips(small: CodeFormer) -> None:
    latent, skips = values("latent", 2, 32, 16, 16), (values("a", 2, 64, 32, 32), values("b", 2, 32, 64, 64))
    with torch.no_grad():
        codes = small.predict_codes(latent)
        plain = small.generator(small.quantize.lookup(codes))
        assert torch.equal(small.decode(codes, (), 0.0), plain)
        assert torch.equal(small.decode(codes, skips, 0.0), plain)
        assert torch.equal(small.decode(codes, skips, torch.zeros(2)), plain)
        assert not torch.allclose(small.decode(codes, skips, 0.5), plain, atol=0.01)


def test_each_picture_of_a_batch_may_have_its_own_w(small: CodeFormer) -> None:
    images = values("own w", 3, 3, 64, 64)
    with torch.no_grad():
        latent, skips = small.encode(images)
        codes = small.predict_codes(latent)
        mixed = small.decode(codes, skips, torch.tensor([0.0, 0.5, 1.3]))
        for i, w in enumerate((0.0, 0.5, 1.3)):
            torch.testing.assert_close(mixed[i], small.decode(codes, skips, w)[i], atol=1e-5, rtol=1e-5)


def test_a_transformer_layer_is_torch_attention_with_the_position_on_queries_and_keys() -> None:
    layer = fill_seeded(TransformerLayer(32, 4, 64))
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    attention.load_state_dict(layer.self_attn.state_dict())
    x, position = values("x", 2, 9, 32), values("position", 9, 32)
    t = functional.layer_norm(x, (32,), layer.norm1.weight, layer.norm1.bias, 1e-5)
    y = x + attention(t + position, t + position, t, need_weights=False)[0]
    u = functional.layer_norm(y, (32,), layer.norm2.weight, layer.norm2.bias, 1e-5)
    hidden = u @ layer.linear1.weight.t() + layer.linear1.bias
    exact_gelu = 0.5 * hidden * (1.0 + torch.erf(hidden / 2**0.5))
    expected = y + exact_gelu @ layer.linear2.weight.t() + layer.linear2.bias
    torch.testing.assert_close(layer(x, position), expected, atol=1e-5, rtol=1e-5)


def test_tokens_are_the_latent_row_by_row(small: CodeFormer) -> None:
    latent = values("latent", 1, 32, 16, 16)
    tokens = torch.stack([latent[0, :, i // 16, i % 16] for i in range(256)])
    with torch.no_grad():
        x = small.feat_emb(tokens)[None]
        for layer in small.ft_layers:
            x = layer(x, small.position_emb)
        torch.testing.assert_close(small.predict_logits(latent), small.idx_pred_layer(x))


def test_fusion_scales_and_shifts_what_the_generator_has() -> None:
    block = fill_seeded(FusionBlock(8, groups=4))
    skip, feature = values("skip", 2, 8, 5, 5), values("feature", 2, 8, 5, 5)
    h = block.encode_enc(torch.cat([skip, feature], dim=1))
    expected = feature + 0.3 * (feature * block.scale(h) + block.shift(h))
    torch.testing.assert_close(block(skip, feature, 0.3), expected)
    assert torch.equal(block(skip, feature, 0.0), feature)
    assert isinstance(block.scale[1], nn.LeakyReLU)
    assert block.scale[1].negative_slope == 0.2


def test_statistics_are_matched_as_published() -> None:
    content, style = seeded_values("content", (2, 3, 4, 4)), 3.0 * seeded_values("style", (2, 3, 4, 4)) + 1.0

    def std(x: np.ndarray) -> np.ndarray:
        return np.sqrt(x.reshape(2, 3, 16).var(-1, ddof=1) + 1e-5).reshape(2, 3, 1, 1)

    def mean(x: np.ndarray) -> np.ndarray:
        return x.mean((2, 3), keepdims=True)

    expected = (content - mean(content)) / std(content) * std(style) + mean(style)
    matched = match_statistics(torch.from_numpy(content), torch.from_numpy(style))
    np.testing.assert_allclose(matched.numpy(), expected, atol=1e-5)


def test_statistics_of_a_flat_channel_stay_finite() -> None:
    flat = torch.full((1, 2, 4, 4), 0.25)
    assert match_statistics(flat, values("style", 1, 2, 4, 4)).isfinite().all()
    torch.testing.assert_close(
        match_statistics(values("x", 1, 2, 4, 4), flat).std(), torch.tensor(0.0), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("adain", [False, True])
def test_image_losses_reach_the_fusion_blocks_only(adain: bool) -> None:
    network = network_of(TINY).train()
    network(values("x", 2, 3, 16, 16), 1.0, adain=adain).square().mean().backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {name for name, _ in network.named_parameters() if name.startswith("fuse_convs_dict.")}


def test_code_losses_reach_encoder_and_transformer_only() -> None:
    network = network_of(TINY).train()
    latent = network.encode(values("x", 2, 3, 16, 16)).latent
    logits = network.predict_logits(latent)
    targets = torch.arange(128).reshape(2, 64) % 16
    functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    reached = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}
    assert all(p.grad is not None for p in network.encoder.parameters())


def test_the_latent_loss_reaches_the_encoder_only() -> None:
    network = network_of(TINY).train()
    latent = network.encode(values("x", 2, 3, 16, 16)).latent
    target = network.quantize.lookup(torch.zeros(2, 64, dtype=torch.int64))
    functional.mse_loss(latent, target).backward()
    assert {name.split(".")[0] for name, p in network.named_parameters() if p.grad is not None} == {"encoder"}


@pytest.mark.parametrize("encoder", [torch.float32, torch.float16])
def test_bfloat16_keeps_the_codes_and_the_picture(encoder: torch.dtype) -> None:
    network, images = network_of(SMALL), values("precision", 2, 3, 64, 64)  # 512 tokens of 128 codes
    with torch.no_grad():
        latent, skips = network.encode(images)
        codes = network.predict_codes(latent)
        image = network.decode(codes, skips, 0.5, latent=latent)
        network.to_precision(torch.bfloat16, encoder=encoder)
        low_latent, low_skips = network.encode(images)
        low_codes = network.predict_codes(low_latent)
        low_image = network.decode(codes, low_skips, 0.5, latent=low_latent)
    agreement = (low_codes == codes).float().mean().item()
    assert low_latent.dtype == low_image.dtype == torch.float32
    assert agreement >= (1.0 if encoder is torch.float32 else 0.99), agreement
    # 2 % of the spread is 46 dB in a picture whose spread is 0.5, as that of a photograph; seeded ones have 1
    assert (low_image - image).std() <= 0.02 * image.std()


def test_transformer_and_codebook_stay_in_float32() -> None:
    network = network_of(TINY).to_precision(torch.bfloat16, encoder=torch.float16)
    dtypes = {name.split(".")[0]: p.dtype for name, p in network.named_parameters()}
    assert dtypes.pop("encoder") == torch.float16
    assert dtypes.pop("generator") == dtypes.pop("fuse_convs_dict") == torch.bfloat16
    assert set(dtypes.values()) == {torch.float32}


def test_autocast_leaves_the_choice_of_codes_alone() -> None:
    network, latent = network_of(TINY), values("latent", 2, 8, 8, 8)
    with torch.no_grad():
        logits, nearest = network.predict_logits(latent), network.quantize.nearest(latent)
        with torch.autocast("cpu", torch.bfloat16):
            assert network.feat_emb(latent.flatten(2).mT).dtype == torch.bfloat16  # elsewhere autocast is at work
            assert torch.equal(network.predict_logits(latent), logits)
            assert torch.equal(network.quantize.nearest(latent), nearest)


def test_compiles_without_a_graph_break() -> None:
    network, images = network_of(EXPORTED), values("x", 2, 3, 8, 8)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images, 0.5), network(images, 0.5))


def test_loading_keeps_what_is_frozen_frozen() -> None:
    with torch.device("meta"):
        network = CodeFormer(TINY)
    load_published(network, {"params_ema": seeded_state(network)})
    frozen = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"quantize", "generator"}


def test_stage_two_starts_from_the_autoencoder_of_stage_one() -> None:
    network, stage_one = network_of(TINY), fill_seeded(VQAutoencoder(TINY.autoencoder), seed=1)
    new = ("position_emb", "feat_emb", "ft_layers", "idx_pred_layer", "fuse_convs_dict")
    before = network.feat_emb.weight.clone()
    load_published(network, stage_one.state_dict(), may_lack=new)
    images = values("x", 1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.encode(images).latent, stage_one.encode(images))
    assert torch.equal(network.feat_emb.weight, before)
    with pytest.raises(WeightsError, match=r"fuse_convs_dict\.8\.encode_enc\.norm1\.weight is missing"):
        load_published(network, stage_one.state_dict(), may_lack=new[:-1])
    with torch.device("meta"):
        empty = CodeFormer(TINY)
    with pytest.raises(WeightsError, match="position_emb is missing"):  # it has no value that it could keep
        load_published(empty, stage_one.state_dict(), may_lack=new)


# one of everything: tracing takes time per layer
EXPORTED = CodeFormerDims(
    VqganDims(
        image_size=8,
        base_channels=8,
        multipliers=(1, 1),
        blocks_per_level=1,
        attention_sizes=(4,),
        codebook_size=16,
        code_channels=8,
        norm_groups=4,
    ),
    width=16,
    num_heads=4,
    num_layers=1,
    fusion_sizes=(8,),
)


def test_exports_with_a_free_batch_size() -> None:
    network = network_of(EXPORTED)
    batch = torch.export.Dim("batch", min=1, max=16)
    shapes = {"images": {0: batch}, "w": {0: batch}}
    exported = torch.export.export(
        network, (values("x", 2, 3, 8, 8), torch.tensor([0.5, 0.5])), dynamic_shapes=shapes
    ).module()
    images, w = values("y", 5, 3, 8, 8), torch.linspace(0.0, 1.0, 5)
    with torch.no_grad():
        torch.testing.assert_close(exported(images, w), network(images, w), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX export wants onnx and onnxscript, running it onnxruntime",
)
def test_exports_to_onnx(tmp_path: Path) -> None:
    import onnxruntime

    network = network_of(EXPORTED)
    path = tmp_path / "codeformer.onnx"
    export_onnx(network, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (2, 3):
        images, w = values("z", batch, 3, 8, 8), torch.linspace(0.0, 1.0, batch)
        (got,) = session.run(None, {"images": images.numpy(), "w": w.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(got, network(images, w).numpy(), atol=1e-4, rtol=1e-4)


def test_export_without_its_packages_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wants onnx and onnxscript: pip install 'vidrestore\[export\]'"):
        export_onnx(network_of(EXPORTED), tmp_path / "codeformer.onnx")


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 1, 16, 16), (3, 16, 16)])
def test_pictures_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected pictures \(B, 3, 16, 16\)"):
        network_of(TINY).encode(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_heads": 7}, "no multiple of 7 heads"), ({"fusion_sizes": (48,)}, "not all among")],
)
def test_impossible_dims_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CodeFormerDims(**change)
