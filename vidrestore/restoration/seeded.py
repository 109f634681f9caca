"""Weights out of nothing but names, so that every network runs without any file.

Each tensor is drawn from a hash of its own key: the same key and shape give the same numbers on every platform, with
every torch and NumPy, in every order of construction. The networks do nothing useful with such weights, but they
compute: shapes, speed, precision, batching and export are measured with them, and fixed outputs can be written down.

The scale of a tensor follows from its shape and name, so that activations neither fade nor explode:

=========================  ==================================================================================
kernel or matrix           variance 1 / fan-in, or 2 / fan-in where the layer has no bias (a batch norm and a
                           rectifier follow it in our networks: He et al. 2015, section 2.2) and for queries, keys
                           and values (sharper attention keeps the tokens of a picture apart)
first kernel, RetinaFace   the same over 128, as its pictures are 0..255
look-up table              variance 1
norm, scale                within 25 % of 1; a quarter of that where the norm ends a residual branch, so that
                           deep trunks do not grow (Goyal et al. 2017, section 5.1, start such scales at 0)
bias, running mean         within 0.1 of 0
running variance           within 25 % of 1
counter                    0
=========================  ==================================================================================

A module that knows better says so with a method ``seeded_tensor(name, values)``, which is handed uniform numbers in
(-1, 1) and gives the tensor: layers that scale their weights as they run, and constants that are in published files.
"""

from __future__ import annotations

import hashlib
import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["fill_seeded", "seeded_state", "seeded_values"]

_M = TypeVar("_M", bound=nn.Module)

_UNIT = math.sqrt(3.0)  # uniform in [-1, 1] has variance 1/3
_SPREAD = 0.25  # of norm scales and running variances around 1
_OFFSET = 0.1  # of biases and running means around 0
_PIXEL_KERNELS = ("body.conv1.weight", "body.stage1.0.0.weight")
_PIXEL_RANGE = 128.0
_TABLES = ("embedding.weight", "position_emb")
_BRANCH_ENDS = ("bn3.weight", "conv2.norm.norm.weight")  # ResNet-50's and ParseNet's names
_BRANCH_SCALE = 0.25


def seeded_values(key: str, shape: tuple[int, ...], *, seed: int = 0) -> NDArray[np.float32]:
    """Numbers uniform in (-1, 1), the same everywhere for the same key, shape and seed.

    Two bytes of SHAKE-128 (FIPS 202) make one number; 16 bits are exact in float32, so no rounding depends on the
    machine.
    """
    count = math.prod(shape)
    stream = hashlib.shake_128(f"vidrestore/{seed}/{key}".encode()).digest(2 * count)
    integers = np.frombuffer(stream, dtype="<u2").astype(np.float32)
    return ((integers + np.float32(0.5)) / np.float32(32768.0) - np.float32(1.0)).reshape(shape)


def seeded_state(network: nn.Module, *, seed: int = 0) -> dict[str, Tensor]:
    """A state dict that fits the network, made from its key names.

    Args:
        network: any module; its own values are not looked at, so it may live on the meta device.
        seed: another seed gives other, equally deterministic weights.

    Returns:
        Tensors on the CPU in the network's dtypes, in the order of ``network.state_dict()``.
    """
    own = network.state_dict()
    state: dict[str, Tensor] = {}
    for key, tensor in own.items():
        shape = tuple(tensor.shape)
        has_bias = key.removesuffix("weight") + "bias" in own
        owner, _, name = key.rpartition(".")
        own_way = getattr(network.get_submodule(owner), "seeded_tensor", None)
        if own_way is not None:
            values = own_way(name, seeded_values(key, shape, seed=seed))
        elif tensor.is_floating_point():
            values = _scaled(key, shape, has_bias, seed)
        else:
            values = np.zeros(shape, np.float32)
        state[key] = torch.from_numpy(np.ascontiguousarray(values)).reshape(shape).to(tensor.dtype)
    return state


def fill_seeded(network: _M, *, seed: int = 0) -> _M:
    """Gives the network its seeded weights and returns it.

    A network on the meta device comes to life on the CPU without ever being initialised at random; any other keeps
    its device.
    """
    on_meta = any(parameter.is_meta for parameter in network.parameters())
    network.load_state_dict(seeded_state(network, seed=seed), assign=on_meta)
    return network


def _scaled(key: str, shape: tuple[int, ...], has_bias: bool, seed: int) -> NDArray[np.float32]:
    values = seeded_values(key, shape, seed=seed)
    if key.endswith(_TABLES):
        return values * np.float32(_UNIT)
    if len(shape) >= 2:
        gain = 1.0 if has_bias and not key.endswith("in_proj_weight") else 2.0
        scale = math.sqrt(gain / math.prod(shape[1:])) / (_PIXEL_RANGE if key.endswith(_PIXEL_KERNELS) else 1.0)
        return values * np.float32(_UNIT * scale)
    if key.endswith("running_var"):
        return np.float32(1.0) + values * np.float32(_SPREAD)
    if key.endswith("weight"):
        around_one = np.float32(1.0) + values * np.float32(_SPREAD)
        return around_one * np.float32(_BRANCH_SCALE if key.endswith(_BRANCH_ENDS) else 1.0)
    return values * np.float32(_OFFSET)
