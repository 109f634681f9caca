"""Folders of pictures: kept names, kinds, depths and profiles; nothing overwritten; what is wrong is listed."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vidrestore import cli, pictures
from vidrestore.errors import DecodeError, EncodeError
from vidrestore.pictures import restore_pictures
from vidrestore.restoration.align import template
from vidrestore.types import CropContext, Detections

HEIGHT, WIDTH = 90, 120
POINTS = (template(64) + np.array([30, 12])).astype(np.float32)


class Lighter:
    """A network that makes faces lighter and gives them texture."""

    size, device = 64, torch.device("cpu")

    def restore(self, images: torch.Tensor, context: CropContext | None = None) -> torch.Tensor:
        waves = torch.sin(torch.arange(images.shape[-1]) * 1.3)
        return (images + 0.3 + 0.2 * waves).clamp(-1, 1)


class OneFace:
    """Finds a face in every picture that is as wide as it was told, and notes what it was shown."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        self.shapes.append(picture.shape)
        if picture.mean() < 40:
            return Detections.none()
        scale = picture.shape[1] / WIDTH
        box = np.array([[30, 12, 94, 76]], np.float32) * scale
        return Detections(box, (POINTS * scale)[None].astype(np.float32), np.array([0.95], np.float32))


def picture(dtype: Any = np.uint8, channels: int = 3) -> NDArray[Any]:
    rng = np.random.default_rng(channels)
    soft = cv2.GaussianBlur(rng.uniform(60, 190, (HEIGHT, WIDTH, channels)), (0, 0), 3).reshape(HEIGHT, WIDTH, channels)
    scaled = soft if dtype == np.uint8 else soft * 257
    return scaled.round().astype(dtype).squeeze()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def run(folder: Path, **options: Any) -> pictures.PicturesResult:
    finder = options.pop("finder", None) or OneFace()
    return restore_pictures(folder, folder.parent / "out", restorer=Lighter(), finder=finder, **options)


def read(path: Path) -> NDArray[Any]:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


@pytest.mark.parametrize(
    ("name", "dtype", "channels"),
    [
        ("colour.png", np.uint8, 3),
        ("clear.png", np.uint8, 4),
        ("grey.png", np.uint8, 1),
        ("deep.png", np.uint16, 3),
        ("web.webp", np.uint8, 3),
        ("clear.webp", np.uint8, 4),
    ],
)
def test_outside_the_face_nothing_changes(name: str, dtype: Any, channels: int, folder: Path) -> None:
    before = picture(dtype, channels)
    cv2.imwrite(str(folder / name), before, [cv2.IMWRITE_WEBP_QUALITY, 101] if name.endswith("webp") else [])
    result = run(folder)
    assert (result.num_pictures, result.num_faces, result.failures) == (1, 1, ())
    after = read(folder.parent / "out" / name)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    changed = after != before
    assert changed[35:60, 50:75].any()
    assert not changed[:8].any()
    assert not changed[:, :20].any()
    if channels == 4:
        assert not changed[..., 3].any(), "transparency stays"


def test_a_jpeg_stays_one_and_close(folder: Path) -> None:
    cv2.imwrite(str(folder / "photo.JPG"), picture(), [cv2.IMWRITE_JPEG_QUALITY, 90])
    run(folder)
    content = (folder.parent / "out" / "photo.JPG").read_bytes()
    assert content.startswith(b"\xff\xd8")
    error = np.abs(read(folder.parent / "out" / "photo.JPG").astype(int) - read(folder / "photo.JPG"))
    assert error[:8].max() <= 4
    assert error[35:60, 50:75].mean() > 4


