"""Weights made from key names: the same everywhere, and of a sane scale."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values
from vidrestore.restoration.vqgan import Encoder, PatchDiscriminator, VQAutoencoder, VqganDims

SMALL = VqganDims(image_size=64, base_channels=32, multipliers=(1, 2), attention_sizes=(32,), codebook_size=64)


class Toy(nn.Module):
    """One layer of each kind that has a rule of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(64, 48, 3)
        self.rectified = nn.Conv2d(64, 48, 3, bias=False)
        self.norm = nn.BatchNorm2d(512)
        self.embedding = nn.Embedding(128, 64)


def test_values_are_those_written_down() -> None:
    # SHAKE-128 of "vidrestore/0/<key>", two bytes each as (u + 0.5) / 32768 - 1
    expected = [-0.4828033447, 0.2414398193, 0.9384918213, 0.2414703369]
    assert seeded_values("encoder.blocks.0.weight", (2, 2)).flatten().tolist() == pytest.approx(expected, abs=1e-7)


def test_values_lie_inside_the_unit_interval() -> None:
    values = seeded_values("anything", (100_000,))
    assert values.dtype == np.float32
    assert -1.0 < values.min() < -0.999
    assert 0.999 < values.max() < 1.0
    assert abs(values.mean()) < 0.01


def test_a_key_has_the_same_tensor_in_every_network() -> None:
    whole = seeded_state(VQAutoencoder(SMALL))
    part = seeded_state(nn.ModuleDict({"encoder": Encoder(SMALL)}))
    assert all(torch.equal(whole[key], part[key]) for key in part)


def test_another_key_or_seed_gives_another_tensor() -> None:
    state, other = seeded_state(VQAutoencoder(SMALL)), seeded_state(VQAutoencoder(SMALL), seed=1)
    assert not torch.equal(state["encoder.blocks.0.weight"], other["encoder.blocks.0.weight"])
    assert not torch.equal(state["encoder.blocks.1.conv1.weight"], state["encoder.blocks.1.conv2.weight"])


def test_the_random_state_of_torch_plays_no_part() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = seeded_state(Toy())["plain.weight"]
        torch.manual_seed(2)
        assert torch.equal(first, seeded_state(Toy())["plain.weight"])


@pytest.mark.parametrize(
    ("key", "variance"),
    [
        ("plain.weight", 1.0 / (64 * 9)),
        ("rectified.weight", 2.0 / (64 * 9)),
        ("embedding.weight", 1.0),
        ("norm.weight", 0.25**2 / 3.0),
        ("norm.running_mean", 0.1**2 / 3.0),
    ],
)
def test_the_scale_follows_from_fan_in_and_name(key: str, variance: float) -> None:
    values: Tensor = seeded_state(Toy())[key]
    assert values.std().item() == pytest.approx(math.sqrt(variance), rel=0.08)


def test_statistics_of_a_batch_norm_are_usable() -> None:
    state = seeded_state(Toy())
    assert state["norm.running_var"].min() > 0.7
    assert state["norm.num_batches_tracked"].item() == 0
    assert state["norm.num_batches_tracked"].dtype == torch.int64


def test_a_network_on_the_meta_device_comes_to_life() -> None:
    with torch.device("meta"):
        network = PatchDiscriminator()
    assert fill_seeded(network) is network
    ordinary = fill_seeded(PatchDiscriminator())
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key


def test_half_precision_networks_get_half_precision_weights() -> None:
    state = seeded_state(Toy().to(torch.bfloat16))
    assert state["plain.weight"].dtype == torch.bfloat16
