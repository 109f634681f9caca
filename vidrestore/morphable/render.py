"""The picture of a mesh: :func:`render`, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.kernels.rasterize import draw, draw_gradients, rasterize

__all__ = ["render", "visible_triangles"]


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

    Convention:
        The centre of the top-left pixel is (0, 0). The published renderer counts from the picture's corner and puts
        centres at +0.5; with :class:`vidrestore.morphable.camera.Camera` the same pixels are covered.

    Gradients:
        Exact for the colours. For points and depth they are those of the surface's inside: what is seen where is taken
        as fixed, so a silhouette feels nothing. Fit outlines with landmarks instead; those are projected, not drawn.
    """
    picture, seen = _Render.apply(points_px, depth, colours, triangles, size)
    return picture, seen >= 0


def visible_triangles(points_px: Tensor, depth: Tensor, triangles: Tensor, size: int) -> Tensor:
    """Index of the triangle in each pixel, (B, S, S) int32; -1 where there is none. No gradient."""
    seen = rasterize(_array(points_px), _array(depth), _array(triangles), size)
    return torch.from_numpy(seen).to(points_px.device)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points_px: Tensor, depth: Tensor, colours: Tensor, triangles: Tensor, size: int
    ) -> tuple[Tensor, Tensor]:
        picture, seen = draw(_array(points_px), _array(depth), _array(triangles), _array(colours), size)
        seen_tensor = torch.from_numpy(seen).to(points_px.device)
        ctx.save_for_backward(points_px, depth, colours, triangles, seen_tensor)
        ctx.mark_non_differentiable(seen_tensor)
        return torch.from_numpy(picture).to(colours), seen_tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        points_px, depth, colours, triangles, seen = ctx.saved_tensors
        d_points, d_depth, d_colours = draw_gradients(
            _array(seen), _array(points_px), _array(depth), _array(triangles), _array(colours), _array(gradients[0])
        )
        pairs = ((d_points, points_px), (d_depth, depth), (d_colours, colours))
        return (*(torch.from_numpy(gradient).to(like) for gradient, like in pairs), None, None)


def _array(tensor: Tensor) -> NDArray[Any]:
    values = tensor.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    array: NDArray[Any] = values.cpu().contiguous().numpy()
    return array
