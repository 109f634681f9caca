"""SGPN along tracks: who it is is pooled, what the face does is not, and the render is made anew where it has to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vidrestore.config import RestoreOptions
from vidrestore.errors import ConfigError, WeightsError
from vidrestore.geometry import apply
from vidrestore.morphable.align import d3dfr_from_display
from vidrestore.morphable.coefficients import split
from vidrestore.morphable.d3dfr import D3dfr, D3dfrDims
from vidrestore.morphable.files import read_bfm, read_model
from vidrestore.morphable.synthetic import synthetic_model
from vidrestore.restoration.align import (
    FFHQ_TEMPLATE_512,
    SGPN_TEMPLATE_512,
    crop_from_display,
    crop_from_ffhq,
    template,
)
from vidrestore.restoration.convert import convert_weights
from vidrestore.restoration.restorer import load_restorer
from vidrestore.restoration.seeded import fill_seeded, seeded_state, seeded_values
from vidrestore.restoration.sgpn import Sgpn, SgpnDims
from vidrestore.restoration.sgpn_restorer import PriorOptions, SgpnRestorer
from vidrestore.restoration.shape_prior import ShapePrior
from vidrestore.restoration.weights import WeightStore, find_model
from vidrestore.types import CropContext, MeshTopology, Track

SIZE = 32
DIMS = SgpnDims(size=SIZE, max_channels=16, area_channels=512, latent=8, style=16)
DEVICE = torch.device("cpu")


class Script(nn.Module):
    """A regressor that reads the coefficients off the picture's first pixels: what a test wants is what it says."""

    def forward(self, view: Tensor) -> Tensor:
        return torch.zeros(len(view), 257) + 0.0 * view.mean()


class Reading(ShapePrior):
    """A shape prior whose coefficients are written into the picture: 257 values, row by row."""

    def read(self, images: Tensor, maps: Tensor) -> Tensor:
        return images.reshape(len(images), -1)[:, :257].clone()


def coefficients(**changes: float) -> Tensor:
    """(257,) of a face that looks into the camera; each change sets the first number of its kind."""
    whole = torch.zeros(1, 257)
    for name, value in changes.items():
        getattr(split(whole), name)[:, 0] = value
    return whole[0]


def picture(values: Tensor) -> Tensor:
    image = 0.1 * torch.from_numpy(seeded_values("face", (3, SIZE, SIZE)))
    image.view(-1)[:257] = values
    return image


def restorer(**options: float) -> SgpnRestorer:
    prior = Reading(Script(), synthetic_model(), None)
    return SgpnRestorer(fill_seeded(Sgpn(DIMS)), prior, DEVICE, options=PriorOptions(**options))  # type: ignore[arg-type]


def context(ids: list[int], frames: list[int], *, score: float = 1.0, ended: tuple[int, ...] = ()) -> CropContext:
    points = template(SIZE, SGPN_TEMPLATE_512).astype(np.float32)
    box = np.array([0, 0, SIZE, SIZE], np.float32)
    tracks = tuple(Track(id=i, box=box, landmarks=points, score=score) for i in ids)
    same = np.tile(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (len(ids), 1, 1))
    return CropContext(tracks, tuple(frames), same, same, np.full(len(ids), 0.5, np.float32), frozenset(ended))


def run(network: SgpnRestorer, values: list[Tensor], ids: list[int], first: int = 0, batch: int = 100) -> Tensor:
    """All crops, one a frame, in batches."""
    parts = []
    for begin in range(0, len(values), batch):
        here = slice(begin, begin + batch)
        images = torch.stack([picture(v) for v in values[here]])
        parts.append(
            network.restore(images, context(ids[here], list(range(first + begin, first + begin + len(images)))))
        )
    return torch.cat(parts)


def test_templates_differ_and_the_alignment_follows_the_network() -> None:
    face = FFHQ_TEMPLATE_512 * 0.3 + 40.0
    np.testing.assert_allclose(
        apply(crop_from_display(face, 512, SGPN_TEMPLATE_512), face), SGPN_TEMPLATE_512, atol=14.0
    )  # other proportions: the fit is a compromise of at most so many pixels
    moved = apply(crop_from_ffhq(512, SGPN_TEMPLATE_512), FFHQ_TEMPLATE_512)
    assert np.abs(moved - SGPN_TEMPLATE_512).max() < 14.0
    assert np.linalg.norm(moved[1] - moved[0]) < 0.9 * np.linalg.norm(FFHQ_TEMPLATE_512[1] - FFHQ_TEMPLATE_512[0])
    assert restorer().template is SGPN_TEMPLATE_512


