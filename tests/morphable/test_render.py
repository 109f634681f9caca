"""The picture of a mesh: what is seen, and what it passes back."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

from host_backend import HostBackend, needs_compiler

from vidrestore.kernels import reference_raster
from vidrestore.morphable import render as module
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.render import render, visible_triangles
from vidrestore.morphable.synthetic import synthetic_model


def ball(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """A closed unit sphere: (N, 3) vertices, (T, 3) triangles."""
    latitude = torch.linspace(-0.5 * math.pi, 0.5 * math.pi, rows, dtype=torch.float64)
    longitude = torch.arange(columns, dtype=torch.float64) * (2.0 * math.pi / columns)
    v, u = torch.meshgrid(latitude, longitude, indexing="ij")
    vertices = torch.stack([u.sin() * v.cos(), v.sin(), u.cos() * v.cos()], dim=-1).reshape(-1, 3)
    index = torch.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1], index[:-1].roll(-1, 1), index[1:].roll(-1, 1), index[1:]
    cells = [torch.stack([a, b, c], dim=-1).reshape(-1, 3), torch.stack([a, c, d], dim=-1).reshape(-1, 3)]
    return vertices, torch.cat(cells)


def test_a_ball_looks_like_a_ball() -> None:
    """Depth and normals against the ray that each pixel's centre sends through a unit sphere at the origin."""
    vertices, triangles = ball(160, 240)
    camera = Camera(focal=1015.0, size=224, distance=10.0)
    points, depth = camera.project(vertices[None])
    carried = torch.cat([vertices[None], depth[..., None]], dim=2)  # at a point of the unit sphere, place is normal
    image, mask = render(points, depth, triangles, carried, 224)
    y, x = np.mgrid[:224, :224] - 111.5
    ray = np.stack([x / 1015, -y / 1015, -np.ones_like(x)])
    squared, along = (ray**2).sum(0), -10.0 * ray[2]  # |ray|², minus the ray times the camera's place
    inside = along**2 - squared * (100.0 - 1.0)
    distance = (along - np.sqrt(np.maximum(inside, 0))) / squared
    clearly = np.abs(inside) > 0.05  # the silhouette of flat triangles lies a little inside the sphere's
    np.testing.assert_array_equal(mask[0].numpy()[clearly], (inside > 0)[clearly])
    is_seen = (inside > 0) & clearly
    place = np.array([0.0, 0.0, 10.0])[:, None, None] + distance * ray
    np.testing.assert_allclose(image[0, :3].numpy()[:, is_seen], place[:, is_seen], atol=2e-3)
    np.testing.assert_allclose(image[0, 3].numpy()[is_seen], distance[is_seen], atol=1e-3)


def test_a_face_is_the_twin_s_face() -> None:
    model = synthetic_model()
    coefficients = 0.3 * torch.randn(3, 257, generator=torch.Generator().manual_seed(3))
    coefficients[:, 227:] *= 0.2
    face = model(coefficients, Camera().scaled(57))
    image, mask = render(face.points_px, face.depth, model.triangles, face.colours, 57)
    expected, names = reference_raster.draw(face.points_px, face.depth, model.triangles, face.colours, 57)
    assert image.dtype == torch.float32
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask, names >= 0)
    differs = np.abs(image.numpy() - expected).max(1) > 0.01
    assert differs.mean() <= 2e-4  # two parts of a surface may be as near in float32
    assert 0.2 < mask.float().mean() < 0.9
    assert torch.equal(image * ~mask[:, None], torch.zeros_like(image))


def test_the_same_face_at_twice_the_size_covers_the_same_place() -> None:
    model = synthetic_model()
    small, large = (model(torch.zeros(1, 257), Camera().scaled(size)) for size in (64, 128))
    fine = render(large.points_px, large.depth, model.triangles, large.colours, 128)[1]
    coarse = render(small.points_px, small.depth, model.triangles, small.colours, 64)[1]
    shares = torch.nn.functional.avg_pool2d(fine.float(), 2)[:, None]
    inner = -torch.nn.functional.max_pool2d(-shares, 3, 1, 1)[:, 0]  # least and most of a pixel and its neighbours
    outer = torch.nn.functional.max_pool2d(shares, 3, 1, 1)[:, 0]
    assert (inner == 1).sum() > 800
    assert coarse[inner == 1].all()
    assert not coarse[outer == 0].any()
    assert (shares[:, 0] - coarse.float()).abs().mean() < 0.02


