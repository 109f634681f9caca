"""The picture of a mesh: :func:`render`, with gradients."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.kernels.device import Backend
from vidrestore.kernels.rasterize import draw, draw_gradients, draw_gradients_on, draw_on, rasterize
from vidrestore.lanes import as_device_array, lanes_of

__all__ = ["render", "visible_triangles"]

_logger = logging.getLogger(__name__)


def render(points_px: Tensor, depth: Tensor, triangles: Tensor, colours: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Draws coloured meshes: the nearest triangle in each pixel, vertex colours carried over it in perspective.

    Args:
        points_px: (B, N, 2) in pixels, as :class:`vidrestore.morphable.model.Face` holds them.
        depth: (B, N), the distance from the camera along its axis.
        triangles: (T, 3) vertex indices.
        colours: (B, N, C), any range; three channels of colour, or whatever else is to be carried over the mesh.
        size: S, side of the picture in pixels.

    Returns:
        (B, C, S, S) picture in the colours' range and type, 0 beside the mesh, not clipped; and the (B, S, S) bool mask
        of the mesh. Both lie where ``points_px`` does.

    Raises:
        KernelError: shapes that do not fit; on the CPU also an index out of range.

    Convention:
        The centre of the top-left pixel is (0, 0). The published renderer counts from the picture's corner and puts
        centres at +0.5; with :class:`vidrestore.morphable.camera.Camera` the same pixels are covered.

    Gradients:
        Exact for the colours. For points and depth they are those of the surface's inside: what is seen where is taken
        as fixed, so a silhouette feels nothing. Fit outlines with landmarks instead; those are projected, not drawn.

    Devices:
        On a CUDA device with CuPy a kernel draws in the tensors' own memory, on the current stream, without waiting.
        On any other device, and for float64, the CPU draws.
    """
    picture, seen = _Render.apply(points_px, depth, colours, triangles, size)  # type: ignore[no-untyped-call]
    return picture, seen >= 0


def visible_triangles(points_px: Tensor, depth: Tensor, triangles: Tensor, size: int) -> Tensor:
    """Index of the triangle in each pixel, (B, S, S) int32; -1 where there is none. No gradient."""
    if _backend(points_px) is not None:
        no_colours = points_px.new_zeros(*points_px.shape[:2], 0)
        return _draw_on_device(points_px, depth, triangles, no_colours, size)[1]
    seen = rasterize(_array(points_px), _array(depth), _array(triangles), size)
    return torch.from_numpy(seen).to(points_px.device)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points_px: Tensor, depth: Tensor, colours: Tensor, triangles: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        if _backend(points_px) is None:
            arrays = draw(_array(points_px), _array(depth), _array(triangles), _array(colours), size)
            picture, seen = torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1]).to(points_px.device)
        else:
            picture, seen = _draw_on_device(points_px, depth, triangles, colours, size)
        ctx.save_for_backward(points_px, depth, colours, triangles, seen)
        ctx.mark_non_differentiable(seen)
        return picture.to(colours), seen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        points_px, depth, colours, triangles, seen = ctx.saved_tensors
        inputs = (points_px, depth, colours)
        backend = _backend(points_px)
        if backend is None:
            found: tuple[Any, ...] = tuple(
                torch.from_numpy(gradient)
                for gradient in draw_gradients(
                    _array(seen),
                    _array(points_px),
                    _array(depth),
                    _array(triangles),
                    _array(colours),
                    _array(gradients[0]),
                )
            )
        else:
            found = tuple(torch.zeros(like.shape, dtype=torch.float64, device=like.device) for like in inputs)
            read = (
                seen,
                _plain(points_px),
                _plain(depth),
                _indices(triangles),
                _plain(colours),
                _plain(gradients[0]),
            )
            with _current(points_px.device):
                draw_gradients_on(backend, *(as_device_array(tensor) for tensor in (*read, *found)))
        return (*(gradient.to(like) for gradient, like in zip(found, inputs, strict=True)), None, None)


def _draw_on_device(
    points_px: Tensor, depth: Tensor, triangles: Tensor, colours: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    backend = _backend(points_px)
    assert backend is not None
    batch, _, num_values = colours.shape
    picture = torch.empty(batch, num_values, size, size, device=points_px.device)
    seen = torch.empty(batch, size, size, dtype=torch.int32, device=points_px.device)
    read = _plain(points_px), _plain(depth), _indices(triangles), _plain(colours)
    with _current(points_px.device):
        draw_on(backend, *(as_device_array(tensor) for tensor in (*read, picture, seen)))
    return picture, seen


def _backend(tensor: Tensor) -> Backend | None:
    """Who draws a tensor's mesh on its device; None: the CPU does."""
    return _backend_of(tensor.device) if tensor.is_cuda and tensor.dtype != torch.float64 else None


@cache
def _backend_of(device: torch.device) -> Backend | None:
    lanes = lanes_of(device)
    if lanes is None:
        _logger.warning("meshes on %s are drawn by the CPU, as CuPy is not installed: install vidrestore[cuda]", device)
    return lanes


def _current(device: torch.device) -> AbstractContextManager[object]:
    """Makes a CUDA device the one that allocates and launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


def _indices(triangles: Tensor) -> Tensor:
    return triangles.to(torch.int32).contiguous()


def _array(tensor: Tensor) -> NDArray[Any]:
    values = tensor.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    array: NDArray[Any] = values.cpu().contiguous().numpy()
    return array