def test_a_still_face_is_drawn_once_in_every_frames() -> None:
    network = restorer(every=4)
    run(network, [coefficients()] * 10, [0] * 10)
    assert network.work.num_read == 10
    assert network.work.num_drawn == 3  # frames 0, 4, 8


def test_every_person_has_a_render_of_their_own() -> None:
    network = restorer(every=100)
    run(network, [coefficients(identity=float(i % 2)) for i in range(10)], [0, 1] * 5)
    assert network.work.num_drawn == 2
    assert network.restore(picture(coefficients())[None], context([7], [10], ended=(0, 1))).shape == (1, 3, 32, 32)
    assert network.work.num_drawn == 3
    assert network._people.keys() == {7}, "the state of ended tracks is gone"


def test_a_face_that_moves_is_drawn_anew_at_once() -> None:
    network = restorer(every=100, tolerance_px=3.0)
    still, nod = coefficients(), coefficients(angles=0.3)
    run(network, [still, still, nod, nod, still], [0] * 5)
    assert network.work.num_drawn == 3  # first look, nod, back again


def test_lips_move_in_every_frame() -> None:
    """The mouth opens within one frame: render and style follow in that frame, although identity is pooled."""
    network = restorer(every=100, tolerance_px=0.5)
    talk = [coefficients(expression=e) for e in (0.0, 0.0, 12.0, 0.0)]
    out = run(network, talk, [0] * 4)
    assert network.work.num_drawn == 3
    torch.testing.assert_close(out[0], out[1])
    assert (out[2] - out[0]).abs().mean() > 1e-3
    slack = restorer(every=100, tolerance_px=1e6)  # the render stays, and still the style says what the mouth does
    out = run(slack, talk, [0] * 4)
    assert slack.work.num_drawn == 1
    assert (out[2] - out[0]).abs().mean() > 1e-4
    torch.testing.assert_close(
        out[3], run(restorer(every=100, tolerance_px=1e6), [talk[0]] * 4, [0] * 4)[3], atol=2e-2, rtol=0
    )


def test_who_it_is_is_pooled_and_then_held() -> None:
    network = restorer(enough=5.0)
    run(network, [coefficients(identity=v, texture=-v) for v in (1.0, 3.0, 2.0, 4.0, 0.0, 50.0, 50.0)], [0] * 7)
    person = network._people[0]
    assert person.identity is not None
    assert person.texture is not None
    assert person.identity[0].item() == pytest.approx(2.0)  # the mean of five looks; the later ones change nothing
    assert person.texture[0].item() == pytest.approx(-2.0)


def test_unsure_looks_count_less() -> None:
    network = restorer()
    network.restore(picture(coefficients(identity=1.0))[None], context([0], [0], score=1.0))
    network.restore(picture(coefficients(identity=2.0))[None], context([0], [1], score=0.25))
    identity = network._people[0].identity
    assert identity is not None
    assert identity[0].item() == pytest.approx((1.0 + 0.25 * 2.0) / 1.25)


def test_pooling_makes_a_still_face_steadier() -> None:
    rng = np.random.default_rng(0)
    noisy = [torch.from_numpy(0.3 * rng.standard_normal(257)).float() for _ in range(24)]
    flicker = {}
    for pools in (False, True):
        out = run(restorer(every=8 if pools else 1, tolerance_px=1e6, pools=pools), noisy, [0] * 24)
        same_input = out[12:]  # the pixels differ in the written numbers alone
        flicker[pools] = (same_input[1:] - same_input[:-1]).abs().mean().item()
    assert flicker[True] < 0.7 * flicker[False]


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_results_do_not_depend_on_how_frames_fall_into_batches(batch: int) -> None:
    rng = np.random.default_rng(1)
    values = [torch.from_numpy(0.3 * rng.standard_normal(257)).float() for _ in range(12)]
    ids = [0, 1, 0, 0, 1, 2, 0, 1, 2, 2, 0, 1]
    together, apart = restorer(every=3), restorer(every=3)
    torch.testing.assert_close(run(together, values, ids), run(apart, values, ids, batch=batch), atol=1e-5, rtol=1e-5)
    assert together.work.num_drawn == apart.work.num_drawn