def test_gradients_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    points = 12.0 * torch.rand(3, 6, 2, dtype=torch.float64, generator=generator)
    depth = 1.0 + torch.rand(3, 6, dtype=torch.float64, generator=generator)
    colours = torch.rand(3, 6, 3, dtype=torch.float64, generator=generator)
    triangles = torch.tensor([(0, 1, 2), (3, 4, 5), (0, 2, 4)])
    inputs = tuple(values.requires_grad_() for values in (points, depth, colours))

    def picture(p: Tensor, d: Tensor, c: Tensor) -> Tensor:
        return render(p, d, triangles, c, 13)[0]

    assert picture(*inputs).count_nonzero() > 100
    assert torch.autograd.gradcheck(picture, inputs)


def test_a_texture_can_be_learned_through_the_picture() -> None:
    model = synthetic_model(9, 9)
    wanted = torch.zeros(1, 257)
    wanted[0, 144:148] = torch.tensor([1.0, -0.5, 0.7, 0.3])
    camera = Camera().scaled(48)

    def draw(coefficients: Tensor) -> Tensor:
        face = model(coefficients, camera)
        return render(face.points_px, face.depth, model.triangles, face.colours, 48)[0]

    guess = torch.zeros(1, 257, requires_grad=True)
    before = (draw(guess) - draw(wanted)).square().mean()
    before.backward()
    assert guess.grad is not None
    slope = guess.grad[0, 144:148]
    step = 0.5 * before.detach() / slope.square().sum()
    moved = guess.detach().clone()
    moved[0, 144:148] -= step * slope
    assert (draw(moved) - draw(wanted)).square().mean() < 0.8 * before


def test_nothing_is_remembered_where_no_gradient_is_wanted() -> None:
    face = synthetic_model(3, 3)(torch.zeros(1, 257))
    triangles = synthetic_model(3, 3).triangles
    image, mask = render(face.points_px, face.depth, triangles, face.colours, 16)
    assert not image.requires_grad
    seen = visible_triangles(face.points_px, face.depth, triangles, 16)
    assert torch.equal(seen >= 0, mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_picture_has_the_colours_type(dtype: torch.dtype) -> None:
    face = synthetic_model(5, 5)(torch.zeros(1, 257), Camera().scaled(20))
    triangles = synthetic_model(5, 5).triangles
    exact, _ = render(face.points_px, face.depth, triangles, face.colours, 20)
    image, _ = render(face.points_px, face.depth, triangles, face.colours.to(dtype), 20)
    assert image.dtype == dtype
    torch.testing.assert_close(image.float(), exact, atol=1.5, rtol=1e-2)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_way_over_a_device_gives_the_same(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """The launches, shapes and types of the way that CUDA tensors go, on the host behind the shim."""
    model = synthetic_model()
    face = model(torch.zeros(3, 257), Camera().scaled(50))
    upstream = torch.randn(3, 3, 50, 50, generator=torch.Generator().manual_seed(6)).to(dtype)
    found = []
    for backend in (None, HostBackend()):
        monkeypatch.setattr(module, "_backend", lambda tensor, backend=backend: backend)
        inputs = [t.detach().requires_grad_() for t in (face.points_px, face.depth, face.colours.to(dtype))]
        image, mask = render(inputs[0], inputs[1], model.triangles, inputs[2], 50)
        image.backward(upstream)
        seen = visible_triangles(face.points_px, face.depth, model.triangles, 50)
        found.append([image.detach(), mask, seen, *(t.grad for t in inputs if t.grad is not None)])
    assert len(found[0]) == len(found[1]) == 6
    for host, device in zip(*found, strict=True):
        assert host.dtype == device.dtype
        torch.testing.assert_close(host, device, atol=1e-3, rtol=1e-3)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_draws_the_same_picture_and_passes_back_the_same(dtype: torch.dtype) -> None:
    pytest.importorskip("cupy")
    model = synthetic_model(40, 30)
    coefficients = 0.3 * torch.randn(3, 257, generator=torch.Generator().manual_seed(5))
    coefficients[:, 227:] *= 0.2
    face = model(coefficients, Camera().scaled(125))
    upstream = torch.randn(3, 3, 125, 125, generator=torch.Generator().manual_seed(6)).to(dtype)
    found = []
    for device in ("cpu", "cuda"):
        inputs = [t.detach().to(device).requires_grad_() for t in (face.points_px, face.depth, face.colours.to(dtype))]
        image, mask = render(inputs[0], inputs[1], model.triangles.to(device), inputs[2], 125)
        assert image.device.type == mask.device.type == device
        image.backward(upstream.to(device))
        found.append([image.detach().cpu(), mask.cpu(), *(t.grad.cpu() for t in inputs if t.grad is not None)])
    (image, mask, *gradients), (image_gpu, mask_gpu, *gradients_gpu) = found
    assert torch.equal(mask, mask_gpu)
    assert ((image - image_gpu).abs().amax(1) > 0.01).float().mean() <= 2e-4
    for ours, theirs in zip(gradients_gpu, gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-3 * theirs.norm()
