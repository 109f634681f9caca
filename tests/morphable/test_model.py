"""The morphable model: each step against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vidrestore.geometry import apply, scale_about_pixel_edges
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.model import AMBIENT, MorphableModel, harmonics, incident_triangles
from vidrestore.morphable.synthetic import synthetic_model

RIGHT, UP, TOWARDS = torch.eye(3)


def some_coefficients(batch: int, seed: int = 0) -> Tensor:
    """Faces that differ in everything but stay in the picture."""
    c = 0.4 * torch.randn(batch, 257, generator=torch.Generator().manual_seed(seed))
    c[:, 227:] *= 0.25
    return c


def flat_square(corner_z: float = 0.0) -> MorphableModel:
    """Four vertices in the plane z = 0, the last one lifted; nothing moves."""
    shape = torch.tensor([(-1.0, -1.0, 0.0), (1.0, -1.0, 0.0), (1.0, 1.0, 0.0), (-1.0, 1.0, corner_z)])
    return MorphableModel(
        shape,
        torch.zeros(12, 80),
        torch.zeros(12, 64),
        torch.full((4, 3), 100.0),
        torch.zeros(12, 80),
        torch.tensor([(0, 1, 2), (0, 2, 3)]),
        torch.zeros(68, dtype=torch.int64),
    )


def test_shape_and_texture_add_up_vertex_by_vertex() -> None:
    model, c = synthetic_model(4, 5), split(some_coefficients(3))
    shape, texture = model.shape(c.identity, c.expression), model.texture(c.texture)
    for face, vertex, axis in ((0, 0, 0), (1, 7, 2), (2, 19, 1)):
        row = 3 * vertex + axis
        moved = model.identity_basis[row] @ c.identity[face] + model.expression_basis[row] @ c.expression[face]
        torch.testing.assert_close(shape[face, vertex, axis], model.mean_shape[vertex, axis] + moved)
        coloured = model.mean_texture[vertex, axis] + model.texture_basis[row] @ c.texture[face]
        torch.testing.assert_close(texture[face, vertex, axis], coloured)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_a_batch_equals_its_faces_one_by_one(batch: int) -> None:
    """Three was the batch at which the published normals went wrong: a cross product over the wrong axis."""
    model, coefficients = synthetic_model(), some_coefficients(batch)
    together = model(coefficients)
    for name in ("vertices", "points_px", "depth", "colours", "normals"):
        alone = torch.cat([getattr(model(row[None]), name) for row in coefficients])
        torch.testing.assert_close(getattr(together, name), alone, atol=1e-4, rtol=1e-5)


def test_normals_point_out_of_the_face_and_have_length_one() -> None:
    model = synthetic_model(9, 8)
    normals = model.normals(model.mean_shape[None])
    torch.testing.assert_close(normals.norm(dim=2), torch.ones(1, 72))
    centre = torch.tensor([0.0, 0.0, float(model.mean_shape[:, 2].min()) - 0.2])
    assert ((model.mean_shape - centre) * normals[0]).sum(1).min() > 0


def test_normals_are_sums_weighted_by_area() -> None:
    model = flat_square(corner_z=0.5)
    normals = model.normals(model.mean_shape[None])[0]
    flat, tilted = torch.tensor([0.0, 0.0, 4.0]), torch.tensor([1.0, -1.0, 4.0])  # twice the areas, by hand
    torch.testing.assert_close(normals[1], flat / flat.norm())
    torch.testing.assert_close(normals[3], tilted / tilted.norm())
    torch.testing.assert_close(normals[0], (flat + tilted) / (flat + tilted).norm())


def test_a_vertex_without_area_has_no_normal_and_no_nan() -> None:
    model = flat_square()
    shape = torch.zeros(1, 4, 3, requires_grad=True)
    normals = model.normals(shape)
    assert torch.equal(normals, torch.zeros(1, 4, 3))
    normals.sum().backward()
    assert shape.grad is not None
    assert bool(shape.grad.isfinite().all())


def test_incident_triangles_are_all_that_touch_a_vertex() -> None:
    triangles = torch.tensor([(0, 1, 2), (0, 2, 3), (2, 1, 4)])
    table = incident_triangles(triangles, 6)
    found = [sorted(set(row.tolist()) - {3}) for row in table]
    assert found == [[0, 1], [0, 2], [0, 1, 2], [1], [2], []]


def test_angles_turn_the_way_their_docstring_says() -> None:
    model = flat_square()
    nod, turn, lean = model.rotation(0.1 * torch.eye(3))
    assert (TOWARDS @ nod)[1] < 0  # the nose goes down
    assert (TOWARDS @ turn)[0] > 0  # and to the picture's right
    assert (RIGHT @ lean)[1] > 0  # the picture's right side of the face goes up


def test_rotation_is_about_x_then_y_then_z() -> None:
    angles = torch.tensor([[0.3, -0.5, 0.7]], dtype=torch.float64)
    rotation = flat_square().rotation(angles)[0]
    (x, y, z), point = angles[0].tolist(), np.array([0.2, -0.4, 0.9])
    about_x = [[1, 0, 0], [0, math.cos(x), -math.sin(x)], [0, math.sin(x), math.cos(x)]]
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_z = [[math.cos(z), -math.sin(z), 0], [math.sin(z), math.cos(z), 0], [0, 0, 1]]
    expected = np.array(about_z) @ (np.array(about_y) @ (np.array(about_x) @ point))
    np.testing.assert_allclose(torch.from_numpy(point) @ rotation, expected, atol=1e-12)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))


def test_placing_turns_about_the_origin_then_moves() -> None:
    model, points = flat_square(), torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    quarter = torch.tensor([[0.0, 0.0, math.pi / 2]] * 2)
    placed = model.place(points, quarter, torch.tensor([[1.0, 2.0, 3.0]] * 2))
    expected = torch.stack([1.0 - points[..., 1], 2.0 + points[..., 0], 3.0 + points[..., 2]], dim=2)
    torch.testing.assert_close(placed, expected)


def sphere() -> tuple[Tensor, Tensor]:
    """Directions (M, 3) and their weights (M,), exact for polynomials of a high degree."""
    heights, shares = np.polynomial.legendre.leggauss(64)
    around = 2.0 * np.pi * (np.arange(128) + 0.5) / 128
    z, phi = np.meshgrid(heights, around, indexing="ij")
    radius = np.sqrt(1.0 - z**2)
    directions = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=-1).reshape(-1, 3)
    return torch.from_numpy(directions), torch.from_numpy(np.repeat(shares, 128) * 2.0 * np.pi / 128)


BANDS = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2])


def test_harmonics_are_orthogonal_with_the_published_factors() -> None:
    directions, weights = sphere()
    values = harmonics(directions[None])[0]
    factors = torch.tensor([math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)], dtype=torch.float64)
    torch.testing.assert_close(
        values.T @ (weights[:, None] * values), torch.diag(factors[BANDS] ** 2), atol=1e-9, rtol=0
    )


def test_harmonics_of_a_band_are_what_a_cosine_lobe_leaves_of_light() -> None:
    """A surface that faces n receives the integral of light times max(n w, 0): pi, 2 pi / 3, pi / 4 of each band."""
    directions, weights = sphere()
    light = harmonics(directions[None])[0]
    normals = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8], [-0.9, 0.1, -0.2]]).double(), dim=1)
    received = (normals @ directions.T).clamp(min=0) @ (weights[:, None] * light)
    shares = torch.tensor([math.pi, 2 * math.pi / 3, math.pi / 4], dtype=torch.float64)
    torch.testing.assert_close(received, harmonics(normals[None])[0] * shares[BANDS], atol=2e-3, rtol=0)


def test_light_follows_the_formula_written_out() -> None:
    x, y, z = 0.48, -0.6, 0.64
    numbers = [0.1 * k - 0.5 for k in range(27)]
    lit = flat_square().light(
        torch.tensor([[[100.0, 150.0, 200.0]]]), torch.tensor([[[x, y, z]]]), torch.tensor([numbers])
    )[0, 0]
    one, two = 2 * math.pi / math.sqrt(3) * math.sqrt(3 / (4 * math.pi)), 2 * math.pi / math.sqrt(8)
    two *= 3 * math.sqrt(5) / math.sqrt(12 * math.pi)
    basis = [math.pi / math.sqrt(4 * math.pi), -one * y, one * z, -one * x, two * x * y, -two * y * z]
    basis += [two * 0.5 / math.sqrt(3) * (3 * z * z - 1), -two * x * z, 0.5 * two * (x * x - y * y)]
    for channel, texture in enumerate((100.0, 150.0, 200.0)):
        g = numbers[9 * channel : 9 * channel + 9]
        g[0] += AMBIENT
        assert lit[channel].item() == pytest.approx(
            texture * sum(a * b for a, b in zip(g, basis, strict=True)), rel=1e-5
        )


def test_the_camera_is_the_published_one() -> None:
    vertices = torch.tensor([[[0.5, -0.25, 2.0], [0.0, 0.0, 0.0]]])
    points, depth = Camera().project(vertices)
    published = [(1015 * 0.5 / 8 + 112, 112 + 1015 * 0.25 / 8), (112.0, 112.0)]  # from the picture's corner
    torch.testing.assert_close(points[0], torch.tensor(published) - 0.5)
    assert depth.tolist() == [[8.0, 10.0]]


@pytest.mark.parametrize("size", [112, 128, 512])
def test_a_scaled_camera_keeps_the_picture_s_edges(size: int) -> None:
    vertices = torch.rand(1, 20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, scaled = Camera().project(vertices)[0][0], Camera().scaled(size).project(vertices)[0][0]
    np.testing.assert_allclose(scaled, apply(scale_about_pixel_edges(size / 224), plain), atol=1e-9)


def test_a_camera_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Camera().scaled(0)


def test_the_parts_are_put_together() -> None:
    model, coefficients = synthetic_model(), some_coefficients(2)
    c, camera = split(coefficients), Camera().scaled(96)
    face = model(coefficients, camera)
    shape = model.shape(c.identity, c.expression)
    torch.testing.assert_close(face.vertices, model.place(shape, c.angles, c.translation))
    torch.testing.assert_close(face.normals, model.normals(face.vertices), atol=1e-5, rtol=1e-5)  # normals turn along
    torch.testing.assert_close(face.colours, model.light(model.texture(c.texture), face.normals, c.lighting))
    points, depth = model.project(face.vertices, camera)
    assert torch.equal(face.points_px, points)
    assert torch.equal(face.depth, depth)
    assert torch.equal(model.landmarks3d(face.vertices), face.vertices[:, model.landmarks])


def test_everything_has_the_right_gradient() -> None:
    model = synthetic_model(3, 3).double()
    coefficients = some_coefficients(3).double().requires_grad_()

    def outputs(c: Tensor) -> tuple[Tensor, ...]:
        face = model(c)
        return model.landmarks3d(face.points_px), face.colours, face.depth

    assert torch.autograd.gradcheck(outputs, (coefficients,), fast_mode=True)


def test_landmarks_can_be_fitted() -> None:
    """What training does, in small: pose and place come back from 68 points."""
    model, wanted = synthetic_model(), torch.zeros(1, 257)
    wanted[0, 224:227], wanted[0, 254:257] = torch.tensor([0.2, -0.3, 0.1]), torch.tensor([0.05, -0.1, 0.2])
    target = model.landmarks3d(model(wanted).points_px).detach()
    pose = torch.zeros(1, 6, requires_grad=True)
    optimiser = torch.optim.LBFGS([pose], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        c = torch.zeros(1, 257).index_add(1, torch.tensor([224, 225, 226, 254, 255, 256]), pose)
        value = (model.landmarks3d(model(c).points_px) - target).square().mean()
        value.backward()
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(pose.detach()[0], wanted[0, [224, 225, 226, 254, 255, 256]], atol=5e-3, rtol=0)


def test_the_synthetic_model_is_symmetric_and_fills_the_picture() -> None:
    model = synthetic_model()
    assert model.mirror is not None
    torch.testing.assert_close(model.mean_shape[model.mirror], model.mean_shape * torch.tensor([-1.0, 1.0, 1.0]))
    assert torch.equal(model.mirror[model.mirror], torch.arange(model.num_vertices))
    points = model(torch.zeros(1, 257)).points_px[0]
    assert bool(((points > 0) & (points < 223)).all())
    assert bool((points.amax(0) - points.amin(0) > 112).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity_basis": torch.zeros(12, 79)}, r"identity_basis must be \(12, 80\), got \(12, 79\)"),
        ({"triangles": torch.tensor([(0, 1, 4)])}, "triangles must be indices of 0 to 3, got 0 to 4"),
        ({"landmarks": torch.zeros(67, dtype=torch.int64)}, r"landmarks must be \(68,\)"),
        ({"mirror": torch.tensor([0, 1, 2, -1])}, "mirror must be indices"),
        ({"skin": torch.ones(3)}, r"skin must be \(4,\)"),
        ({"deviations": torch.ones(223)}, r"deviations must be \(224,\)"),
        ({"incident": torch.full((4, 2), 3)}, "incident must be indices of 0 to 2"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: dict[str, Tensor], message: str) -> None:
    square = {name: value for name, value in flat_square().state_dict().items() if name != "incident"}
    with pytest.raises(ValueError, match=message):
        MorphableModel(**(square | change))
