"""CodeFormer as an ONNX file, for programs that run it without torch."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch

from vidrestore.errors import ConfigError
from vidrestore.restoration.codeformer import CodeFormer

__all__ = ["export_onnx"]


def export_onnx(network: CodeFormer, path: Path) -> None:
    """Writes a network, with its weights, as ONNX.

    Inputs are ``images`` (B, 3, S, S) float32 RGB in [-1, 1] and ``w`` (B,) float32 in [0, 1], the output ``restored``
    (B, 3, S, S), about [-1, 1]; B is free. AdaIN is applied, as in the published restoration script. Weights of more
    than 2 GB would lie beside the file; CodeFormer's 376 MB are in it or beside it as ``PATH.data``, as torch decides.

    Args:
        network: in float32, for evaluation.
        path: of the file; replaced where it exists.

    Raises:
        ConfigError: the packages onnx and onnxscript are not there.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX export wants {' and '.join(missing)}: pip install 'vidrestore[export]'")
    side = network.dims.autoencoder.image_size
    batch = torch.export.Dim("batch")
    inputs = torch.zeros(2, 3, side, side), torch.tensor([0.5, 1.0])  # two, as one is taken for a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own, about its libraries
        torch.onnx.export(
            network,
            inputs,
            path,
            dynamo=True,
            verbose=False,
            dynamic_shapes={"images": {0: batch}, "w": {0: batch}},
            input_names=["images", "w"],
            output_names=["restored"],
        )
