"""Black and white stays so: the published arithmetic, and one decision for the whole clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import media
import numpy as np
import pytest
import torch

from vidrestore.decode.grey import clip_is_grey, colourfulness
from vidrestore.decode.reader import VideoReader
from vidrestore.decode.samples import sample_frames
from vidrestore.picture import frame_from_rgb
from vidrestore.restoration.grey import GreyRestorer, without_colour
from vidrestore.types import CropContext

RNG = np.random.default_rng(5)
FACES = torch.from_numpy(RNG.uniform(-0.8, 0.8, (2, 3, 24, 24)).astype(np.float32))


def test_a_face_without_colour_has_the_statistics_of_its_crop() -> None:
    degraded = 0.4 * FACES[:, :1].expand(-1, 3, -1, -1) - torch.tensor([0.1, 0.15, 0.25])[:, None, None]
    matched = without_colour(FACES.flip(0), degraded)
    torch.testing.assert_close(matched.mean((2, 3)), degraded.mean((2, 3)), atol=1e-3, rtol=0)
    torch.testing.assert_close(matched.std((2, 3)), degraded.std((2, 3)), atol=1e-3, rtol=0)
    tints = matched - matched[:, :1]
    assert tints.flatten(2).std(-1).max() < 1e-5, "one tint and no colour"


def test_it_is_the_published_arithmetic() -> None:
    restored, crop = ((FACES[i].permute(1, 2, 0).numpy().astype(np.float64) + 1) * 127.5 for i in (0, 1))
    grey = np.repeat((restored @ [0.2989, 0.5870, 0.1140])[..., None], 3, -1)
    deviation, wanted = (np.sqrt(x.reshape(-1, 3).var(0) + 1e-5) for x in (grey, crop))
    expected = (grey - grey.reshape(-1, 3).mean(0)) / deviation * wanted + crop.reshape(-1, 3).mean(0)
    made = without_colour(FACES[:1], FACES[1:])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose((made + 1) * 127.5, expected.clip(0, 255), atol=1e-3)


def test_the_network_behind_it_gets_its_context() -> None:
    class Inner:
        size, device, is_pure = 24, torch.device("cpu"), True

        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            assert context is marker
            return images.flip(0)

    marker = CropContext((), (), np.zeros((0, 2, 3)), np.zeros((0, 2, 3)), np.zeros(0, np.float32))
    grey = GreyRestorer(Inner())
    assert (grey.size, grey.is_pure) == (24, True)
    torch.testing.assert_close(grey.restore(FACES, marker), without_colour(FACES.flip(0), FACES))


def clip(path: Path, chroma: list[tuple[int, int]], *, noise: int = 0, pix_fmt: str = "yuv420p") -> Path:
    frames = []
    for index, (cb, cr) in enumerate(chroma):
        frame = media.picture(pix_fmt, 360, 288, seed=index)
        for plane, value in zip(frame.planes[1:], (cb, cr), strict=False):
            rows = value + RNG.integers(-noise, noise + 1, (plane.height, plane.line_size))
            plane.update(rows.astype(np.uint8).tobytes())
        frames.append(frame)
    media.write_clip(path, frames)
    return path


def decided(path: Path) -> bool:
    with VideoReader(path) as reader:
        return clip_is_grey(path, reader.info)


@pytest.mark.parametrize(
    ("chroma", "noise", "is_grey"),
    [
        ([(128, 128)] * 3, 0, True),
        ([(116, 140)] * 3, 0, True),
        ([(128, 128)] * 3, 8, True),
    ],
    ids=["no colour", "sepia", "noise of a tape"],
)
def test_grey_footage_is_known_with_its_tint_and_noise(
    chroma: list[tuple[int, int]], noise: int, is_grey: bool, tmp_path: Path
) -> None:
    assert decided(clip(tmp_path / "clip.mkv", chroma, noise=noise)) is is_grey


def test_a_clip_with_colour_anywhere_is_no_grey_one(face_clip: Path) -> None:
    assert not decided(face_clip)
    assert max(colourfulness(frame) for frame in sample_frames(face_clip, 6)) > 100


def test_a_grey_pixel_format_needs_no_look(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mkv", [(0, 0)] * 3, pix_fmt="gray")
    with VideoReader(path) as reader:
        assert clip_is_grey("nowhere", reader.info)


def test_colourfulness_is_the_published_measure() -> None:
    rgb = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    expected = ((r - g).var() + (g - b).var() + (b - r).var()) / 3
    assert abs(colourfulness(frame_from_rgb(rgb, 0)) - expected) < 0.01 * expected


def test_a_grey_clip_s_faces_stay_grey_and_the_choice_can_be_overruled(face_clip: Path, tmp_path: Path) -> None:
    from vidrestore.config import RestoreConfig
    from vidrestore.pipeline import RestoredVideo

    path = tmp_path / "grey.mkv"
    with av.open(str(face_clip)) as source:
        frames = [
            f.reformat(format="gray").reformat(format="yuv444p")
            for f, _ in zip(source.decode(video=0), range(3), strict=False)
        ]
    for index, frame in enumerate(frames):
        frame.pts = index
    media.write_clip(path, frames)

    class Red:
        size, device = 64, torch.device("cpu")

        def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
            return images + torch.tensor([0.3, 0.0, -0.1])[:, None, None] * images

    base = RestoreConfig()
    colours = {}
    for grey in ("auto", "no"):
        config = replace(
            base,
            restore=replace(base.restore, grey=grey, device="cpu"),  # type: ignore[arg-type]
            track=replace(base.track, lookahead=2, min_hits=1),
            blend=replace(base.blend, colour=1.0),
        )
        with RestoredVideo(path, config, restorer=Red()) as video:
            done = [r.frame for r in video]
        colours[grey] = max(int(np.abs(p.astype(int) - 128).max()) for frame in done for p in frame.planes[1:])
    assert colours["auto"] <= 1
    assert colours["no"] > 5
