"""Colours for grey faces and parts for holed ones: through the whole pipeline, with small seeded networks."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import media
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidrestore import cli, tasks
from vidrestore.blend.chroma import limit_to_gamut
from vidrestore.blend.holes import close_holes
from vidrestore.config import RestoreConfig, TrackOptions
from vidrestore.decode.formats import native_layout
from vidrestore.decode.masks import MaskPicture, MaskVideo, WhiteMask, open_mask
from vidrestore.errors import ConfigError, DecodeError
from vidrestore.geometry import apply, invert
from vidrestore.picture import frame_from_rgb, info_of_frames
from vidrestore.pipeline import restore_frames
from vidrestore.restoration.align import crop_from_display, template
from vidrestore.restoration.codeformer import CodeFormer, CodeFormerDims
from vidrestore.restoration.colorize import ColorizationRestorer, luma_of
from vidrestore.restoration.inpaint import InpaintingRestorer
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.tasks import Colorize, Inpaint, coloured_format, with_chroma
from vidrestore.types import CropContext, Detections, Frame, PixelFormat, Plane, Track

GOLDEN = runpy.run_path(str(Path(__file__).parent / "golden" / "make_golden_networks.py"))
SMALL: CodeFormerDims = GOLDEN["SMALL_CODEFORMER"]
SIZE = SMALL.autoencoder.image_size
CPU = torch.device("cpu")
HEIGHT, WIDTH = 90, 120
POINTS = (template(64) + np.array([30, 12])).astype(np.float32)
QUICK = RestoreConfig(track=TrackOptions(lookahead=2, min_hits=1, min_detail=0.0))  # the pictures show no face
GREY = PixelFormat("gray", "gray", 8, full_range=True)
YUV = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5), matrix="bt601")


class OneFace:
    """Finds the same face in every picture, wherever the detector's copy has it."""

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        scale = picture.shape[1] / WIDTH
        points = (POINTS * scale)[None].astype(np.float32)
        box = np.array([[30, 12, 94, 76]], np.float32) * scale
        return Detections(box, points, np.array([0.95], np.float32))


class NoFace:
    """Finds nothing."""

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        return Detections.none()


def network() -> CodeFormer:
    return fill_seeded(CodeFormer(SMALL)).eval()


def picture(seed: int = 0) -> NDArray[np.uint8]:
    """Soft random shapes, not a flat field."""
    noise = np.random.default_rng(seed).normal(size=(HEIGHT, WIDTH))
    soft = cv2.GaussianBlur(noise, (0, 0), 4)
    return np.clip(128 + 500 * soft, 30, 220).astype(np.uint8)


def grey_frame(index: int, luma: Plane, pixel_format: PixelFormat = GREY) -> Frame:
    return Frame(index, index, Fraction(1, 25), (luma,), pixel_format, duration=1)