def test_a_call_that_fails_leaves_the_state_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    network = restorer()
    run(network, [coefficients(identity=1.0)], [0])
    before = dict(network._people)

    def fail(*_: object) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(network._network, "decode", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run(network, [coefficients(identity=9.0)], [0], first=1)
    assert network._people == before


def test_without_a_context_each_picture_is_for_itself() -> None:
    network = restorer()
    values = [coefficients(identity=1.0), coefficients(identity=2.0)]
    both = network.restore(torch.stack([picture(v) for v in values]))
    torch.testing.assert_close(both[1], network.restore(picture(values[1])[None])[0], atol=1e-5, rtol=1e-5)
    assert network._people == {}


def test_holes_are_painted_white_before_anybody_looks() -> None:
    network = restorer()
    one = picture(coefficients())[None]
    holes = np.zeros((1, SIZE, SIZE), np.float32)
    holes[:, 20:] = 1.0
    spoilt = one.clone()
    spoilt[:, :, 20:] = -0.7
    given = replace(context([0], [0]), holes=holes)
    white = one.clone()
    white[:, :, 20:] = 1.0
    torch.testing.assert_close(network.restore(spoilt, given), restorer().restore(white, context([0], [0])))


def test_the_shape_prior_draws_the_face_where_it_is() -> None:
    prior = ShapePrior(fill_seeded(D3dfr(D3dfrDims(channels=8, blocks=(1, 1)))), synthetic_model(rows=40, columns=40))
    size = 64
    points = template(size, SGPN_TEMPLATE_512)[None]
    maps = prior.maps(points, size)
    drawn = prior.draw(torch.zeros(1, 257), maps, size)[0]
    face = drawn.amax(0) > -0.9
    assert drawn[:, 0, 0].tolist() == [-1.0, -1.0, -1.0]
    y, x = np.nonzero(face.numpy())
    middle = points[0].mean(0)
    assert abs(x.mean() - middle[0]) < 3
    assert abs(y.mean() - middle[1]) < 8
    assert 0.15 < face.float().mean() < 0.8
    marks = prior.points_in_crop(prior.model(torch.zeros(1, 257), prior.camera), maps)
    assert ((marks > -5) & (marks < size + 5)).all()
    shifted = prior.draw(torch.zeros(1, 257), prior.maps(points + np.array([5.0, 0.0]), size), size)[0]
    torch.testing.assert_close(shifted[:, :, 5:], drawn[:, :, :-5], atol=0.05, rtol=0)
    assert prior.read(torch.zeros(1, 3, size, size), maps).shape == (1, 257)


def test_without_its_files_the_network_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"the weights of sgpn are not here.*models convert sgpn"):
        load_restorer(RestoreOptions(network="sgpn", device="cpu"), tmp_path)


def test_a_basel_face_model_converts(tmp_path: Path) -> None:
    store, entry = WeightStore(tmp_path / "store"), find_model("bfm2009")
    source = Path(__file__).parents[1] / "golden" / "bfm_tiny.mat"
    with pytest.raises(ConfigError, match=r"Basel Face Model 2009 licence.*registers"):
        convert_weights(source, entry, store, accepts_licence=False)
    convert_weights(source, entry, store, accepts_licence=True)
    ours, theirs = read_model(store.path("bfm2009")), read_bfm(source)
    for name, values in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], values, msg=name)
    assert store.verify("bfm2009").source_file == "bfm_tiny.mat"
    (tmp_path / "no.mat").write_bytes(b"MATLAB?")
    with pytest.raises(WeightsError, match=r"no\.mat: is no MATLAB file"):
        convert_weights(tmp_path / "no.mat", entry, store, accepts_licence=True)


@pytest.mark.slow
def test_the_authors_files_convert(tmp_path: Path) -> None:
    """Seeded weights in the official layouts: flat, and with the upstream project's wrapper."""
    store = WeightStore(tmp_path / "store")
    with torch.device("meta"):
        networks = {"sgpn": Sgpn(), "d3dfr": D3dfr()}
    for name, network in networks.items():
        entry, state = find_model(name), seeded_state(network)
        torch.save({"net_recon": state} if name == "d3dfr" else state, tmp_path / entry.file)
        with pytest.raises(ConfigError, match="academic research only"):
            convert_weights(tmp_path / entry.file, entry, store, accepts_licence=False)
        convert_weights(tmp_path / entry.file, entry, store, accepts_licence=True)
        assert all(torch.equal(store.load(name)[key], value) for key, value in state.items())
        (tmp_path / entry.file).unlink()
    with pytest.raises(WeightsError, match="models convert bfm2009"):
        load_restorer(RestoreOptions(network="sgpn", device="cpu"), store.folder)


