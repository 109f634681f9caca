"""Choice of device and precision."""

from __future__ import annotations

import pytest
import torch

from vidrestore.device import choose_device, choose_precision, describe_device
from vidrestore.errors import ConfigError, DeviceError


def test_auto_is_a_device_that_is_there() -> None:
    device = choose_device("auto")
    assert torch.zeros(1, device=device).device.type == device.type


@pytest.mark.parametrize("name", ["tpu", "meta", "cuda:x", ""])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown device .*known: auto, cpu, cuda"):
        choose_device(name)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="device 'cuda:99' is not there"):
        choose_device("cuda:99")


def test_a_cpu_works_in_single_precision_unless_told_otherwise() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    assert describe_device(cpu).startswith("cpu (")
