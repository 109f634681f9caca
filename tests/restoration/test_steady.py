"""A face is held where nothing changes, follows the face, lets go where it must, and begins anew with a track."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_hysteresis import restorer
from torch import Tensor

from vidrestore.config import RestoreOptions
from vidrestore.morphable.files import load_vr468
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.restoration.align import template
from vidrestore.restoration.hysteresis import CodeHysteresis, HysteresisOptions
from vidrestore.restoration.restorer import FaceRestorer
from vidrestore.restoration.steady import Steadiness, SteadyOptions, make_steadiness
from vidrestore.types import CropContext, Track, TrackedFrame

SIZE = 128
DETAIL = SteadyOptions(exposure=0.0)
EXPOSURE = SteadyOptions(weight=0.0)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def face(seed: int = 0, x: float = 0.0, y: float = 0.0, size: int = SIZE) -> Tensor:
    """(1, 3, S, S): waves of all lengths down to 5 pixels, moved to the right and down; periodic, so exactly so."""
    spectrum = torch.fft.rfft2(noise(seed, 1, 3, size, size))
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    radius = (fx.square() + fy.square()).sqrt()
    spectrum *= torch.where(radius < 0.2, 1.0 / (radius + 0.02), 0.0)
    turned = spectrum * torch.exp(-2j * torch.pi * (fx * x + fy * y))
    picture: Tensor = torch.fft.irfft2(turned, s=(size, size))
    return picture * (0.25 / torch.fft.irfft2(spectrum, s=(size, size)).std())


def context(
    frames: list[int],
    *,
    track: int = 7,
    shot: int = 0,
    meshes: list[NDArray[np.float32]] | None = None,
    ended: frozenset[int] = frozenset(),
    size: int = SIZE,
) -> CropContext:
    """Crops of one track, in the display's pixels."""
    maps = np.tile(np.eye(2, 3), (len(frames), 1, 1))
    tracks = tuple(
        Track(
            track,
            np.zeros(4, np.float32),
            template(size).astype(np.float32),
            0.9,
            shot=shot,
            mesh=None if meshes is None else meshes[i],
        )
        for i in range(len(frames))
    )
    return CropContext(tracks, tuple(frames), maps, maps, np.full(len(frames), 0.5, np.float32), ended)


def still(frame: int, seed: int = 0, degraded: float = 0.03, restored: float = 0.03) -> tuple[Tensor, Tensor]:
    """A face that does not move, with fresh noise before and after the network."""
    clean = face(seed)
    return clean + degraded * noise(100 + frame, *clean.shape), clean + restored * noise(900 + frame, *clean.shape)


def begin(options: SteadyOptions = DETAIL, frames: int = 6) -> Steadiness:
    steadiness = Steadiness(options)
    for i in range(frames):
        steadiness.steady(*still(i), context([i]))
    return steadiness


def changes(pictures: list[Tensor]) -> float:
    """Standard deviation of the change from frame to frame."""
    stack = torch.cat(pictures)
    return float((stack[1:] - stack[:-1]).std())


def test_noise_of_a_still_face_falls_as_an_average_lets_it() -> None:
    steadiness, own, held = Steadiness(DETAIL), [], []
    for i in range(30):
        degraded, restored = still(i, degraded=0.01)
        forehead = (..., slice(4, 36), slice(8, 120))  # far from eyes and mouth, whose gates open sooner
        own.append(restored[forehead])
        held.append(steadiness.steady(degraded, restored, context([i]))[forehead])
    share = changes(held[10:]) / changes(own[10:])
    new = 1.0 - DETAIL.weight
    expected = new / (2.0 - new) ** 0.5  # of a running mean of white noise
    assert expected - 0.02 < share < expected + 0.12


def test_a_face_that_moves_with_its_mesh_is_held_and_stays_sharp() -> None:
    grid = np.stack(np.meshgrid(np.linspace(20, 108, 18), np.linspace(20, 108, 26)), -1).reshape(-1, 2)
    rest = np.column_stack([grid, np.zeros(len(grid))]).astype(np.float32)  # 468 vertices, none of the model's places
    steadiness = Steadiness(DETAIL)
    errors, slopes = [], []
    for i in range(24):
        x, y = 9.0 * np.sin(0.31 * i), 6.0 * np.cos(0.27 * i)  # up to 2.8 px a frame, never whole ones
        clean = face(0, x, y)
        degraded, restored = clean + 0.02 * noise(100 + i, *clean.shape), clean + 0.1 * noise(900 + i, *clean.shape)
        mesh = rest + np.array([x, y, 0.0], np.float32)
        result = steadiness.steady(degraded, restored, context([i], meshes=[mesh]))
        if i >= 8:
            inner = (..., slice(36, 92), slice(36, 92))
            truth = clean[inner]
            errors.append(float((result - clean)[inner].std() / (restored - clean)[inner].std()))
            fine = truth - torch.nn.functional.avg_pool2d(clean, 5, 1, 2)[inner]
            slopes.append(float((result[inner] * fine).sum() / (truth * fine).sum()))
    assert np.mean(errors) < 0.75
    assert 0.95 < np.mean(slopes) < 1.03


