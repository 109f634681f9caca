"""What the child process of ``models convert`` does: it knows every published network and is allowed nothing else.

It stands beside the stages, as it puts together the networks of several of them; ``restoration/convert.py`` starts it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from vidrestore.detect.retinaface import MOBILENET, RESNET50, RetinaFace
from vidrestore.errors import WeightsError
from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.morphable.files import read_bfm, save_model
from vidrestore.morphable.model import MorphableModel
from vidrestore.restoration.codeformer import COLORIZATION, INPAINTING, RESTORATION, CodeFormer
from vidrestore.restoration.convert import shut_the_door
from vidrestore.restoration.parsenet import ParseNet
from vidrestore.restoration.sgpn import Sgpn
from vidrestore.restoration.vqgan import PatchDiscriminator, VQAutoencoder, load_published

__all__ = ["LAYOUTS", "MESHES", "child", "layout"]

LAYOUTS: dict[str, Callable[[], nn.Module]] = {
    "codeformer": lambda: CodeFormer(RESTORATION.dims),
    "codeformer_stage2": lambda: CodeFormer(RESTORATION.dims),
    "codeformer_colorization": lambda: CodeFormer(COLORIZATION.dims),
    "codeformer_inpainting": lambda: CodeFormer(INPAINTING.dims),
    "vqgan_code1024": VQAutoencoder,
    "vqgan_discriminator": PatchDiscriminator,
    "retinaface": lambda: RetinaFace(RESNET50),
    "retinaface_mobile": lambda: RetinaFace(MOBILENET),
    "parsenet": ParseNet,
    "sgpn": Sgpn,
    "d3dfr": D3dfr,
}
"""{name of the model in ``weights.MODELS``: makes its network}."""

MESHES: dict[str, Callable[[Path], MorphableModel]] = {"bfm2009": read_bfm}
"""{name of the model in ``weights.MODELS``: reads its file}: morphable models, which are no networks."""


def layout(name: str) -> nn.Module:
    """The network that a model's file is for, without values (on the meta device)."""
    with torch.device("meta"):
        return LAYOUTS[name]()


def child() -> None:
    """Reads the source and writes the target; arguments are source, target and the model's name.

    A refusal is one JSON object on standard output, {"error": the one line to show}, and status 1.
    """
    source, target, name = sys.argv[-3:]
    module = None if name in MESHES else layout(name)  # all imports come before the door is shut
    shut_the_door(Path(target))
    try:
        if module is None:
            save_model(MESHES[name](Path(source)), Path(target), {"network": name}, half=False)
            return
        state = _opened(source)
        load_published(module, state, source=source)
        tensors = {key: value.contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, target, metadata={"network": name})
    except (WeightsError, MemoryError) as error:
        sys.stdout.write(json.dumps({"error": str(error) or f"{source}: needs more memory than is allowed"}))
        sys.stdout.flush()
        os._exit(1)


def _opened(source: str) -> dict[str, Any]:
    try:
        state: Any = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds on damaged and on hostile files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(f"{source}: is no weight file that can be opened safely ({reason[:160]})") from error
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise WeightsError(f"{source}: expected a dictionary of tensors, got {type(state).__name__}")
    return state
