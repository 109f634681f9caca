"""Models on fewer vertices, and the stand-in for BFM that shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidrestore.geometry import apply, compose
from vidrestore.morphable.align import FACE_POINTS_3D, FIVE_OF_68, d3dfr_from_crop, d3dfr_from_display
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.d3dfr import D3dfr, D3dfrDims, folded
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.model import MorphableModel
from vidrestore.morphable.reduced import border_vertices, reduced
from vidrestore.morphable.render import render
from vidrestore.morphable.synthetic import synthetic_bfm, synthetic_model
from vidrestore.morphable.template import SGPN_TEMPLATE_512
from vidrestore.restoration.seeded import fill_seeded


@pytest.fixture(scope="module")
def large() -> MorphableModel:
    return synthetic_bfm(2)


@pytest.fixture(scope="module")
def small(large: MorphableModel) -> MorphableModel:
    return reduced(large)


def test_its_coefficients_mean_the_same(large: MorphableModel, small: MorphableModel) -> None:
    """Every vertex is one of the full model's, wherever the coefficients move it; landmarks are the same points."""
    assert small.num_vertices == 1024
    coefficients = 0.4 * torch.randn(2, 257, generator=torch.Generator().manual_seed(1))
    whole, few = large(coefficients), small(coefficients)
    kept = torch.cdist(small.mean_shape, large.mean_shape).argmin(1)
    torch.testing.assert_close(few.vertices, whole.vertices[:, kept], atol=1e-5, rtol=0)
    torch.testing.assert_close(small.landmarks3d(few.vertices), large.landmarks3d(whole.vertices), atol=1e-5, rtol=0)


def test_its_surface_is_whole_and_turned_outwards(large: MorphableModel, small: MorphableModel) -> None:
    triangles = small.triangles.numpy()
    pairs = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, counts = np.unique(pairs, axis=0, return_counts=True)
    assert counts.max() == 2, "every edge has a triangle on each side, or is on the border"
    assert len(np.unique(triangles)) == small.num_vertices
    kept = torch.cdist(small.mean_shape, large.mean_shape).argmin(1)
    ours = small.normals(small.mean_shape[None])[0]
    theirs = large.normals(large.mean_shape[None])[0, kept]
    assert float((ours * theirs).sum(1).median()) > 0.99
    assert float((ours * theirs).sum(1).min()) > 0.3, "none is folded over, not even at the border"
    on_border = set(kept[torch.from_numpy(border_vertices(triangles))].tolist())
    assert len(on_border - set(border_vertices(large.triangles.numpy()).tolist())) <= 0.1 * len(on_border)


def test_it_is_drawn_as_the_full_one(large: MorphableModel, small: MorphableModel) -> None:
    coefficients, pictures = torch.zeros(1, 257), []
    coefficients[:, 225] = 0.5
    for model in (large, small):
        face = model(coefficients, Camera().scaled(96))
        pictures.append(render(face.points_px, face.depth, model.triangles, face.colours, 96))
    (a, inside), (b, also) = pictures
    assert float((inside != also).float().mean()) < 0.015
    both = ((inside > 0) & (also > 0))[:, None].expand_as(a)
    assert float((a - b).abs()[both].mean()) < 4.0


def test_a_small_model_stays_as_it_is() -> None:
    assert reduced(synthetic_model()) is not None
    model = synthetic_model(rows=20, columns=20)
    assert reduced(model) is model
    with pytest.raises(ValueError, match="at least 128"):
        reduced(model, 100)


def test_two_runs_choose_the_same_vertices(large: MorphableModel, small: MorphableModel) -> None:
    again = reduced(large)
    assert torch.equal(again.triangles, small.triangles)
    assert torch.equal(again.mean_shape, small.mean_shape)


@pytest.mark.parametrize("subdivisions", [0, 1])
def test_the_stand_in_is_the_same_surface_in_other_numbers(subdivisions: int) -> None:
    own, other = load_vr468(), synthetic_bfm(subdivisions, scale=2.0, nod=0.0)
    assert other.num_vertices == (468, 1833)[subdivisions]
    torch.testing.assert_close(other.mean_shape.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    mean = own.mean_shape - own.mean_shape.mean(0)
    shift = (other.mean_shape[:468] - 2.0 * mean).mean(0)
    torch.testing.assert_close(other.mean_shape[:468], 2.0 * mean + shift, atol=1e-4, rtol=0)
    mixture = torch.eye(80) - 2.0 / 80
    identity = torch.randn(1, 80, generator=torch.Generator().manual_seed(2))
    zeros = torch.zeros(1, 64)
    moved = other.shape(identity, zeros)[0, :468] - other.mean_shape[:468]
    wanted = own.shape(identity @ mixture.T, zeros)[0] - own.mean_shape
    torch.testing.assert_close(moved, 2.0 * wanted, atol=1e-4, rtol=0)


def test_negative_subdivisions_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        synthetic_bfm(-1)


def test_the_published_five_points_of_bfm_are_where_our_model_has_them() -> None:
    """So one similarity between mean faces will do: within 0.06, of eyes that are 0.6 apart."""
    own = load_vr468()
    five = torch.stack([own.mean_shape[own.landmarks[list(which)]].mean(0) for which in FIVE_OF_68]).double().numpy()
    a, b = FACE_POINTS_3D - FACE_POINTS_3D.mean(0), five - five.mean(0)
    u, strengths, vt = np.linalg.svd(a.T @ b)
    fitted = strengths.sum() / np.square(a).sum() * a @ u @ vt
    assert np.linalg.norm(fitted - b, axis=1).max() < 0.06


@settings(deadline=None, max_examples=20)
@given(st.floats(0.2, 5.0), st.floats(-3.0, 3.0), st.floats(-500.0, 500.0), st.floats(-500.0, 500.0))
def test_the_crop_does_not_depend_on_how_the_face_lies_in_the_picture(
    scale: float, turn: float, x: float, y: float
) -> None:
    points = SGPN_TEMPLATE_512 + np.array([[3.0, -2.0], [-4.0, 1.0], [2.0, 5.0], [0.0, 3.0], [1.0, -6.0]])
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    moved = apply(np.array([[c, -s, x], [s, c, y]]), points)
    np.testing.assert_allclose(
        apply(d3dfr_from_display(moved), moved), apply(d3dfr_from_display(points), points), atol=1e-4
    )


def test_the_crop_is_that_of_sgpn() -> None:
    """A face on SGPN's template is cut as the published code does out of a crop of 512."""
    expected = d3dfr_from_crop(SGPN_TEMPLATE_512)
    np.testing.assert_allclose(d3dfr_from_display(SGPN_TEMPLATE_512), expected, atol=1e-9)
    turned = np.array([[0.0, -1.0, 600.0], [1.0, 0.0, 20.0]])
    crop = d3dfr_from_display(apply(turned, SGPN_TEMPLATE_512))
    np.testing.assert_allclose(compose(crop, turned), expected, atol=1e-6)


def test_folded_normalisation_changes_nothing() -> None:
    network = fill_seeded(D3dfr(D3dfrDims(channels=8, blocks=(1, 2, 1)))).eval()
    quick = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()), "a copy"
    views = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        torch.testing.assert_close(quick(views), network(views), atol=1e-4, rtol=1e-4)