def test_without_a_mesh_jitter_of_the_crop_is_found_in_the_crops() -> None:
    rng = np.random.default_rng(2)
    steadiness, errors = Steadiness(DETAIL), []
    for i in range(20):
        x, y = rng.normal(0, 0.6, 2)
        clean = face(0, x, y)
        degraded, restored = clean + 0.03 * noise(100 + i, *clean.shape), clean + 0.1 * noise(900 + i, *clean.shape)
        result = steadiness.steady(degraded, restored, context([i]))
        if i >= 8:
            errors.append(float((result - clean)[..., 24:104, 24:104].std() / (restored - clean).std()))
    assert np.mean(errors) < 0.8


def test_a_blink_is_the_frames_own_at_once_and_only_there() -> None:
    steadiness = begin()
    degraded, restored = still(6)
    x, y = (int(v) for v in template(SIZE)[0])
    for picture in (degraded, restored):
        picture[..., y - 4 : y + 5, x - 8 : x + 9] = 0.7
    result = steadiness.steady(degraded, restored, context([6]))
    lid = (..., slice(y - 4, y + 5), slice(x - 8, x + 9))
    assert torch.equal(result[lid], restored[lid])
    cheek = (..., slice(88, 120), slice(8, 40))
    assert float((result - restored)[cheek].std()) > 0.01


def test_a_change_of_light_passes_at_once() -> None:
    steadiness = begin(SteadyOptions())
    degraded, restored = still(6)
    result = steadiness.steady(degraded * 0.6 - 0.3, restored * 0.6 - 0.3, context([6]))
    assert float((result - (restored * 0.6 - 0.3)).mean().abs()) < 0.01


def test_light_that_comes_slowly_is_not_late() -> None:
    steadiness = begin()
    late = []
    for i in range(6, 30):
        degraded, restored = still(i)
        lamp = 0.004 * (i - 5)  # half a level of 255 a frame
        result = steadiness.steady(degraded + lamp, restored + lamp, context([i]))
        late.append(float((restored + lamp - result).mean()))
    assert max(late) < 0.5 * DETAIL.weight * DETAIL.light_step + 5e-4  # two thirds of a level


def test_shades_that_jump_by_a_level_are_held() -> None:
    rng = np.random.default_rng(5)
    steadiness, own, held = Steadiness(DETAIL), [], []
    for i in range(30):
        degraded, restored = still(i, degraded=0.005, restored=0.0)
        blocks = torch.from_numpy(rng.normal(0.0, 0.006, (1, 3, 8, 8)).astype(np.float32))  # a codec's, of 16 pixels
        jump = torch.nn.functional.interpolate(blocks, SIZE)
        restored = restored + jump
        own.append(restored[..., 4:36, 8:120])
        held.append(steadiness.steady(degraded + jump, restored, context([i]))[..., 4:36, 8:120])
    assert changes(held[8:]) < 0.9 * changes(own[8:])


def test_results_that_were_given_do_not_change_later() -> None:
    steadiness = Steadiness(DETAIL)
    given, copies = [], []
    for i in range(0, 24, 2):
        crops, restored = (torch.cat(part) for part in zip(still(i), still(i + 1), strict=True))
        given.append(steadiness.steady(crops, restored, context([i, i + 1])))
        copies.append(given[-1].clone())
    for now, then in zip(given, copies, strict=True):
        assert torch.equal(now, then)


def test_a_crop_that_is_another_picture_is_the_networks_own() -> None:
    steadiness = begin()
    degraded, restored = still(6, seed=5)
    result = steadiness.steady(degraded, restored, context([6]))
    # where two pictures cross by chance they are alike
    assert float(((result - restored).abs() > 0.01).float().mean()) < 0.05


@pytest.mark.parametrize(("frame", "track", "shot"), [(6, 7, 1), (11, 7, 0), (5, 7, 0), (3, 7, 0), (6, 8, 0)])
def test_another_shot_track_or_time_begins_anew(frame: int, track: int, shot: int) -> None:
    steadiness = begin(SteadyOptions())
    degraded, restored = still(6)
    assert torch.equal(steadiness.steady(degraded, restored, context([frame], track=track, shot=shot)), restored)


