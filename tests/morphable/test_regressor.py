"""The regressor's file and network, and the shape prior of a crop."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from vidrestore.errors import WeightsError
from vidrestore.evaluate.motion import gain, openings
from vidrestore.geometry import apply
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import (
    REGRESSOR_SIZE,
    FlatRegressor,
    RegressorDims,
    ShapeRegressor,
    fold_normalisation,
    load_regressor,
    save_regressor,
)
from vidrestore.restoration.align import crop_from_display
from vidrestore.train.clips import ClipTruth
from vidrestore.train.puppets import five_points

CLIPS = Path(__file__).parent.parent / "clips"
TINY = RegressorDims(stem=8, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), places=4)


def test_a_saved_network_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ShapeRegressor(TINY).eval()
    network.load_state_dict({k: v.half().to(v.dtype) for k, v in network.state_dict().items()})  # the file is float16
    save_regressor(network, tmp_path / "r.safetensors", {"step": "3"})
    crops = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(load_regressor(tmp_path / "r.safetensors")(crops), network(crops))


def test_crops_of_any_size_are_resampled() -> None:
    network = ShapeRegressor(TINY).eval()
    flat = torch.full((1, 3, 512, 512), 0.25)
    with torch.inference_mode():
        torch.testing.assert_close(network(flat), network(flat[..., :128, :128]))
        assert network(flat[..., :96, :96]).shape == (1, 257)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        load_regressor(tmp_path / "none.safetensors")
    network = ShapeRegressor(TINY)
    with torch.no_grad():
        network.last.bias[3] = float("nan")
    with pytest.raises(WeightsError, match=r"last\.bias has values that are not finite"):
        save_regressor(network, tmp_path / "r.safetensors")


def test_the_mean_face_lies_where_a_crops_face_is() -> None:
    network = ShapeRegressor(TINY)
    torch.nn.init.zeros_(network.last.weight)
    prior = ShapePrior(regressor=network.eval())
    coefficients = prior.coefficients(torch.zeros(1, 3, 256, 256))
    picture = prior.picture(coefficients, 128)
    assert picture.shape == (1, 4, 128, 128)
    rows, columns = torch.nonzero(picture[0, 3], as_tuple=True)
    assert 55 < float(columns.float().mean()) < 73  # in the middle across
    assert 20 < int(columns.max() - columns.min()) < 100
    assert float(picture[0, :3, 0, 0].max()) == -1.0  # beside the face
    assert 40 < float(rows.float().mean()) < 90


def test_the_shipped_model_blinks_with_its_first_two_coefficients() -> None:
    model = load_vr468()
    expression = torch.zeros(3, 64)
    expression[1, 0] = expression[2, 1] = 2.0
    shapes = model.shape(torch.zeros(3, 80), expression)
    left, right = ((shapes[:, upper] - shapes[:, lower]).norm(dim=-1) for upper, lower in ((159, 145), (386, 374)))
    assert float(left[1]) < 0.25 * float(left[0])
    assert float(right[2]) < 0.25 * float(right[0])
    assert float(right[1]) == pytest.approx(float(right[0]), rel=1e-3)


def test_the_shipped_model_is_its_own_mirror_image() -> None:
    model = load_vr468()
    assert model.mirror is not None
    flipped = model.mean_shape[model.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    assert float((flipped - model.mean_shape).abs().max()) < 2e-3


def test_folded_normalisation_gives_the_same_coefficients() -> None:
    network = load_regressor()
    folded = fold_normalisation(network)
    crops = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(folded(crops), network(crops), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(FlatRegressor(network)(crops), network(crops), atol=1e-4, rtol=1e-4)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
    assert any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules()), "the original stays as it was"


def test_the_shipped_regressor_follows_lips_of_a_committed_person() -> None:
    """Clean frames of the clip with truth; before its training on openings it followed half of the lips."""
    truth = ClipTruth.read(CLIPS / "temporal.json")
    with av.open(str(CLIPS / "temporal_clean.mkv")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    crops, points = [], []
    for picture, faces in zip(pictures, truth.frames, strict=True):
        if faces and faces[0].visible > 0.97:
            crop = crop_from_display(five_points(faces[0].points), REGRESSOR_SIZE)
            crops.append(cv2.warpAffine(picture, crop, (REGRESSOR_SIZE, REGRESSOR_SIZE), flags=cv2.INTER_LINEAR))
            points.append(np.column_stack([apply(crop, faces[0].points[:, :2]), faces[0].points[:, 2]]))
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        face = load_vr468()(load_regressor()(images), Camera().scaled(REGRESSOR_SIZE))
    seen, true = (openings(p).mouth for p in (face.points_px.double().numpy(), np.stack(points)[..., :2]))
    assert len(crops) > 20
    assert gain(seen, true) > 0.75
    assert np.corrcoef(seen, true)[0, 1] > 0.9
