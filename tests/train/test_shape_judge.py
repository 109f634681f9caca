"""Landmark and mesh losses: nothing for the clean face, more for a moved one, and a gradient that leads back."""

from __future__ import annotations

import pytest
import torch

from vidrestore.morphable.camera import Camera
from vidrestore.morphable.prior import ShapePrior
from vidrestore.train.shape_judge import ShapeJudge


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    return ShapePrior()


@pytest.fixture(scope="module")
def clean(prior: ShapePrior) -> torch.Tensor:
    """Two drawn faces of 128 pixels."""
    coefficients = torch.zeros(2, 257)
    coefficients[1, :80] = torch.randn(80, generator=torch.Generator().manual_seed(1))
    coefficients[:, 255:] = torch.tensor([0.03, -1.6])
    return prior.picture(coefficients, 128)[:, :3].clone()


def test_the_clean_face_costs_nothing(prior: ShapePrior, clean: torch.Tensor) -> None:
    errors = ShapeJudge(prior.regressor, prior.model).errors(clean, clean)
    assert errors.landmark.tolist() == pytest.approx([0.0, 0.0], abs=2e-3)
    assert errors.mesh.tolist() == pytest.approx([0.0, 0.0], abs=2e-3)


def test_a_moved_face_costs_its_distance_from_the_teachers_points(prior: ShapePrior, clean: torch.Tensor) -> None:
    judge = ShapeJudge(prior.regressor, prior.model)
    with torch.no_grad():
        face = prior.model(prior.regressor(clean), Camera().scaled(128))
    corners = prior.model.landmarks3d(face.points_px)[:, [36, 45]]
    eyes = (corners[:, 0] - corners[:, 1]).norm(dim=-1)
    points = torch.cat([face.points_px, face.depth[..., None]], -1)
    here = judge.errors(clean, clean, points).landmark
    away = judge.errors(clean, clean, points + torch.tensor([8.0, 0.0, 0.0])).landmark
    assert here.tolist() == pytest.approx([0.0, 0.0], abs=2e-3)
    assert away.tolist() == pytest.approx((8.0 / eyes).tolist(), rel=0.15)


def test_the_gradient_leads_towards_the_clean_face(prior: ShapePrior, clean: torch.Tensor) -> None:
    judge = ShapeJudge(prior.regressor, prior.model)
    picture = clean.roll(6, -1).requires_grad_(True)
    first = sum(e.mean() for e in judge.errors(picture, clean))
    (slope,) = torch.autograd.grad(first, picture)
    assert float(slope.abs().max()) > 0.0
    with torch.no_grad():
        moved = picture - 0.02 * slope / slope.abs().max()
        assert float(sum(e.mean() for e in judge.errors(moved, clean))) < float(first)
    assert all(p.grad is None for p in prior.regressor.parameters())