def test_a_frame_or_two_may_be_missing() -> None:
    degraded, restored = still(8)
    assert not torch.equal(begin().steady(degraded, restored, context([8])), restored)


def test_ended_tracks_are_forgotten() -> None:
    steadiness = begin()
    steadiness.steady(*still(0), context([0], track=1))
    assert len(steadiness) == 2
    steadiness.steady(*still(6), context([6], track=2, ended=frozenset({7, 1})))
    assert len(steadiness) == 1


@pytest.mark.parametrize("options", [SteadyOptions(), DETAIL, EXPOSURE])
def test_batches_do_not_change_what_a_track_gets(options: SteadyOptions) -> None:
    crops, restored = (torch.cat(part) for part in zip(*(still(i) for i in range(5)), strict=True))
    together = Steadiness(options).steady(crops, restored, context(list(range(5))))
    apart = Steadiness(options)
    for i in range(5):
        got = apart.steady(crops[i : i + 1], restored[i : i + 1], context([i]))
        torch.testing.assert_close(got[0], together[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [DETAIL, SteadyOptions()])
def test_torch_gives_what_kernels_give(options: SteadyOptions) -> None:
    mesh = load_vr468().mean_shape.numpy() * [SIZE / 3, -SIZE / 3, SIZE / 3] + [SIZE / 2, SIZE / 2, 0.0]
    by = {kernels: Steadiness(options, kernels=kernels) for kernels in (True, False)}
    for i in range(10):
        x, y = 3.0 * np.sin(0.5 * i), 2.0 * np.cos(0.4 * i)
        moved = face(0, x, y) + (0.2 if i > 6 else 0.0)
        meshes = [(mesh + np.array([x, y, 0.0])).astype(np.float32)]
        crops, restored = (moved + 0.03 * noise(seed + i, *moved.shape) for seed in (100, 900))
        if i == 8:
            restored[0, 0, 5, 5] = torch.inf
        made = {k: step.steady(crops, restored, context([i], meshes=meshes)) for k, step in by.items()}
        torch.testing.assert_close(made[True], made[False], atol=2e-3, rtol=0, equal_nan=True)
        assert float((made[True] - made[False]).nan_to_num(0.0, 0.0, 0.0).abs().mean()) < 1e-5
        if i < 8:
            assert torch.equal(made[True], restored) == (i == 0)


def test_tracks_of_one_batch_are_independent() -> None:
    pairs = [still(i // 2, seed=i % 2) for i in range(8)]
    crops, restored = (torch.cat(part) for part in zip(*pairs, strict=True))
    contexts = [context([i // 2], track=i % 2) for i in range(8)]
    maps = np.concatenate([c.crop_from_display for c in contexts])
    tracks = tuple(c.tracks[0] for c in contexts)
    mixed = CropContext(tracks, tuple(i // 2 for i in range(8)), maps, maps, np.zeros(8, np.float32))
    together = Steadiness().steady(crops, restored, mixed)
    for track in (0, 1):
        alone = Steadiness().steady(crops[track::2], restored[track::2], context(list(range(4)), track=track))
        torch.testing.assert_close(together[track::2], alone, atol=1e-5, rtol=0)


def test_a_pass_that_runs_out_of_memory_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, restored = (torch.cat(part) for part in zip(*(still(i) for i in range(6, 10)), strict=True))
    steadiness, untouched = begin(), begin()
    whole, count = Steadiness._go_on, [0]

    def fails_in_the_third(self: Steadiness, *arguments: object) -> object:
        count[0] += 1
        if count[0] == 3:
            raise torch.OutOfMemoryError("no")
        return whole(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Steadiness, "_go_on", fails_in_the_third)
    with pytest.raises(torch.OutOfMemoryError):
        steadiness.steady(crops, restored, context([6, 7, 8, 9]))
    monkeypatch.undo()
    expected = untouched.steady(crops[:2], restored[:2], context([6, 7]))
    assert torch.equal(steadiness.steady(crops[:2], restored[:2], context([6, 7])), expected)


@pytest.mark.parametrize("options", [DETAIL, EXPOSURE, SteadyOptions()])
def test_a_broken_result_is_handed_on_and_does_not_stay(options: SteadyOptions) -> None:
    steadiness = begin(options)
    degraded, restored = still(6)
    broken = restored.clone()
    broken[0, 1, 3, 3] = torch.nan
    assert not steadiness.steady(degraded, broken, context([6])).isfinite().all()
    after = steadiness.steady(*still(7), context([7]))
    torch.testing.assert_close(after, still(7)[1], atol=1e-5 if options is DETAIL else 0.01, rtol=0)
    assert steadiness.steady(*still(8), context([8])).isfinite().all()


def test_what_is_made_up_in_holes_is_the_frames_own() -> None:
    steadiness = begin()
    degraded, restored = still(6)
    holes = np.zeros((1, SIZE, SIZE), np.float32)
    holes[:, 40:60, 40:60] = 1.0
    result = steadiness.steady(degraded, restored, replace(context([6]), holes=holes))
    assert torch.equal(result[..., 44:56, 44:56], restored[..., 44:56, 44:56])


def test_wavering_exposure_is_held_and_the_sources_own_passes() -> None:
    steadiness, own, held = Steadiness(EXPOSURE), [], []
    rng = np.random.default_rng(4)
    for i in range(40):
        degraded, clean = still(i, restored=0.0)
        lamp = 0.3 if i >= 25 else 0.0
        restored = clean * (1.1 + rng.normal(0, 0.05)) + 0.05 + rng.normal(0, 0.03) + lamp
        result = steadiness.steady(degraded + lamp, restored, context([i]))
        own.append(float(restored.mean()) - lamp)
        held.append(float(result.mean()) - lamp)
        if i == 25:
            assert abs(held[-1] - held[-2]) < 0.03
    assert np.diff(held[10:]).std() < 0.3 * np.diff(own[10:]).std()
    assert abs(np.mean(held[10:]) - np.mean(own[10:])) < 0.02


@pytest.mark.parametrize(
    "bad", [{"weight": 1.0}, {"exposure": -0.1}, {"noise": 0.0}, {"open": 1.0}, {"slack_px": 0.0}, {"light_step": 0.0}]
)
def test_wrong_options_are_errors(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SteadyOptions(**bad)


# --- in the stage ----------------------------------------------------------------------------------------------------


class Wavering:
    """A network whose result for a crop depends on the frame, and whose memory may be short."""

    size = 64
    device = torch.device("cpu")

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.made: list[Tensor] = []

    def restore(self, images: Tensor, context: CropContext | None = None) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        assert context is not None
        made = images + 0.1 * torch.cat([noise(i, 1, 3, 64, 64) for i in context.frame_indices])
        self.made.extend(made)
        return made


def run(network: Wavering, options: RestoreOptions, frames: int = 6) -> NDArray[np.float32]:
    """(F, 3, S, S) of one face in a still picture."""
    picture = np.random.default_rng(0).integers(60, 200, (96, 128, 3), np.uint8)
    points = (template(64) + np.array([20, 10])).astype(np.float32)
    track = Track(0, np.array([20, 10, 84, 74], np.float32), points, 0.9)
    items = [TrackedFrame(frame_from_rgb(picture, i, rate=Fraction(25)), (track,)) for i in range(frames)]
    stage = FaceRestorer(options, info_of_frames(items[0].frame), network)
    return np.stack([restorations[0].image for restorations in stage.restore(items)])


def test_off_is_exactly_the_network() -> None:
    network = Wavering()
    result = run(network, RestoreOptions(steady=0.0, exposure_lock=0.0))
    assert np.array_equal(result, torch.stack(network.made).numpy())
    assert make_steadiness(RestoreOptions(steady=0.0, exposure_lock=0.0)) is None


def test_on_holds_what_the_network_makes() -> None:
    network = Wavering()
    result = run(network, RestoreOptions(steady=0.65))
    own = torch.stack(network.made).numpy()
    assert np.array_equal(result[0], own[0])
    assert np.diff(result, axis=0)[3:].std() < 0.7 * np.diff(own, axis=0)[3:].std()


def test_memory_that_runs_out_in_the_network_changes_nothing() -> None:
    options = RestoreOptions(steady=0.65, exposure_lock=0.9, batch_size=8)
    np.testing.assert_allclose(run(Wavering(room=2), options), run(Wavering(), options), atol=1e-5)


def test_held_codes_and_held_detail_work_together() -> None:
    crops = torch.cat([face(size=32) + 0.05 * noise(i, 1, 3, 32, 32) for i in range(12)])
    flicker = {}
    with torch.inference_mode():
        for codes in (False, True):
            network = restorer(CodeHysteresis(HysteresisOptions(margin=20.0)) if codes else None)
            made = network.restore(crops, context(list(range(12)), size=32))
            for detail in (False, True):
                options = DETAIL if detail else SteadyOptions(weight=0.0, exposure=0.0)
                held = Steadiness(options).steady(crops, made, context(list(range(12)), size=32))
                flicker[codes, detail] = changes(list(held[4:, None]))
    assert flicker[True, True] < 0.9 * flicker[True, False] < 0.9 * flicker[False, False]
    assert flicker[True, True] < flicker[False, True] < flicker[False, False]
