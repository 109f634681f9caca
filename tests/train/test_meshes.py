"""Samples with the teacher's points: what moves the picture moves the points."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidrestore.errors import ConfigError
from vidrestore.morphable.camera import Camera
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.prior import ShapePrior
from vidrestore.morphable.regressor import ShapeRegressor, load_regressor, save_regressor
from vidrestore.train import mobile, regressor
from vidrestore.train.data import FaceCache
from vidrestore.train.meshes import (
    INNER_LIPS,
    MeshPairs,
    PointCache,
    StoredSamples,
    close_eyes,
    fill_mouth,
    mirrored,
    open_mouth,
    paint_lids,
    reshape_face,
    turn_head,
    warp_mesh,
)
from vidrestore.train.run import shipped_config
from vidrestore.train.vr468 import Mesh, VertexColours, fit, make_vr468, mesh_of, read_mesh

SIDE = 160


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return mesh_of(load_vr468())


def drawn(count: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """Rendered faces of random people, and the teacher's points of them, were it without error."""
    model = load_vr468()
    generator = torch.Generator().manual_seed(1)
    coefficients = torch.zeros(count, 257)
    coefficients[:, :224] = 0.7 * torch.randn(count, 224, generator=generator)
    coefficients[:, 255:] = torch.tensor([0.03, -1.6])
    pictures = ShapePrior(regressor=ShapeRegressor().eval()).picture(coefficients, SIDE)[:, :3]
    face = model(coefficients, Camera().scaled(SIDE))
    depth = (face.depth - 10.0) * Camera().scaled(SIDE).focal / face.depth
    points = torch.cat([face.points_px, depth[..., None]], -1).double().numpy()
    arrays = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return list(arrays), points


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six faces as pictures, with their points beside them."""
    root = tmp_path_factory.mktemp("faces")
    pictures, points = drawn(6)
    names = []
    for i, picture in enumerate(pictures):
        names.append(f"{i:05d}.png")
        cv2.imwrite(str(root / names[-1]), picture[..., ::-1])
    shares = (points + np.array([0.5, 0.5, 0.0])) / SIDE
    np.savez(root / "points.npz", points=shares.astype(np.float32), scores=np.full(6, 30.0), names=np.array(names))
    return root


def pairs(folder: Path, mesh: Mesh, **options: float) -> MeshPairs:
    paths = sorted(folder.glob("*.png"))
    cache = FaceCache(paths, SIDE, folder / "cache.npy")
    return MeshPairs(cache, PointCache.of(paths, folder / "points.npz"), mesh, size=128, seed=3, **options)


def test_a_sample_depends_on_its_number_alone(folder: Path, mesh: Mesh) -> None:
    data = pairs(folder, mesh)
    first, again = data[4], data[4]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["degraded"].shape == first["clean"].shape == (3, 128, 128)
    assert not torch.equal(first["clean"], data[5]["clean"])


def test_points_stay_on_the_face(folder: Path, mesh: Mesh) -> None:
    """The faces are lit, what is around them is black: all points lie on the bright part, wherever it went."""
    data = pairs(folder, mesh, blinking=0.0)
    for i in range(8):
        sample = data[i]
        x, y = sample["points"][:, :2].round().long().unbind(1)
        inside = (x > 1) & (y > 1) & (x < 126) & (y < 126)
        near = torch.nn.functional.max_pool2d(sample["clean"].float().mean(0)[None, None], 5, 1, 2)[0, 0]
        assert float((near[y[inside], x[inside]] > 12).float().mean()) > 0.9, i


def test_closing_eyes_moves_lids_only() -> None:
    _, points = drawn(1)
    closed = close_eyes(points[0], (1.0, 0.0))
    moved = np.flatnonzero(np.abs(closed - points[0]).max(1) > 1e-9)
    assert set(moved) <= {246, 161, 160, 159, 158, 157, 173, 247, 30, 29, 27, 28, 56, 190}
    assert np.linalg.norm(closed[159] - closed[145]) < 0.1 * np.linalg.norm(points[0, 159] - points[0, 145])


def gap(points: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(points[13, :2] - points[14, :2]))


def test_a_jaw_opens_the_mouth_and_leaves_the_rest() -> None:
    _, points = drawn(1)
    half, wide = (open_mouth(points[0], share) for share in (0.5, 1.0))
    assert gap(points[0]) + 5.0 < gap(half) < gap(wide) - 5.0
    unit = np.linalg.norm(points[0, 263] - points[0, 33])
    still = [13, 0, 4, 33, 263, 10]  # upper lip, nose, corners of the eyes, forehead
    assert np.abs(wide[still] - points[0, still]).max() < 1e-9
    assert np.abs(wide[[159, 145]] - points[0, [159, 145]]).max() < 0.01 * unit  # the cheek pulls a little
    assert 0.1 * unit < wide[152, 1] - points[0, 152, 1] < 0.6 * unit  # the chin goes down


def test_an_open_mouth_is_dark_inside_and_nowhere_else() -> None:
    pictures, points = drawn(1)
    shut = points[0].copy()
    shut[list(INNER_LIPS)] = np.repeat(shut[[13]], len(INNER_LIPS), 0)  # lips that meet
    wide = open_mouth(points[0], 1.0)
    grey = np.full_like(pictures[0], 150)
    shown = fill_mouth(grey, shut, wide, np.random.default_rng(3))
    x, y = np.rint((wide[13, :2] + 4 * wide[14, :2]) / 5).astype(int)  # near the lower lip: never teeth
    assert shown[y, x].max() < 90
    apart = np.abs(shown.astype(int) - 150).max(2) > 2
    rows, columns = np.nonzero(apart)
    assert wide[13, 1] - 4 < rows.min() <= rows.max() < wide[14, 1] + 4
    assert wide[78, 0] - 4 < columns.min() <= columns.max() < wide[308, 0] + 4
    assert np.array_equal(fill_mouth(grey, wide, wide, np.random.default_rng(3)), grey)  # it was open before


def test_painted_lids_are_skin_on_the_eye_that_is_closed() -> None:
    _, points = drawn(1)
    closed = close_eyes(points[0], (1.0, 0.0))
    picture = np.full((SIDE, SIDE, 3), (200, 150, 120), np.uint8)
    x0, y0 = np.rint(points[0, 159, :2]).astype(int)
    x1, y1 = np.rint(points[0, 386, :2]).astype(int)
    for x, y in ((x0, y0 + 2), (x1, y1 + 2)):
        cv2.circle(picture, (int(x), int(y)), 2, (20, 20, 20), -1)  # an iris that shows through
    shown = paint_lids(picture, closed, (1.0, 0.0), np.random.default_rng(0))
    assert shown[y0 + 2, x0].mean() > picture[y0 + 2, x0].mean() + 20
    assert np.array_equal(shown[y1 - 6 : y1 + 7, x1 - 6 : x1 + 7], picture[y1 - 6 : y1 + 7, x1 - 6 : x1 + 7])


def test_samples_that_speak_and_blink_say_so_in_their_points(folder: Path, mesh: Mesh) -> None:
    def opened(data: MeshPairs, pairs: tuple[tuple[int, int], ...]) -> float:
        points = torch.stack([data[i]["points"] for i in range(12)])
        return float(regressor.openings(points[..., :2], pairs, points).mean())

    rest = pairs(folder, mesh, blinking=0.0, turned=0.0)
    acting = pairs(folder, mesh, blinking=1.0, turned=0.0, speaking=1.0, painted=1.0)
    assert opened(acting, regressor.LIP_PAIRS) > 1.5 * opened(rest, regressor.LIP_PAIRS)
    assert opened(acting, regressor.LID_PAIRS) < 0.7 * opened(rest, regressor.LID_PAIRS)


def test_somebody_else_has_the_same_pose_and_outline() -> None:
    _, points = drawn(2)
    before = points[0]
    after = reshape_face(before, np.random.default_rng(4))
    unit = float(np.linalg.norm(before[263] - before[33]))
    outline = [10, 234, 454, 152, 127, 356]
    assert np.allclose(after[outline], before[outline])
    moved = np.linalg.norm(after - before, axis=1) / unit
    assert 0.01 < float(moved[[1, 4, 33, 263, 61, 291]].mean()) < 0.1
    there = turn_head(reshape_face(before, np.random.default_rng(4)), 0.5, 0.2)
    here = reshape_face(turn_head(before, 0.5, 0.2), np.random.default_rng(4))
    assert np.allclose(here - here.mean(0), there - there.mean(0), atol=0.02 * unit)  # the same change in any pose
    assert not np.allclose(after, reshape_face(before, np.random.default_rng(5)))


def test_samples_as_the_papers_make_them_with_texture_and_of_others(folder: Path, mesh: Mesh) -> None:
    plain, data = pairs(folder, mesh), pairs(folder, mesh, stills=1.0, texture=1.0, reshaped=1.0)
    levels = {int(data[i]["level"]) for i in range(8)}
    assert levels == {4, 5}
    for i in range(3):
        sample = data[i]
        assert sample["degraded"].shape == sample["clean"].shape == (3, 128, 128)
        assert not torch.equal(sample["degraded"], sample["clean"])
        assert not torch.allclose(sample["points"], plain[i]["points"])


def test_a_head_turns_its_nose_the_way_that_is_said() -> None:
    _, points = drawn(1)
    middle = points[0].mean(0)
    assert turn_head(points[0], 0.4, 0.0)[4, 0] > points[0, 4, 0]
    assert turn_head(points[0], 0.0, 0.3)[4, 1] > points[0, 4, 1]
    distances = (np.linalg.norm(p - p.mean(0), axis=1) for p in (points[0], turn_head(points[0], 0.5, -0.2)))
    np.testing.assert_allclose(*distances, rtol=1e-9)
    assert np.isfinite(middle).all()


def test_a_warp_to_the_same_place_changes_nothing(mesh: Mesh) -> None:
    pictures, points = drawn(1)
    again = warp_mesh(pictures[0], points[0], points[0], mesh.triangles)
    assert np.abs(again.astype(int) - pictures[0]).max() <= 2


def test_a_warp_carries_the_surface_along(mesh: Mesh) -> None:
    pictures, points = drawn(1)
    right = points[0] + [6.0, 0.0, 0.0]
    moved = warp_mesh(pictures[0], points[0], right, mesh.triangles)
    assert np.abs(moved[70:90, 76:96].astype(int) - pictures[0][70:90, 70:90]).mean() < 2.0


def test_mirroring_twice_gives_the_sample(folder: Path, mesh: Mesh) -> None:
    sample = {name: value[None] for name, value in pairs(folder, mesh)[0].items()}
    twice = mirrored(mirrored(sample, mesh.mirror), mesh.mirror)
    assert torch.equal(twice["clean"], sample["clean"])
    torch.testing.assert_close(twice["points"], sample["points"])


def test_stored_samples_go_on_where_they_stopped(folder: Path, mesh: Mesh, tmp_path: Path) -> None:
    data = pairs(folder, mesh)
    stored = StoredSamples(tmp_path / "s", 4, 128)
    filling = stored.fill(data)
    assert [next(filling), next(filling)] == [0, 1]
    again = StoredSamples(tmp_path / "s", 4, 128)
    assert list(again.ready) == [0, 1]
    assert list(again.fill(data)) == [2, 3]
    assert np.array_equal(again.clean[3], data[3]["clean"].numpy())
    with pytest.raises(ConfigError, match="is wanted"):
        StoredSamples(tmp_path / "s", 5, 128)


def test_the_regressor_learns(folder: Path, tmp_path: Path) -> None:
    settings = [f"data.faces={folder}", f"data.cache={tmp_path}/c.npy", f"data.points={folder}/points.npz"]
    settings += [f"data.samples={tmp_path}/samples", "data.num_samples=8"]  # few, again and again: steps are comparable
    config = regressor.load_config(shipped_config("regressor_smoke"), settings)
    losses: list[float] = []
    report = regressor.train(config, tmp_path / "run", progress=lambda s, p, values: losses.append(values["loss"]))
    assert report.steps == 40
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])
    assert report.weights.is_file()


def test_the_last_layer_learns_alone_from_a_mean_and_keeps_the_identity(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    smoke = regressor.load_config(shipped_config("regressor_smoke"))
    files = []
    for name in ("a", "b"):
        files.append(tmp_path / f"{name}.safetensors")
        save_regressor(ShapeRegressor(smoke.network), files[-1])
    settings = [f"data.faces={folder}", f"data.cache={tmp_path}/c.npy", f"data.points={folder}/points.npz"]
    settings += [f"start={files[0]}", f"reference={files[1]}", "start_share=0.75", "learns=last", "loss.identity=1.0"]
    config = regressor.load_config(shipped_config("regressor_smoke"), [*settings, "run.max_steps=6", "run.log_every=1"])
    heard: list[dict[str, float]] = []
    report = regressor.train(config, tmp_path / "run", progress=lambda s, p, values: heard.append(values))
    first, second, after = (load_regressor(file).state_dict() for file in (*files, report.weights))
    mean = {name: 0.75 * first[name] + 0.25 * second[name] for name in first if first[name].is_floating_point()}
    for name, value in mean.items():
        if not name.startswith("last."):
            torch.testing.assert_close(after[name], value, atol=2e-3, rtol=2e-3)  # float16 on disk
    assert not torch.allclose(after["last.weight"], mean["last.weight"], atol=1e-4)
    assert heard[0]["identity"] > 0.0
    with pytest.raises(ConfigError, match="needs a reference"):
        regressor.load_config(shipped_config("regressor_smoke"), ["loss.identity=1.0"])
    with pytest.raises(ConfigError, match="start_share"):
        regressor.load_config(shipped_config("regressor_smoke"), ["start_share=0.5"])


def test_points_without_the_lids_that_are_wanted_are_made_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Teacher:
        def find(self, picture: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float]:
            return np.full((468, 3), 7.0), 30.0

    class Eyes:
        def refine(self, picture: NDArray[np.uint8], points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(points + 1.0)

    monkeypatch.setattr("vidrestore.train.meshes.FaceMesh", Teacher)
    monkeypatch.setattr("vidrestore.train.meshes.EyeReader", Eyes)
    paths, file = sorted(folder.glob("*.png"))[:2], tmp_path / "points.npz"
    plain, lids = PointCache.of(paths, file), PointCache.of(paths, file, lids=True)
    assert float(plain.points[0, 0, 2]) == pytest.approx(7 / 512)
    assert float(lids.points[0, 0, 2]) == pytest.approx(8 / 512)
    monkeypatch.setattr("vidrestore.train.meshes.FaceMesh", None)  # what is stored is read
    assert np.array_equal(PointCache.of(paths, file, lids=True).points, lids.points)
    assert np.array_equal(PointCache.of(paths, file).points, lids.points)  # better lids do no harm


def test_point_errors_are_zero_for_the_truth(mesh: Mesh) -> None:
    model = load_vr468()
    coefficients = torch.zeros(3, 257)
    coefficients[:, 225] = torch.tensor([0.0, 0.4, -0.4])
    coefficients[:, 256] = -1.6
    face = model(coefficients, Camera().scaled(128))
    points = torch.cat([face.points_px, face.depth[..., None]], -1)
    assert float(regressor.point_errors(model, coefficients, points, 128).max()) < 1e-6
    moved = points + torch.tensor([3.0, 0.0, 0.0])
    unit = regressor.eye_distance(points)
    torch.testing.assert_close(regressor.point_errors(model, coefficients, moved, 128), 3.0 / unit)


def test_a_model_is_learned_from_its_own_faces(mesh: Mesh) -> None:
    """Faces drawn from vr468 with few identity and expression coefficients: the model made of them fits new ones."""
    model = load_vr468()
    rng = np.random.default_rng(0)
    identity, expression = (b.double().numpy() for b in (model.identity_basis, model.expression_basis))
    mean = model.mean_shape.double().numpy()

    def teacher(i: NDArray[np.float64], e: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = mean + (identity[:, :6] @ i + expression[:, 2:8] @ e).reshape(-1, 3)
        return np.asarray(shape * [1.0, -1.0, -1.0] * 100.0)

    faces = np.stack([teacher(rng.normal(size=6), 0.5 * rng.normal(size=6)) for _ in range(170)])
    changes = [(teacher(i, np.zeros(6)), teacher(i, rng.normal(size=6))) for i in rng.normal(size=(140, 6))]
    colours = VertexColours(
        np.full((170, 468, 3), 120.0) + rng.normal(size=(170, 1, 3)) * 10, np.ones((170, 468), bool)
    )
    made = make_vr468(mesh, faces, changes, colours)
    basis = np.concatenate([made.identity_basis.double().numpy(), made.expression_basis.double().numpy()], 1)
    new = teacher(rng.normal(size=6), 0.5 * rng.normal(size=6))
    from vidrestore.train.vr468 import onto  # the alignment that the model is made in

    aligned_face = onto(new * [1.0, -1.0, -1.0], made.mean_shape.double().numpy())
    difference = (aligned_face - made.mean_shape.double().numpy()).reshape(1, -1)
    rest = difference - fit(difference, basis, 0.012) @ basis.T
    assert np.abs(rest).mean() < 0.15 * np.abs(difference).mean()


def test_a_foreign_mesh_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cube.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1/1 2/2 3/3\n")
    with pytest.raises(ConfigError, match="expected 468 vertices and 898 triangles, got 3, 1"):
        read_mesh(tmp_path / "cube.obj")


def test_mobile_begins_as_its_trunk_and_a_file_gives_it_back(tmp_path: Path) -> None:
    from vidrestore.restoration.compact import CompactDims
    from vidrestore.restoration.mobile import MobileDims, MobileNet, load_mobile, save_mobile

    torch.manual_seed(0)
    trunk = CompactDims(widths=(8, 8, 8, 8))
    dims = MobileDims(
        trunk=trunk, encoder=(8, 8, 8, 8, 8), style=16, base=16, rank=4, generator=(16, 16, 16, 8), codes=4, hidden=16
    )
    network = MobileNet(dims).eval()
    torch.nn.init.normal_(network.trunk.head.weight, std=0.01)
    image, render, coefficients = torch.rand(2, 3, 256, 256) * 2 - 1, torch.rand(2, 4, 128, 128), torch.randn(2, 257)
    w = torch.tensor([0.0, 1.0])
    with torch.inference_mode():
        torch.testing.assert_close(network(image, render, coefficients, w), network.trunk(image))
        torch.nn.init.normal_(network.joins[1].weight, std=0.1)
        changed = network(image, render, coefficients, w)
        assert not torch.allclose(changed[0], network.trunk(image)[0], atol=1e-4)  # w = 0: with the prior
        torch.testing.assert_close(changed[1], network.trunk(image)[1])  # w = 1: without
        large = torch.nn.functional.interpolate(image, scale_factor=2.0, mode="nearest")
        assert network(large, render, coefficients, w).shape == (2, 3, 512, 512)
        network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})  # the file is float16
        save_mobile(network, tmp_path / "m.safetensors")
        again = load_mobile(tmp_path / "m.safetensors")
        assert again.dims == dims
        torch.testing.assert_close(again(image, render, coefficients, w), network(image, render, coefficients, w))


def test_mobile_learns(folder: Path, tmp_path: Path) -> None:
    settings = [f"data.faces={folder}", f"data.cache={tmp_path}/c.npy", f"data.points={folder}/points.npz"]
    config = mobile.load_config(shipped_config("mobile_smoke"), settings)
    losses: list[float] = []
    prior = ShapePrior(regressor=ShapeRegressor().eval())
    report = mobile.train(
        config, tmp_path / "run", prior=prior, progress=lambda s, p, v: losses.append(v["l1"] / v["input_l1"])
    )
    assert report.weights.is_file()
    assert losses[-1] < losses[0]  # samples differ in how bad they are, so the error is seen against the input's
    assert {"psnr_light", "psnr_light_w1", "psnr_light_input"} <= set(report.values)
