"""Which device the network runs on, and in which precision."""

from __future__ import annotations

import torch

from vidrestore.errors import ConfigError, DeviceError

__all__ = ["choose_device", "choose_precision", "describe_device"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` takes the first of cuda, mps, cpu that is there.

    Raises:
        ConfigError: the name is none that torch knows.
        DeviceError: the device is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}, known: auto, cpu, cuda, cuda:N, mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {name!r}, known: auto, cpu, cuda, cuda:N, mps")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise DeviceError(f"device {name!r} is not there ({count} CUDA devices found); use --device cpu or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not there; use --device cpu or auto")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The arithmetic of the network; ``auto`` is float32 on a CPU and bfloat16 (or float16) on a GPU.

    bfloat16 on a CPU pays only where the processor has instructions for it; without them it is emulated, and slower.
    """
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    return torch.float32


def describe_device(device: torch.device) -> str:
    """One line for people: the device's name and size."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.0f} GiB)"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
    return str(device)
