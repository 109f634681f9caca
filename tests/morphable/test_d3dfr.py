"""The published regressor: names, numbers, files."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidrestore.errors import WeightsError
from vidrestore.morphable.d3dfr import Bottleneck, D3dfr, D3dfrDims, load_published_d3dfr
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values

GOLDEN = runpy.run_path(str(Path(__file__).parents[1] / "golden" / "make_golden_d3dfr.py"))
SMALL = D3dfrDims(channels=4, blocks=(1, 2, 1, 1))


def small() -> D3dfr:
    return fill_seeded(D3dfr(SMALL)).eval()


def pictures(batch: int) -> Tensor:
    return torch.from_numpy(seeded_values("pictures", (batch, 3, 64, 64))) * 0.5 + 0.5


def test_every_key_and_shape_is_the_published_one() -> None:
    GOLDEN["check_keys"]()


def test_outputs_are_the_golden_ones() -> None:
    GOLDEN["check"]()


def test_an_untrained_network_says_the_mean_face() -> None:
    assert torch.equal(D3dfr(SMALL).eval()(pictures(2)), torch.zeros(2, 257))


def test_the_seven_layers_come_in_the_order_of_the_coefficients() -> None:
    network = small()
    for k, (layer, first) in enumerate(zip(network.final_layers, (0, 80, 144, 224, 227, 254, 256), strict=True)):
        assert isinstance(layer, nn.Conv2d)
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, k + 1.0)
        assert network(pictures(1))[0, first] == k + 1.0
    assert network(pictures(1)).shape == (1, 257)


def test_a_batch_equals_its_pictures_one_by_one() -> None:
    network, images = small(), pictures(3)
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=1e-4)


def test_the_stride_is_in_the_middle_convolution() -> None:
    block = Bottleneck(8, 4, stride=2)
    assert [block.conv1.stride, block.conv2.stride, block.conv3.stride] == [(1, 1), (2, 2), (1, 1)]


def test_under_autocast_coefficients_stay_in_float32() -> None:
    network, images = small(), pictures(2)
    with torch.no_grad():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            lowered = network(images)
    assert lowered.dtype == torch.float32
    assert (lowered - exact).abs().max() < 0.05 * exact.std()


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_published_forms_load(wrapped: bool) -> None:
    network, state = D3dfr(SMALL), seeded_state(D3dfr(SMALL), seed=3)
    load_published_d3dfr(network, {"net_recon": state} if wrapped else state)
    assert torch.equal(network.final_layers[4].bias, state["final_layers.4.bias"])  # type: ignore[arg-type]


def test_other_files_are_named_and_change_nothing() -> None:
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    good = seeded_state(network, seed=3)
    cases: list[tuple[dict[str, object], str]] = [
        ({k: v for k, v in good.items() if k != "backbone.bn1.bias"}, r"x\.pth: backbone\.bn1\.bias is missing"),
        ({**good, "fc.weight": torch.zeros(1)}, r"fc\.weight is unexpected"),
        ({**good, "final_layers.0.bias": torch.zeros(81)}, r"must have shape \(80,\), found \(81,\)"),
        ({**good, "final_layers.0.bias": "text"}, "found str"),
        ({**good, "final_layers.0.bias": torch.full((80,), torch.nan)}, "not finite"),
    ]
    for state, message in cases:
        with pytest.raises(WeightsError, match=message):
            load_published_d3dfr(network, state, source="x.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
