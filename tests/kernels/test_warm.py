"""Compiling ahead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plane_formats import GBR16, GRAY, yuv

from vidrestore.kernels import follow, rasterize, steady, warm_up
from vidrestore.kernels.composite import _composite_band
from vidrestore.kernels.sample import _sample_band
from vidrestore.morphable.files import load_vr468
from vidrestore.restoration.align import template
from vidrestore.restoration.steady import Steadiness
from vidrestore.types import CropContext, PixelFormat, Track


@pytest.mark.parametrize(
    "pixel_format",
    [GRAY, GBR16, yuv(), yuv(depth=10), PixelFormat("yuva420p", "yuv", 8, (1, 1), (0.0, 0.5), has_alpha=True)],
    ids=lambda f: f.name,
)
def test_what_a_frame_needs_is_compiled(pixel_format: PixelFormat) -> None:
    warm_up(pixel_format)
    assert _sample_band.signatures, "cut nothing out"  # type: ignore[attr-defined]
    layouts = {str(signature[0].dtype) for signature in _composite_band.signatures}  # type: ignore[attr-defined]
    assert str(pixel_format.dtype) in layouts


def test_a_face_that_is_held_compiles_nothing_after_it() -> None:
    warm_up(yuv())
    kernels = [*vars(follow).values(), *vars(steady).values(), *vars(rasterize).values()]
    counts = [len(kernel.signatures) for kernel in kernels if hasattr(kernel, "signatures")]
    mesh = load_vr468().mean_shape.numpy() * [20.0, -20.0, 20.0] + [32.0, 32.0, 0.0]
    track = Track(0, np.zeros(4, np.float32), template(64).astype(np.float32), 1.0, mesh=mesh.astype(np.float32))
    maps, steadiness = np.tile(np.eye(2, 3), (3, 1, 1)), Steadiness()
    context = CropContext((track,) * 3, (0, 1, 2), maps, maps, np.zeros(3, np.float32))
    crops = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert not torch.equal(steadiness.steady(crops, crops, context), crops)
    assert [len(kernel.signatures) for kernel in kernels if hasattr(kernel, "signatures")] == counts
