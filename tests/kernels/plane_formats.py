"""Pixel formats, planes and maps that the kernel tests share."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidrestore.types import PixelFormat, Plane

MATRICES = ("bt601", "bt709", "bt2020", "smpte240m", "fcc", "ycgco")
SUBSAMPLINGS = {"444": (0, 0), "422": (1, 0), "440": (0, 1), "420": (1, 1), "411": (2, 0), "410": (2, 2)}


def yuv(subsampling: str = "420", depth: int = 8, *, left: bool = True, **values: object) -> PixelFormat:
    """A yuv format with MPEG-2 ("left") or JPEG ("center") siting."""
    shift = SUBSAMPLINGS[subsampling]
    centre = ((1 << shift[0]) - 1) / 2.0, ((1 << shift[1]) - 1) / 2.0
    siting = (0.0, centre[1]) if left else centre
    return PixelFormat(f"yuv{subsampling}p{depth}", "yuv", depth, shift, siting, **values)  # type: ignore[arg-type]


GRAY = PixelFormat("gray", "gray", 8, full_range=True)
GBR16 = PixelFormat("gbrp16le", "rgb", 16, full_range=True)


@st.composite
def pixel_formats(draw: st.DrawFn) -> PixelFormat:
    """Every colour model, subsampling, depth, range and matrix."""
    colour = draw(st.sampled_from(["yuv", "yuv", "gray", "rgb"]))
    depth = draw(st.sampled_from([8, 8, 9, 10, 12, 14, 16]))
    common = {"full_range": draw(st.booleans()), "has_alpha": draw(st.booleans())}
    if colour == "yuv":
        subsampling = draw(st.sampled_from(sorted(SUBSAMPLINGS)))
        return yuv(subsampling, depth, left=draw(st.booleans()), matrix=draw(st.sampled_from(MATRICES)), **common)
    return PixelFormat(f"{colour}{depth}", colour, depth, **common)  # type: ignore[arg-type]


def random_planes(pixel_format: PixelFormat, height: int, width: int, seed: int) -> tuple[Plane, ...]:
    """Noise over all codes that the depth can hold, legal or not."""
    rng = np.random.default_rng(seed)
    top = 1 << pixel_format.depth
    sizes = [pixel_format.plane_size(p, height, width) for p in range(pixel_format.num_planes)]
    return tuple(rng.integers(0, top, size).astype(pixel_format.dtype) for size in sizes)


def flat_planes(pixel_format: PixelFormat, height: int, width: int, code: int) -> tuple[Plane, ...]:
    """Every sample the same."""
    sizes = [pixel_format.plane_size(p, height, width) for p in range(pixel_format.num_planes)]
    return tuple(np.full(size, code, pixel_format.dtype) for size in sizes)


def about(
    frame_point: tuple[float, float],
    crop_point: tuple[float, float],
    scale: float,
    angle: float = 0.0,
    *,
    stretch: float = 1.0,
    mirrored: bool = False,
) -> NDArray[np.float64]:
    """crop_from_frame that turns and scales about one pair of points."""
    c, s = math.cos(angle), math.sin(angle)
    linear = scale * np.array([[c, -s], [s, c]]) @ np.diag([stretch * (-1.0 if mirrored else 1.0), 1.0])
    return np.column_stack([linear, np.array(crop_point) - linear @ np.array(frame_point)])


@st.composite
def affines(draw: st.DrawFn, height: int, width: int, size: int) -> NDArray[np.float64]:
    """Tiny, huge, turned, mirrored, stretched maps, mostly on the frame and sometimes far outside."""
    far = draw(st.sampled_from([0.0, 0.0, 0.0, 1.0, 50.0, 1e6]))
    x = draw(st.floats(0, width)) + far * width * draw(st.sampled_from([-1.0, 1.0]))
    y = draw(st.floats(0, height)) + far * height * draw(st.sampled_from([-1.0, 0.0, 1.0]))
    return about(
        (x, y),
        (draw(st.floats(0, size)), draw(st.floats(0, size))),
        2.0 ** draw(st.floats(-7, 7)),
        draw(st.sampled_from([0.0, 0.1, math.pi / 4, math.pi / 2, -2.5])),
        stretch=draw(st.sampled_from([1.0, 1.0, 0.75, 1.8])),
        mirrored=draw(st.booleans()),
    )
