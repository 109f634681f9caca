"""Faces out of photographs and videos: where they lie, which are left, what the manifest remembers."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from vidrestore.commands.train import app
from vidrestore.decode.reader import VideoReader
from vidrestore.detect.yunet import YuNet
from vidrestore.errors import ConfigError
from vidrestore.picture import rgb_from_frame
from vidrestore.restoration.align import template
from vidrestore.train.align import AlignOptions, AlignReport, align_faces, are_aligned, list_sources, training_faces
from vidrestore.train.loop import load_config, shipped_config, train

CLIP = Path(__file__).parent.parent / "clips" / "faces_clean.mkv"
SMALL = AlignOptions(size=128, every=12, min_side_px=100.0)
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def shown() -> list[Picture]:
    """20 frames of two people, (256, 384, 3) BGR."""
    with VideoReader(CLIP) as reader:
        return [rgb_from_frame(frame)[..., ::-1] for frame in itertools.islice(reader.decode(), 20)]


@pytest.fixture(scope="module")
def picture(shown: list[Picture]) -> Picture:
    """(512, 768, 3) BGR: the first frame at twice its size, as a photograph would be."""
    return np.asarray(cv2.resize(shown[0], None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC), np.uint8)


@pytest.fixture(scope="module")
def of_clip(shown: list[Picture], tmp_path_factory: pytest.TempPathFactory) -> AlignReport:
    folder = tmp_path_factory.mktemp("faces")
    write_clip(folder / "two.mkv", shown)
    return align_faces([folder / "two.mkv"], folder / "out", SMALL)


def write_clip(path: Path, pictures: list[Picture]) -> None:
    """Lossless but for its chroma, 25 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        for one in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="bgr24")))
        container.mux(stream.encode(None))


def test_a_video_gives_its_people_at_their_intervals(of_clip: AlignReport) -> None:
    manifest = json.loads((of_clip.folder / "manifest.json").read_text("utf-8"))
    faces = manifest["sources"]["two.mkv"]["faces"]
    frames: dict[int, list[int]] = {}
    for face in faces:
        frames.setdefault(face["person"], []).append(face["frame"])
    assert len(frames) == 2
    assert all(len(of_one) == 2 and of_one[1] - of_one[0] >= SMALL.every for of_one in frames.values())
    assert sorted(face["file"] for face in faces) == [path.name for path in of_clip.faces]


def test_faces_lie_where_the_template_wants_them(of_clip: AlignReport) -> None:
    finder = YuNet(0.6)
    for path in of_clip.faces:
        found = finder.detect(cv2.resize(cv2.imread(str(path)), (256, 256)))
        away = np.linalg.norm(found.landmarks[0] - template(256), axis=-1).mean()
        assert away < 0.05 * 256, path.name  # a turned head does not fill the template
    assert are_aligned(of_clip.faces)


def test_photographs_are_not_aligned(picture: Picture, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), picture)
    assert not are_aligned([tmp_path / "wide.png"])
    cv2.imwrite(str(tmp_path / "square.png"), picture[:, :512])  # square, with a face beside its place
    assert not are_aligned([tmp_path / "square.png"])


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"min_side_px": 400.0}, "small"),
        ({"min_score": 0.99}, "unsure"),
        ({"min_detail": 40.0}, "blurred"),
        ({"max_yaw_deg": 0.5}, "turned"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_leave_faces_and_count_them(
    picture: Picture, tmp_path: Path, options: dict[str, float], rule: str
) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    report = align_faces([tmp_path / "photo.png"], tmp_path / "out", replace(SMALL, **options))
    assert report.left == {rule: 2}
    assert report.faces == ()


def test_a_blurred_and_a_cut_face_are_left_and_their_neighbours_taken(picture: Picture, tmp_path: Path) -> None:
    half = picture.copy()
    half[:, 384:] = cv2.GaussianBlur(half, (0, 0), 24)[:, 384:]  # 0.14 of the face's width
    cv2.imwrite(str(tmp_path / "blurred.png"), half)
    assert align_faces([tmp_path / "blurred.png"], tmp_path / "a", SMALL).left.keys() <= {"blurred", "unsure"}
    assert len(align_faces([tmp_path / "blurred.png"], tmp_path / "a", SMALL).faces) == 1
    cv2.imwrite(str(tmp_path / "cut.png"), picture[150:])
    report = align_faces([tmp_path / "cut.png"], tmp_path / "b", replace(SMALL, max_outside=0.02))
    assert report.left == {"cut": 2}


def test_a_folder_goes_on_where_it_was(picture: Picture, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    cv2.imwrite(str(photos / "b.png"), picture)
    (photos / "broken.mp4").write_bytes(b"no video")
    first = align_faces([photos], out, SMALL)
    assert (first.sources, first.looked_at, len(first.faces)) == (2, 2, 2)
    ((name, failure),) = first.failures
    assert name == "photos/broken.mp4"
    assert "not a video file" in failure
    cv2.imwrite(str(photos / "a.png"), picture[:, ::-1])
    second = align_faces([photos], out, SMALL)
    assert (second.sources, second.looked_at, len(second.faces)) == (3, 1, 4)
    assert set(first.faces) < set(second.faces)  # numbers of sources stay
    second.faces[0].unlink()
    assert align_faces([photos], out, SMALL).looked_at == 1  # a lost face is cut out again
    assert second.faces[0].is_file()
    with pytest.raises(ConfigError, match="made by other rules"):
        align_faces([photos], out, replace(SMALL, every=3))


def test_places_without_sources_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        list_sources([tmp_path / "missing"])
    with pytest.raises(ConfigError, match="no photographs or videos"):
        list_sources([tmp_path])


def test_aligned_pictures_are_taken_as_they_are(of_clip: AlignReport, tmp_path: Path) -> None:
    assert training_faces(of_clip.folder, "auto", tmp_path / "cache.npy") == list(of_clip.faces)
    assert not (tmp_path / "cache.aligned").exists()


def test_compact_trains_on_a_folder_of_photographs_and_videos(picture: Picture, tmp_path: Path) -> None:
    folder = tmp_path / "real"
    folder.mkdir()
    cv2.imwrite(str(folder / "photo.jpg"), picture)
    write_clip(folder / "video.mkv", [picture] * 5)
    settings = [f"data.faces={folder}", f"data.cache={tmp_path}/c.npy", "data.held_out=1", "run.max_steps=1"]
    report = train(load_config(shipped_config("compact_smoke"), settings), tmp_path / "run")
    assert report.steps == 1
    manifest = json.loads((tmp_path / "c.aligned" / "manifest.json").read_text("utf-8"))
    assert [len(entry["faces"]) for entry in manifest["sources"].values()] == [2, 2]
    listing = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert len(listing["pictures"]) == 3


def test_a_folder_whose_faces_are_all_left_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((64, 96, 3), 128, np.uint8))
    with pytest.raises(ConfigError, match="no face to train on"):
        training_faces(tmp_path, "auto", tmp_path / "cache.npy")


def test_the_command_aligns_and_tells(picture: Picture, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    call = ["align", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out"), "--size", "96", "--json"]
    result = CliRunner().invoke(app, call, standalone_mode=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["faces"] == ["00000_000_000000.jpg", "00000_001_000000.jpg"]
    assert cv2.imread(str(tmp_path / "out" / report["faces"][0])).shape == (96, 96, 3)
