"""ParseNet: published names, published arithmetic."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidrestore.errors import WeightsError
from vidrestore.restoration.parsenet import LABELS, PASTED_LABELS, ConvLayer, ParseNet, ParseNetDims, ResidualBlock
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values
from vidrestore.restoration.vqgan import load_published

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_networks.py"))
SMALL: ParseNetDims = GOLDEN["SMALL_PARSENET"]


def values(key: str, *shape: int) -> Tensor:
    return torch.from_numpy(seeded_values(key, shape))


def test_every_key_and_shape_is_the_published_one() -> None:
    GOLDEN["check_keys"]("parsenet")


def test_outputs_are_the_golden_ones() -> None:
    GOLDEN["check"]("parsenet")


def test_shapes_at_the_published_size() -> None:
    with torch.device("meta"):
        parsing = ParseNet()(torch.empty(2, 3, 512, 512))
    assert parsing.logits.shape == (2, 19, 512, 512)
    assert parsing.image.shape == (2, 3, 512, 512)


def test_pasted_labels_leave_out_what_is_no_face() -> None:
    assert {LABELS[i] for i in set(range(19)) - set(PASTED_LABELS)} == {
        "background",
        "hat",
        "necklace",
        "neck",
        "cloth",
    }


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    network = fill_seeded(ParseNet(SMALL)).eval()
    images = values("batch", 3, 3, 32, 48)
    with torch.no_grad():
        together = network(images).logits
        assert torch.equal(network.parse(images), together)
        alone = torch.cat([network.parse(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_borders_are_reflected() -> None:
    layer = fill_seeded(ConvLayer(2, 4))
    flat = layer(torch.ones(1, 2, 5, 6))
    torch.testing.assert_close(flat, flat[..., 2:3, 2:3].expand_as(flat))  # zeros beyond the border would show


def test_a_halving_block_strides_in_its_second_convolution_a_doubling_one_doubles_in_its_first() -> None:
    down, up = ResidualBlock(8, 12, stride=2), ResidualBlock(12, 8, doubles=True)
    assert (down.conv1.conv2d.stride, down.conv2.conv2d.stride) == ((1, 1), (2, 2))
    assert (up.conv1.doubles, up.conv2.doubles) == (True, False)
    assert down(torch.zeros(1, 8, 6, 6)).shape == (1, 12, 3, 3)
    assert up(torch.zeros(1, 12, 3, 3)).shape == (1, 8, 6, 6)


def test_the_sum_of_a_block_is_not_activated() -> None:
    block = fill_seeded(ResidualBlock(8, 8)).eval()
    nn.init.zeros_(block.conv2.norm.norm.weight)
    nn.init.zeros_(block.conv2.norm.norm.bias)
    x = values("x", 1, 8, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_the_body_is_added_to_the_encoder() -> None:
    network = fill_seeded(ParseNet(SMALL)).eval()
    image = values("x", 1, 3, 16, 16)
    with torch.no_grad():
        encoded = network.encoder(image)
        expected = network.out_mask_conv(network.decoder(encoded + network.body(encoded)))
        torch.testing.assert_close(network.parse(image), expected)


def test_bfloat16_keeps_the_labels() -> None:
    network = fill_seeded(ParseNet(SMALL)).eval()
    images = values("x", 2, 3, 32, 32)
    with torch.no_grad():
        exact = network.parse(images).argmax(1)
        lowered = network.to(torch.bfloat16).parse(images.bfloat16()).argmax(1)
    assert (exact == lowered).float().mean() >= 0.97  # seeded logits are closer together than trained ones


def test_a_flat_published_file_loads_and_a_foreign_one_is_named() -> None:
    network, state = ParseNet(SMALL), seeded_state(ParseNet(SMALL), seed=3)
    load_published(network, state, source="parsing_parsenet.pth")
    assert torch.equal(network.out_mask_conv.conv2d.bias, state["out_mask_conv.conv2d.bias"])
    del state["body.1.conv2.norm.norm.running_var"]
    with pytest.raises(
        WeightsError, match=r"parsing_parsenet\.pth: body\.1\.conv2\.norm\.norm\.running_var is missing"
    ):
        load_published(network, state, source="parsing_parsenet.pth")