# --- coefficients that the tracker has read -------------------------------------------------------------------------


def basel(values: Tensor | None, *, track_id: int = 0, name: str = "bfm") -> CropContext:
    """The context of one crop whose track carries coefficients of a face model."""
    plain = context([track_id], [0])
    topology = None if name == "vr468" else MeshTopology(name, np.array([[0, 1, 2]], np.int32), 0, 1)
    track = replace(plain.tracks[0], coefficients=None if values is None else values.numpy(), topology=topology)
    return replace(plain, tracks=(track,))


def test_what_the_tracker_read_is_not_read_again() -> None:
    values = coefficients(identity=1.5, expression=4.0, angles=0.2)
    image = picture(coefficients())[None]  # says another face
    given, told = restorer(), restorer()
    out = given.restore(image, basel(values))
    assert given.work.num_read == 0
    assert given.work.num_drawn == 1
    wanted = told.restore(image, replace(basel(None), tracks=(replace(basel(values).tracks[0], topology=None),)))
    assert told.work.num_read == 1
    assert (out - wanted).abs().mean() > 1e-3
    read = image.clone()
    read.view(-1)[:257] = values
    expected = given._prior.read(read, torch.zeros(1, 2, 3))
    torch.testing.assert_close(given._coefficients(image, torch.zeros(1, 2, 3), basel(values)), expected)


def test_the_trackers_view_is_where_its_coefficients_put_the_face() -> None:
    """The view of the track's points, whatever crop the restorer was given."""
    network = restorer()
    plain = basel(coefficients())
    points = np.array([[100.0, 90.0], [130.0, 95.0], [113.0, 112.0], [100.0, 124.0], [124.0, 128.0]], np.float32)
    crop = crop_from_display(points, SIZE, SGPN_TEMPLATE_512)
    track = replace(plain.tracks[0], landmarks=points + 3.0, anchors=points)
    moved = replace(plain, tracks=(track,), crop_from_display=crop[None], crop_from_frame=crop[None])
    (view_from_crop,) = network._maps(torch.zeros(1, 3, SIZE, SIZE), moved).numpy()
    np.testing.assert_allclose(
        apply(view_from_crop, apply(crop, points)), apply(d3dfr_from_display(points), points), atol=1e-9
    )
    (usual,) = network._maps(torch.zeros(1, 3, SIZE, SIZE), replace(moved, tracks=(replace(track, topology=None),)))
    assert np.abs(usual.numpy() - view_from_crop).max() > 1.0, "else the anchors and the landmarks would say the same"


def test_who_it_is_is_the_trackers_and_only_light_is_averaged() -> None:
    network = restorer()
    for value in (1.0, 3.0):
        network.restore(
            picture(coefficients())[None], basel(coefficients(identity=value, texture=-value, lighting=value))
        )
    person = network._people[0]
    assert person.identity is not None
    assert person.texture is not None
    assert person.lighting is not None
    assert person.identity[0].item() == pytest.approx(3.0)
    assert person.texture[0].item() == pytest.approx(-3.0)
    assert 1.0 < person.lighting[0].item() < 2.0


@pytest.mark.parametrize("name", ["vr468", "flame"])
def test_coefficients_of_another_model_say_nothing(name: str) -> None:
    network = restorer()
    network.restore(picture(coefficients())[None], basel(coefficients(identity=9.0), name=name))
    assert network.work.num_read == 1
    assert network._people[0].identity is not None
    assert float(network._people[0].identity[0]) == 0.0


def test_only_tracks_without_coefficients_are_read() -> None:
    network = restorer()
    both = context([0, 1], [0, 0])
    first = basel(coefficients(identity=2.0)).tracks[0]
    images = torch.stack([picture(coefficients()), picture(coefficients(identity=-1.0))])
    network.restore(images, replace(both, tracks=(first, both.tracks[1])))
    assert network.work.num_read == 1
    found = [float(person.identity[0]) for _, person in sorted(network._people.items()) if person.identity is not None]
    assert found == [2.0, -1.0]