def test_a_picture_without_a_face_is_the_very_same_file(folder: Path) -> None:
    cv2.imwrite(str(folder / "dark.jpg"), picture() // 8)
    result = run(folder)
    assert (result.num_pictures, result.num_faces, result.num_without_face) == (1, 0, 1)
    assert (folder.parent / "out" / "dark.jpg").read_bytes() == (folder / "dark.jpg").read_bytes()


def test_what_is_no_picture_is_listed_and_the_rest_is_done(folder: Path) -> None:
    cv2.imwrite(str(folder / "b.png"), picture())
    (folder / "a.png").write_bytes(b"")
    (folder / "c.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "notes.txt").write_text("not looked at")
    (folder / ".hidden.png").write_bytes(b"")
    told: list[tuple[int, int]] = []
    result = run(folder, progress=lambda *now: told.append(now))
    assert [name for name, _ in result.failures] == ["a.png", "c.jpg"]
    assert all("is no picture that can be read" in message for _, message in result.failures)
    assert not result.is_whole
    assert [path.name for path in (folder.parent / "out").iterdir()] == ["b.png"]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_is_overwritten_unasked(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.png"), picture())
    run(folder)
    with pytest.raises(EncodeError, match=r"a\.png: exists; add --overwrite"):
        run(folder)
    assert run(folder, overwrite=True).is_whole
    with pytest.raises(EncodeError, match="is the input"):
        restore_pictures(folder, folder, restorer=Lighter(), finder=OneFace(), overwrite=True)


def test_one_picture_goes_to_a_name_of_its_kind_or_into_a_folder(folder: Path) -> None:
    cv2.imwrite(str(folder / "a.png"), picture())
    for output in (folder.parent / "b.png", folder.parent / "out"):
        assert restore_pictures(folder / "a.png", output, restorer=Lighter(), finder=OneFace()).num_faces == 1
    assert (folder.parent / "b.png").is_file()
    assert (folder.parent / "out" / "a.png").is_file()
    with pytest.raises(EncodeError, match=r"b\.jpg: pictures keep their kind"):
        restore_pictures(folder / "a.png", folder.parent / "b.jpg", restorer=Lighter(), finder=OneFace())


def test_an_empty_or_absent_folder_is_told(folder: Path) -> None:
    with pytest.raises(DecodeError, match="holds no PNG, JPEG or WebP"):
        run(folder)
    with pytest.raises(DecodeError, match="cannot be read"):
        run(folder / "absent")


def test_aligned_faces_are_what_the_network_draws(folder: Path) -> None:
    face = np.full((64, 64, 3), 100, np.uint8)
    face[..., 2] = 160
    cv2.imwrite(str(folder / "face.png"), face)
    cv2.imwrite(str(folder / "wide.png"), picture())
    result = run(folder, is_aligned=True)
    assert [name for name, _ in result.failures] == ["wide.png"]
    assert "an aligned face is square" in result.failures[0][1]
    made = read(folder.parent / "out" / "face.png")
    images = torch.from_numpy(face[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    from vidrestore.restoration.grey import without_colour

    drawn = without_colour(Lighter().restore(images), images)  # one tint: the picture is grey
    expected = (drawn[0].numpy()[::-1].transpose(1, 2, 0) + 1) * 127.5
    np.testing.assert_allclose(made, expected, atol=1)


# --- what a file says beside its pixels ------------------------------------------------------------------------------


def exif(orientation: int, order: str = "<") -> bytes:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order]
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(f"{order}IH", 8, 1) + entry + struct.pack(f"{order}I", 0)


def jpeg_with(content: bytes, *segments: tuple[int, bytes]) -> bytes:
    made = b"".join(bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return content[:2] + made + content[2:]


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (6, True), (8, True), (3, False)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_turned_photo_is_looked_at_upright_and_stays_turned(
    orientation: int, turned: bool, order: str, folder: Path
) -> None:
    upright = picture()
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1)}[orientation]
    content = bytes(cv2.imencode(".jpg", np.ascontiguousarray(stored), [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    profile = b"ICC_PROFILE\0\x01\x01" + b"p" * 40
    content = jpeg_with(content, (0xE1, b"Exif\0\0" + exif(orientation, order)), (0xE2, profile))
    (folder / "photo.jpg").write_bytes(content)
    finder = OneFace()
    assert run(folder, finder=finder).num_faces == 1
    assert finder.shapes[0][1] > finder.shapes[0][0], "the detector saw it lying as it is shown"
    made = (folder.parent / "out" / "photo.jpg").read_bytes()
    assert exif(orientation, order) in made
    assert profile in made
    after = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)
    assert after.shape == stored.shape
    back = {1: after, 3: after[::-1, ::-1], 6: np.rot90(after, -1), 8: np.rot90(after)}[orientation]
    error = np.abs(back.astype(int) - upright)
    assert error[35:60, 50:75].mean() > 4, "the face is where it is when shown"
    assert error[:8].mean() < 2
    assert turned == (stored.shape[0] > stored.shape[1])


def test_the_colour_profile_of_a_png_and_a_webp_is_kept(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    profile = chunk(b"iCCP", b"name\0\0" + zlib.compress(b"p" * 50))
    content = bytes(cv2.imencode(".png", picture())[1])
    (folder / "a.png").write_bytes(content[:33] + profile + content[33:])
    plain = bytes(cv2.imencode(".webp", picture(), [cv2.IMWRITE_WEBP_QUALITY, 101])[1])
    with_profile = pictures._with_webp_chunks(
        plain,
        b"RIFF\0\0\0\0WEBP" + b"ICCP" + struct.pack("<I", 5) + b"12345\0" + b"EXIF" + struct.pack("<I", 2) + b"ab",
    )
    (folder / "b.webp").write_bytes(with_profile)
    assert read(folder / "b.webp").shape == (HEIGHT, WIDTH, 3), "our extended header reads"
    assert run(folder).num_faces == 2
    assert profile in (folder.parent / "out" / "a.png").read_bytes()
    assert b"12345" in (folder.parent / "out" / "b.webp").read_bytes()
    assert read(folder.parent / "out" / "b.webp").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    "content", [b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*" + b"\0" * 6]
)
def test_broken_exif_is_no_orientation(content: bytes) -> None:
    jpeg = jpeg_with(b"\xff\xd8\xff\xda", (0xE1, b"Exif\0\0" + content))
    assert pictures._orientation(jpeg) == 1


def test_an_animation_is_refused(folder: Path) -> None:
    content = bytes(cv2.imencode(".png", picture())[1])
    data = struct.pack(">II", 2, 0)
    chunk = struct.pack(">I", 8) + b"acTL" + data + struct.pack(">I", zlib.crc32(b"acTL" + data))
    (folder / "a.png").write_bytes(content[:33] + chunk + content[33:])
    assert "is animated" in run(folder).failures[0][1]


def test_the_command_takes_a_folder(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(folder / "dark.png"), picture() // 8)
    (folder / "a.png").write_bytes(b"")
    output = folder.parent / "out"
    assert cli.main(["restore", str(folder), "-o", str(output), "--device", "cpu", "--json"]) == 3
    told = json.loads(capfd.readouterr().out)
    assert (told["num_pictures"], told["num_without_face"], told["exit_status"]) == (1, 1, 3)
    assert told["failures"][0][0] == "a.png"
    assert cli.main(["restore", str(folder), "-o", str(output), "--device", "cpu"]) == 1
    assert "exists; add --overwrite" in capfd.readouterr().err
    assert cli.main(["restore", str(folder.parent / "absent"), "-o", str(output), "--aligned"]) == 2