def yuv_frame(index: int, luma: NDArray[np.uint8]) -> Frame:
    rng = np.random.default_rng(index)
    chroma = [rng.integers(100, 150, (HEIGHT // 2, WIDTH // 2), np.uint8) for _ in range(2)]
    return Frame(index, index, Fraction(1, 25), (luma, *chroma), YUV, duration=1)


def run(frames: list[Frame], task: tasks.Task, finder: Any = None) -> list[Frame]:
    info = info_of_frames(frames[0])
    return [r.frame for r in restore_frames(frames, info, QUICK, finder=finder or OneFace(), task=task)]


def colorize(**options: Any) -> Colorize:
    return Colorize(ColorizationRestorer(network(), CPU, torch.float32, **options))


# --- colour ----------------------------------------------------------------------------------------------------------


def test_grey_frames_come_out_with_colour_in_the_face_and_the_very_same_luma() -> None:
    frames = [grey_frame(i, picture(i // 2)) for i in range(4)]
    done = run(frames, colorize())
    for before, after in zip(frames, done, strict=True):
        assert after.format.name == "yuv420p"
        np.testing.assert_array_equal(after.planes[0], before.planes[0])
        chroma = np.stack([plane.astype(int) - 128 for plane in after.planes[1:]])
        assert np.abs(chroma).max() > 5, "the face has colour"
        assert not chroma[:, :4].any(), "what is no face has none"
        assert not chroma[:, :, -10:].any()


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
def test_luma_is_kept_in_the_frame_s_own_matrix(matrix: str) -> None:
    frames = [replace(yuv_frame(i, picture()), format=replace(YUV, matrix=matrix)) for i in range(2)]
    for before, after in zip(frames, run(frames, colorize()), strict=True):
        np.testing.assert_array_equal(after.planes[0], before.planes[0])
        assert (after.planes[1] != before.planes[1]).any()


def test_a_sepia_tone_is_replaced_and_not_mixed_in() -> None:
    luma = picture()
    flat = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    plain = Frame(0, 0, Fraction(1, 25), (luma, flat, flat), YUV, duration=1)
    sepia = replace(plain, planes=(luma, flat - 12, flat + 14))
    middle = np.s_[20:26, 26:34]  # where the mask is 1
    (from_plain,), (from_sepia,) = (
        run([frame], Colorize(ColorizationRestorer(_Flickering(), CPU, torch.float32)))  # type: ignore[arg-type]
        for frame in (plain, sepia)
    )
    assert np.abs(from_plain.planes[1][middle].astype(int) - 128).min() > 3
    for index in (1, 2):
        difference = from_plain.planes[index][middle].astype(int) - from_sepia.planes[index][middle]
        assert np.abs(difference).max() <= 2


def test_a_clip_without_faces_is_only_given_empty_chroma() -> None:
    frames = [grey_frame(i, picture(i)) for i in range(2)]
    for before, after in zip(frames, run(frames, colorize(), NoFace()), strict=True):
        np.testing.assert_array_equal(after.planes[0], before.planes[0])
        assert all((plane == 128).all() for plane in after.planes[1:])


@pytest.mark.parametrize(
    ("name", "depth", "alpha"),
    [("gray", 8, False), ("gray10le", 10, False), ("gray12le", 12, False), ("gray16le", 16, False), ("ya8", 8, True)],
)
def test_every_grey_format_has_a_coloured_twin_that_ffmpeg_knows(name: str, depth: int, alpha: bool) -> None:
    grey = PixelFormat(name, "gray", depth, has_alpha=alpha, full_range=True)
    coloured = coloured_format(grey, 480)
    layout = native_layout(coloured.name)
    assert layout is not None
    assert (layout.colour, layout.depth, layout.chroma_shift, layout.has_alpha) == ("yuv", depth, (1, 1), alpha)
    planes = tuple(np.full((5, 7), 3, grey.dtype) for _ in range(grey.num_planes))
    frame = with_chroma(Frame(0, 0, Fraction(1, 25), planes, grey), coloured)
    assert [plane.shape for plane in frame.planes[:3]] == [(5, 7), (3, 4), (3, 4)]
    assert (frame.planes[1] == 1 << (depth - 1)).all()
    assert coloured.full_range


def test_colours_stay_within_what_can_be_shown() -> None:
    rng = np.random.default_rng(1)
    luma = np.broadcast_to(rng.uniform(-1, 1, (1, 40, 40)), (3, 40, 40)).astype(np.float32)
    chroma = rng.normal(size=(3, 40, 40)).astype(np.float32)
    chroma -= np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), chroma, 1)
    limited = limit_to_gamut(luma + chroma, luma)
    assert np.abs(limited).max() <= 1 + 1e-5
    np.testing.assert_allclose(np.tensordot([0.299, 0.587, 0.114], limited, 1), luma[0], atol=1e-5)
    inside = np.abs(luma + 0.01 * chroma).max(0) < 1
    np.testing.assert_allclose(limit_to_gamut(luma + 0.01 * chroma, luma)[:, inside], (luma + 0.01 * chroma)[:, inside])


class _Flickering(torch.nn.Module):
    """Paints every call another tint over the picture, in the place of a network."""

    dims = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.tints = torch.Generator().manual_seed(3)

    def to_precision(self, dtype: torch.dtype) -> _Flickering:
        return self

    def forward(self, images: torch.Tensor, w: float, *, adain: bool) -> torch.Tensor:
        assert (w, adain) == (0.0, True), "as published"
        assert torch.equal(images[:, 0], images[:, 2]), "the network is shown no colour"
        tint = torch.tensor([0.3, 0.0, -0.2]) + 0.15 * torch.randn(len(images), 3, generator=self.tints)
        return (0.6 * images + 0.3 * tint[:, :, None, None] * (images + 1.2)).clamp(-1, 1)


def context_of(track_ids: list[int], frame: int, ended: tuple[int, ...] = ()) -> CropContext:
    n = len(track_ids)
    tracks = tuple(Track(i, np.zeros(4, np.float32), POINTS, 0.9) for i in track_ids)
    maps = np.tile(np.eye(2, 3), (n, 1, 1))
    return CropContext(tracks, (frame,) * n, maps, maps, np.zeros(n, np.float32), frozenset(ended))


def colours(hold_frames: int, num_frames: int = 60) -> NDArray[np.float64]:
    restorer = ColorizationRestorer(_Flickering(), CPU, torch.float32, hold_frames=hold_frames)  # type: ignore[arg-type]
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) - 0.5
    made = [restorer.restore(image, context_of([7], frame)) for frame in range(num_frames)]
    return np.stack([(m - luma_of(m)).mean((0, 2, 3)).numpy() for m in made]).astype(np.float64)


def test_colours_are_held_along_a_track() -> None:
    free, held = colours(1), colours(48)
    flicker_free, flicker_held = (np.abs(np.diff(c[10:], axis=0)).mean() for c in (free, held))
    assert flicker_held < flicker_free / 8
    np.testing.assert_allclose(held[-1], free[-48:].mean(0), atol=0.03)


def test_tracks_have_their_own_colours_and_ended_ones_are_forgotten() -> None:
    restorer = ColorizationRestorer(_Flickering(), CPU, torch.float32)  # type: ignore[arg-type]
    image = torch.zeros(2, 3, SIZE, SIZE)
    restorer.restore(image, context_of([1, 2], 0))
    assert restorer._means.keys() == {1, 2}
    restorer.restore(image[:1], context_of([2], 1, ended=(1,)))
    assert restorer._means.keys() == {2}
    assert restorer._means[2][1] == 2


# --- holes -----------------------------------------------------------------------------------------------------------


def inpaint(mask: Path | None, **options: Any) -> Inpaint:
    return Inpaint(mask, restorer=InpaintingRestorer(network(), CPU, torch.float32), **options)


@pytest.fixture
def scratch() -> NDArray[np.uint8]:
    """A scratch through the face and on, and a stain far from it."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, 60:63] = 255
    mask[5:9, 112:118] = 255
    return mask


def saved(mask: NDArray[np.uint8], folder: Path) -> Path:
    path = folder / "mask.png"
    cv2.imwrite(str(path), mask)
    return path


def test_only_masked_samples_within_the_face_change(scratch: NDArray[np.uint8], tmp_path: Path) -> None:
    frames = [yuv_frame(i, np.where(scratch > 0, 235, picture(i)).astype(np.uint8)) for i in range(3)]
    for before, after in zip(frames, run(frames, inpaint(saved(scratch, tmp_path))), strict=True):
        assert after.format == before.format
        covered = scratch.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).max((1, 3)) > 0
        for index, mask in [(0, scratch > 0), (1, covered), (2, covered)]:
            changed = after.planes[index] != before.planes[index]
            assert not (changed & ~mask).any(), "what the mask does not cover stays"
        changed = after.planes[0] != before.planes[0]
        assert not changed[5:9, 112:118].any(), "and so does what is no face"
        assert changed[40:60, 60:63].mean() > 0.9


def test_what_is_made_up_joins_what_is_around_it(scratch: NDArray[np.uint8], tmp_path: Path) -> None:
    flat = np.full((HEIGHT, WIDTH), 120, np.uint8)
    frames = [yuv_frame(0, np.where(scratch > 0, 235, flat).astype(np.uint8))]

    class Brighter(torch.nn.Module):
        dims = SMALL

        def to_precision(self, dtype: torch.dtype) -> Brighter:
            return self

        def forward(self, images: torch.Tensor, w: float, *, adain: bool) -> torch.Tensor:
            return torch.full_like(images, 0.4)

    task = Inpaint(saved(scratch, tmp_path), restorer=InpaintingRestorer(Brighter(), CPU, torch.float32))  # type: ignore[arg-type]
    (after,) = run(frames, task)
    face = after.planes[0][30:60, 60:63].astype(int)
    assert np.abs(face - 120).max() <= 4, "no white is left, and the drawn face has the frame's brightness"


def test_frames_without_a_hole_are_the_very_same(scratch: NDArray[np.uint8], tmp_path: Path) -> None:
    frames = [yuv_frame(i, picture(i)) for i in range(2)]
    done = run(frames, inpaint(saved(np.zeros_like(scratch), tmp_path)))
    assert all(after is before for before, after in zip(frames, done, strict=True))


def test_a_hole_without_a_face_stays(scratch: NDArray[np.uint8], tmp_path: Path) -> None:
    frames = [yuv_frame(i, picture(i)) for i in range(2)]
    done = run(frames, inpaint(saved(scratch, tmp_path)), NoFace())
    assert all(after is before for before, after in zip(frames, done, strict=True))


def test_crops_without_a_hole_cost_nothing() -> None:
    class Counting(torch.nn.Module):
        dims = SMALL
        seen: list[torch.Tensor] = []  # noqa: RUF012, one test's own

        def to_precision(self, dtype: torch.dtype) -> Counting:
            return self

        def forward(self, images: torch.Tensor, w: float, *, adain: bool) -> torch.Tensor:
            assert (w, adain) == (1.0, False), "as published"
            self.seen.append(images)
            return images * 0.0

    restorer = InpaintingRestorer(Counting(), CPU, torch.float32)  # type: ignore[arg-type]
    images = torch.full((2, 3, SIZE, SIZE), 0.25)
    holes = np.zeros((2, SIZE, SIZE), np.float32)
    context = replace(context_of([1, 2], 0), holes=holes)
    assert restorer.restore(images, context) is images
    holes[1, 10:20, 10:20] = 0.5
    done = restorer.restore(images, context)
    assert torch.equal(done[0], images[0])
    assert not done[1].any()
    (shown,) = Counting.seen
    assert len(shown) == 1
    assert (shown[0, :, 10:20, 10:20] == 1).all(), "holes are shown as pure white"
    assert (shown[0, :, :10] == 0.25).all()


def test_without_a_context_pure_white_is_the_hole() -> None:
    restorer = InpaintingRestorer(network(), CPU, torch.float32)
    images = torch.full((1, 3, SIZE, SIZE), 0.25)
    assert restorer.restore(images) is images
    images[:, :, 4:9, 4:9] = 1.0
    assert not torch.equal(restorer.restore(images), images)


def test_holes_are_closed_by_what_is_around_them() -> None:
    ramp = np.broadcast_to(np.linspace(20, 200, WIDTH), (HEIGHT, WIDTH)).round().astype(np.uint8)
    hole = np.zeros((HEIGHT, WIDTH), np.uint8)
    hole[:, 50:55] = 255
    hole[70:72] = 255
    hole[10:30, 80:100] = 255
    damaged = np.where(hole > 0, 255, ramp).astype(np.uint8)
    closed = close_holes(yuv_frame(0, damaged), hole)
    np.testing.assert_array_equal(closed.planes[0][hole == 0], ramp[hole == 0])
    error = np.abs(closed.planes[0].astype(int) - ramp)
    assert error[:, 50:55].max() <= 6
    assert error[10:30, 80:100].max() <= 16
    assert close_holes(closed, np.zeros_like(hole)) is closed


def test_a_frame_that_is_all_hole_does_not_fail() -> None:
    closed = close_holes(yuv_frame(0, picture()), np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert closed.planes[0].max() == 0


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    info = info_of_frames(yuv_frame(0, picture()))
    with pytest.raises(ConfigError, match="the mask has 30x20 pixels, the video is shown with 120x90"):
        open_mask(saved(np.zeros((20, 30), np.uint8), tmp_path), info)


def test_a_mask_that_is_not_there_or_no_picture_is_told(tmp_path: Path) -> None:
    info = info_of_frames(yuv_frame(0, picture()))
    with pytest.raises(DecodeError, match=r"nothing\.png: there is no such file"):
        open_mask(tmp_path / "nothing.png", info)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DecodeError, match="is no picture that can be read"):
        open_mask(tmp_path / "text.png", info)


def mask_video(path: Path, num_frames: int) -> Path:
    frames = []
    for i in range(num_frames):
        frame = av.VideoFrame(WIDTH, HEIGHT, "gray")
        rows = np.zeros((HEIGHT, frame.planes[0].line_size), np.uint8)
        rows[:, 10 + i] = 255
        frame.planes[0].update(rows.tobytes())
        frames.append(frame)
    media.write_clip(path, frames, codec="ffv1")
    return path


def test_a_mask_video_goes_along_frame_by_frame_and_may_not_end_early(tmp_path: Path) -> None:
    frames = [yuv_frame(i, picture()) for i in range(4)]
    mask = MaskVideo(mask_video(tmp_path / "mask.mkv", 3), info_of_frames(frames[0]))
    for i in range(3):
        np.testing.assert_array_equal(np.flatnonzero(mask.hole(frames[i]).any(0)), [10 + i])
    with pytest.raises(DecodeError, match="the mask has 3 frames, the video has more"):
        mask.hole(frames[3])
    mask.close()


def test_a_mask_video_of_one_frame_holds_for_all(tmp_path: Path) -> None:
    frames = [yuv_frame(i, picture()) for i in range(3)]
    mask = MaskVideo(mask_video(tmp_path / "mask.mkv", 1), info_of_frames(frames[0]))
    assert all(np.flatnonzero(mask.hole(frame).any(0)).tolist() == [10] for frame in frames)
    mask.close()


def test_a_mask_is_drawn_on_what_is_seen_and_lies_right_on_a_turned_video(tmp_path: Path) -> None:
    turned = replace(
        info_of_frames(yuv_frame(0, picture())),
        width=HEIGHT,
        height=WIDTH,
        rotation=90,
        display_from_frame=np.array([[0.0, -1.0, HEIGHT - 1.0], [1.0, 0.0, 0.0]]),
    )
    shown = np.zeros((WIDTH, HEIGHT), np.uint8)
    shown[100:110, 5:8] = 255
    hole = MaskPicture(saved(shown, tmp_path), turned).hole(yuv_frame(0, picture()))
    rows, columns = np.nonzero(hole)
    seen = apply(turned.display_from_frame, np.stack([columns, rows], 1).astype(float))
    assert seen.min(0).tolist() == [5, 100]
    assert seen.max(0).tolist() == [7, 109]


def test_white_is_a_hole_but_highlights_are_not() -> None:
    luma = picture()
    luma[20:40, 30:34] = 60
    luma[50:70, 30:50] = 235
    luma[10:13, 10:13] = 235
    yellow = yuv_frame(0, luma)
    flat = np.full((HEIGHT // 2, WIDTH // 2), 128, np.uint8)
    hole = WhiteMask().hole(replace(yellow, planes=(luma, flat, flat)))
    assert (hole[52:68, 32:48] == 255).all()
    assert not hole[10:13, 10:13].any(), "a highlight on an eye"
    assert not WhiteMask().hole(replace(yellow, planes=(luma, flat - 60, flat))).any(), "yellow is no white"
    rgb = np.full((40, 40, 3), 255, np.uint8)
    rgb[:20, :, 2] = 100
    assert np.flatnonzero(WhiteMask().hole(frame_from_rgb(rgb, 0)).all(1)).tolist() == list(range(20, 40))


# --- the published size ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_published_sizes_colour_and_complete_a_face(scratch: NDArray[np.uint8], tmp_path: Path) -> None:
    """About half a minute and 1 GB on one core: the whole networks with seeded weights."""
    from vidrestore.restoration.codeformer import COLORIZATION, INPAINTING

    def seeded(dims: CodeFormerDims) -> CodeFormer:
        with torch.device("meta"):
            made = CodeFormer(dims)
        return fill_seeded(made).eval()

    colour = Colorize(ColorizationRestorer(seeded(COLORIZATION.dims), CPU, torch.float32))
    (coloured,) = run([grey_frame(0, picture())], colour)
    np.testing.assert_array_equal(coloured.planes[0], picture())
    assert (coloured.planes[1] != 128).any()
    restorer = InpaintingRestorer(seeded(INPAINTING.dims), CPU, torch.float32)
    before = yuv_frame(0, np.where(scratch > 0, 235, picture()).astype(np.uint8))
    (completed,) = run([before], Inpaint(saved(scratch, tmp_path), restorer=restorer))
    changed = completed.planes[0] != before.planes[0]
    assert changed[40:60, 60:63].mean() > 0.9
    assert not changed[scratch == 0].any()


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands find small seeded networks in place of the published ones."""
    monkeypatch.setattr(tasks, "_load", lambda *_: (network(), CPU, torch.float32))


@pytest.fixture
def short_clip(face_clip: Path, tmp_path: Path) -> Path:
    """Four frames of the committed clip, in grey."""
    path = tmp_path / "grey.mkv"
    with av.open(str(face_clip)) as source:
        frames = [frame.reformat(format="gray") for frame, _ in zip(source.decode(video=0), range(4), strict=False)]
    for index, frame in enumerate(frames):
        frame.pts = index
    media.write_clip(path, frames, codec="ffv1")
    return path


QUICKLY = ["--device", "cpu", "--codec", "ffv1", "--json", "--set", "track.lookahead=2", "--set", "track.min_hits=1"]


def planes_of(path: Path) -> list[list[NDArray[Any]]]:
    with av.open(str(path)) as container:
        return [media.samples(frame) for frame in container.decode(video=0)]


def test_the_command_colorize_writes_colour_into_a_grey_file(
    small_networks: None, short_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "colour.mkv"
    assert cli.main(["colorize", str(short_clip), "-o", str(output), *QUICKLY]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["num_frames"], told["output_pix_fmt"], told["exit_status"]) == (4, "yuv420p", 0)
    assert told["num_faces"] >= 4
    for before, after in zip(planes_of(short_clip), planes_of(output), strict=True):
        assert len(after) == 3
        np.testing.assert_array_equal(after[0], before[0])
        assert np.abs(after[1].astype(int) - 128).max() > 3


def test_the_command_inpaint_fills_under_the_mask_alone(
    small_networks: None, short_clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = planes_of(short_clip)
    mask = np.zeros_like(before[0][0])
    mask[:, 98:102] = 255
    output = tmp_path / "whole.mkv"
    command = ["inpaint", str(short_clip), "-o", str(output), "--mask", str(saved(mask, tmp_path)), *QUICKLY]
    assert cli.main(command) == 0
    assert json.loads(capfd.readouterr().out)["num_faces"] >= 4
    changed = np.stack([a[0] != b[0] for a, b in zip(planes_of(output), before, strict=True)])
    assert changed.any()
    assert not changed[:, mask == 0].any()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["inpaint", "IN", "-o", "out.mkv"], 1, "either --mask FILE or --white"),
        (["inpaint", "IN", "-o", "out.mkv", "--white", "--mask", "m.png"], 1, "either --mask FILE or --white"),
        (["inpaint", "IN", "-o", "out.mkv", "--mask", "absent.png"], 2, "absent.png: there is no such file"),
        (["colorize", "absent.mkv", "-o", "out.mkv"], 2, "absent.mkv"),
        (["colorize", "IN", "-o", "out.mkv", "--device", "cpu"], 4, "models pull codeformer_colorization"),
        (["inpaint", "IN", "-o", "out.mkv", "--white", "--device", "cpu"], 4, "models pull codeformer_inpainting"),
        (["colorize", "IN", "-o", "out.mkv", "--hold", "0"], 1, "--hold"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_leaves_nothing(
    arguments: list[str],
    status: int,
    message: str,
    short_clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.main([str(short_clip) if a == "IN" else a for a in arguments]) == status
    assert message in capfd.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_the_template_s_face_is_where_the_tests_say() -> None:
    """Guards the numbers above: the crop's middle is the face's."""
    middle = apply(invert(crop_from_display(POINTS, SIZE)), np.array([[SIZE / 2, SIZE / 2]]))
    np.testing.assert_allclose(middle, [[62, 44]], atol=2)
