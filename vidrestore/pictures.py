"""A folder of pictures restored into another: each picture by itself, outside its faces as it was.

Two ways, as the published scripts have them: whole pictures, in which faces are found and put back, and *aligned* ones,
which are faces already, cut out as the network wants them, and come out as the network draws them.

Pictures keep their name, suffix, depth and transparency, and what the file says beside its pixels (orientation, colour
profile) is carried over. One without a face is copied byte for byte.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore import __version__
from vidrestore.config import RestoreConfig
from vidrestore.decode.grey import GREY_BELOW, colourfulness
from vidrestore.detect.detector import FaceFinder
from vidrestore.device import describe_device
from vidrestore.errors import DecodeError, EncodeError, printable
from vidrestore.picture import RGB24, info_of_frames
from vidrestore.pipeline import load_finder, restore_frames
from vidrestore.restoration.grey import without_colour
from vidrestore.restoration.restorer import Restorer, load_restorer
from vidrestore.types import Frame, StreamInfo

__all__ = ["PicturesResult", "restore_pictures"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
MAX_BYTES = 1 << 29
"""A picture's file is no larger; more is damage or an attack."""
_JPEG_QUALITY = 95
_WEBP_LOSSLESS = 101  # OpenCV's word for it
_ORIENTATION = 0x0112  # Exif's tag
_TURNS = {3: 180, 6: 90, 8: 270}  # clockwise degrees that a viewer applies; mirrored ones are looked at as they are
_MAPS: dict[int, Callable[[int, int], NDArray[np.float64]]] = {
    90: lambda h, w: np.array([[0.0, -1.0, h - 1.0], [1.0, 0.0, 0.0]]),
    180: lambda h, w: np.array([[-1.0, 0.0, w - 1.0], [0.0, -1.0, h - 1.0]]),
    270: lambda h, w: np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, w - 1.0]]),
}


@dataclass(frozen=True, slots=True)
class PicturesResult:
    """What became of a folder."""

    source: str
    output: str
    num_pictures: int
    """Pictures written, those without a face included."""
    num_faces: int
    """Faces restored."""
    num_without_face: int
    """Pictures in which no face was found; copied as they are."""
    failures: tuple[tuple[str, str], ...]
    """(file name, what is wrong with it) of pictures that were not written."""
    elapsed_s: float
    device: str
    config: RestoreConfig
    version: str = __version__

    @property
    def is_whole(self) -> bool:
        """Every picture was written."""
        return not self.failures

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"is_whole": self.is_whole}


def restore_pictures(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    config: RestoreConfig | None = None,
    *,
    is_aligned: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    restorer: Restorer | None = None,
    finder: FaceFinder | None = None,
    check: Callable[[], None] | None = None,
) -> PicturesResult:
    """Restores the faces of every PNG, JPEG and WebP file of a folder.

    Args:
        source: the folder, whose sub-folders are not looked into; or one picture.
        output: another folder, made where it is not there; or a name for the one picture, of the same kind.
        config: defaults where None.
        is_aligned: the pictures are faces, cut out as FFHQ's are; any square size, 512 pixels at best.
        overwrite: replace pictures that exist.
        progress: told (pictures done, pictures in all).
        restorer: a network to use in place of the configured one.
        finder: a face finder to use in place of the configured one.
        check: called before each picture; what it raises ends the run.

    Raises:
        DecodeError: the folder is missing or holds no picture.
        EncodeError: a picture would be written over another, or the folder cannot be made.
        DeviceError: the configured device is not there or out of memory.
        WeightsError: a weight file is missing or damaged.
    """
    config = config or RestoreConfig()
    begin = time.perf_counter()
    jobs = _jobs(Path(source), Path(output))
    _check_targets(jobs, overwrite=overwrite)
    restorer = restorer or load_restorer(config.restore)
    run = _Aligned(config, restorer) if is_aligned else _Whole(config, restorer, finder or load_finder(config))
    failures: list[tuple[str, str]] = []
    num_faces = num_without = 0
    for done, (picture, target) in enumerate(jobs):
        if check is not None:
            check()
        try:
            found = run(picture, target)
        except (DecodeError, EncodeError) as error:
            failures.append((picture.name, str(error)))
        else:
            num_faces += found
            num_without += found == 0
        if progress is not None:
            progress(done + 1, len(jobs))
    return PicturesResult(
        source=os.fspath(source),
        output=os.fspath(output),
        num_pictures=len(jobs) - len(failures),
        num_faces=num_faces,
        num_without_face=num_without,
        failures=tuple(failures),
        elapsed_s=time.perf_counter() - begin,
        device=describe_device(restorer.device),
        config=config,
    )


def _jobs(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """(picture, where it goes) in the order of their names."""
    if source.is_file():
        if output.suffix.lower() in SUFFIXES:
            if output.suffix.lower() != source.suffix.lower():
                raise EncodeError(
                    f"{printable(output)}: pictures keep their kind, name it *{source.suffix}", path=output
                )
            return [(source, output)]
        return [(source, output / source.name)]
    try:
        found = sorted(p for p in source.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    except OSError as error:
        raise DecodeError(f"{printable(source)}: cannot be read ({error.strerror})", path=source) from error
    if not found:
        raise DecodeError(f"{printable(source)}: holds no PNG, JPEG or WebP picture", path=source)
    if output.is_file():
        raise EncodeError(f"{printable(output)}: is a file, expected a folder for the pictures", path=output)
    return [(path, output / path.name) for path in found]


def _check_targets(jobs: list[tuple[Path, Path]], *, overwrite: bool) -> None:
    folder = jobs[0][1].parent
    for picture, target in jobs:
        if target.resolve() == picture.resolve():
            raise EncodeError(f"{printable(target)}: is the input; name another folder", path=target)
    there = [target for _, target in jobs if target.exists()]
    if there and not overwrite:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise EncodeError(f"{printable(there[0])}: exists{more}; add --overwrite to replace", path=there[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncodeError(f"{printable(folder)}: cannot be made ({error.strerror})", path=folder) from error


class _Whole:
    """Finds faces in a picture and puts them back restored."""

    def __init__(self, config: RestoreConfig, restorer: Restorer, finder: FaceFinder) -> None:
        # one look is all there is, and a picture that was handed in is wanted however blurred it is
        track = replace(config.track, method="points", lookahead=0, min_hits=1, min_detail=0.0)
        self._config = replace(config, track=track)
        self._restorer = restorer
        self._finder = finder

    def __call__(self, source: Path, target: Path) -> int:
        """Restores one picture; gives the number of its faces."""
        content = _read(source)
        frame = _frame(_decoded(content, source))
        info = _upright(info_of_frames(frame), _orientation(content))
        config = self._config
        if config.restore.grey == "auto":
            is_grey = colourfulness(frame) <= GREY_BELOW
            config = replace(config, restore=replace(config.restore, grey="yes" if is_grey else "no"))
        (restored,) = restore_frames([frame], info, config, restorer=self._restorer, finder=self._finder)
        if restored.frame is frame:
            _write(target, content)
            return 0
        _write(target, _encoded(_pixels(restored.frame), source.suffix, content))
        return restored.num_restored


class _Aligned:
    """Sends a picture that is a face through the network."""

    def __init__(self, config: RestoreConfig, restorer: Restorer) -> None:
        self._config = config
        self._restorer = restorer

    def __call__(self, source: Path, target: Path) -> int:
        """Restores one face; gives 1."""
        content = _read(source)
        pixels = _decoded(content, source)
        height, width = pixels.shape[:2]
        if height != width:
            raise DecodeError(f"{printable(source)}: is {width}x{height}; an aligned face is square", path=source)
        frame = _frame(pixels)
        top = float((1 << frame.format.depth) - 1)
        green, blue, red = (plane.astype(np.float32) / top * 2.0 - 1.0 for plane in _three(frame))
        size = self._restorer.size
        method = cv2.INTER_AREA if height > size else cv2.INTER_LINEAR
        face = np.stack([cv2.resize(plane, (size, size), interpolation=method) for plane in (red, green, blue)])
        with torch.inference_mode():
            images = torch.from_numpy(face[None]).to(self._restorer.device)
            restored = self._restorer.restore(images)
            grey = self._config.restore.grey
            if grey == "yes" or (grey == "auto" and colourfulness(frame) <= GREY_BELOW):
                restored = without_colour(restored, images)
            drawn = restored[0].clamp(-1.0, 1.0).cpu().numpy()
        if not np.isfinite(drawn).all():
            raise EncodeError(f"{printable(source)}: the network's result is not finite", path=source)
        bgr = np.rint((drawn[::-1].transpose(1, 2, 0) + 1.0) / 2.0 * top).astype(frame.format.dtype)
        _write(target, _encoded(bgr, source.suffix, content))
        return 1


# --- pixels ----------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DecodeError(f"{printable(path)}: is larger than any picture should be", path=path)
        return path.read_bytes()
    except OSError as error:
        raise DecodeError(f"{printable(path)}: cannot be read ({error.strerror})", path=path) from error


def _decoded(content: bytes, path: Path) -> NDArray[Any]:
    """(H, W) or (H, W, 3 or 4) BGR, uint8 or uint16, not turned."""
    pixels: object = None
    if content:
        try:
            pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:  # too many pixels, for one
            reason = str(error).strip().splitlines()[-1]
            raise DecodeError(f"{printable(path)}: cannot be decoded ({printable(reason)})", path=path) from error
    if b"ANIM" in content[:64] or any(kind == b"acTL" for kind, _ in _png_chunks(content)):
        raise DecodeError(f"{printable(path)}: is animated; make a video of it first", path=path)
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
        raise DecodeError(f"{printable(path)}: is no picture that can be read", path=path)
    return pixels


def _frame(pixels: NDArray[Any]) -> Frame:
    depth = 8 if pixels.dtype == np.uint8 else 16
    suffix = "" if depth == 8 else "16le"
    if pixels.ndim == 2:
        fmt = replace(RGB24, name=f"gray{suffix}", colour="gray", depth=depth)
        return Frame(0, 0, Fraction(1, 25), (np.ascontiguousarray(pixels),), fmt, duration=1)
    has_alpha = pixels.shape[2] == 4
    fmt = replace(RGB24, name=f"gbr{'a' if has_alpha else ''}p{suffix}", depth=depth, has_alpha=has_alpha)
    order = (1, 0, 2, 3)[: pixels.shape[2]]
    planes = tuple(np.ascontiguousarray(pixels[..., channel]) for channel in order)
    return Frame(0, 0, Fraction(1, 25), planes, fmt, duration=1)


def _three(frame: Frame) -> tuple[NDArray[Any], ...]:
    return (frame.planes[0],) * 3 if frame.format.colour == "gray" else frame.planes[:3]


def _pixels(frame: Frame) -> NDArray[Any]:
    if frame.format.colour == "gray":
        return np.ascontiguousarray(frame.planes[0])
    green, blue, red, *alpha = frame.planes
    return np.ascontiguousarray(np.stack([blue, green, red, *alpha], -1))


def _upright(info: StreamInfo, orientation: int) -> StreamInfo:
    turn = _TURNS.get(orientation, 0)
    if turn == 0:
        return info
    height, width = info.frame_height, info.frame_width
    shown = (width, height) if turn == 180 else (height, width)
    return replace(info, width=shown[0], height=shown[1], rotation=turn, display_from_frame=_MAPS[turn](height, width))


# --- files -----------------------------------------------------------------------------------------------------------


def _encoded(pixels: NDArray[Any], suffix: str, original: bytes) -> bytes:
    suffix = suffix.lower()
    options = {
        ".png": [],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, _WEBP_LOSSLESS],
    }.get(suffix, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x111111])
    is_written, made = cv2.imencode(suffix, pixels, options)
    if not is_written:
        raise EncodeError(f"{suffix}: the picture could not be encoded")
    content = bytes(made)
    if suffix == ".png":
        return _with_png_chunks(content, original)
    return (_with_webp_chunks if suffix == ".webp" else _with_jpeg_segments)(content, original)


def _write(target: Path, content: bytes) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, target)
    except OSError as error:
        raise EncodeError(f"{printable(target)}: cannot be written ({error.strerror})", path=target) from error
    finally:
        part.unlink(missing_ok=True)


_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = {b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"pHYs", b"eXIf", b"tEXt", b"iTXt", b"zTXt", b"tIME"}


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk with length and checksum)."""
    at = len(_PNG_HEAD)
    while content.startswith(_PNG_HEAD) and at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        yield content[at + 4 : at + 8], content[at : at + 12 + length]
        at += 12 + length


def _with_png_chunks(made: bytes, original: bytes) -> bytes:
    kept = b"".join(chunk for kind, chunk in _png_chunks(original) if kind in _PNG_KEPT)
    (_, header), *rest = _png_chunks(made)
    return _PNG_HEAD + header + kept + b"".join(chunk for kind, chunk in rest if kind not in _PNG_KEPT)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, whole segment) up to the first scan."""
    at = 2
    while content.startswith(b"\xff\xd8") and at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker == 0xDA or length < 2:
            return
        yield marker, content[at : at + 2 + length]
        at += 2 + length


def _with_jpeg_segments(made: bytes, original: bytes) -> bytes:
    """Exif and XMP (APP1), the colour profile (APP2) and comments of the original, before the new tables."""
    kept = b"".join(segment for marker, segment in _jpeg_segments(original) if marker in (0xE1, 0xE2, 0xFE))
    return made[:2] + kept + made[2:]


_WEBP_FLAGS = {b"ICCP": 0x20, b"ALPH": 0x10, b"EXIF": 0x08, b"XMP ": 0x04}


def _webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, payload)."""
    at = 12
    while content[:4] == b"RIFF" and content[8:12] == b"WEBP" and at + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, at + 4)
        yield content[at : at + 4], content[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _with_webp_chunks(made: bytes, original: bytes) -> bytes:
    """Colour profile, Exif and XMP of the original; they want the extended header (RFC 9649, section 2.7)."""
    kept = {kind: data for kind, data in _webp_chunks(original) if kind in (b"ICCP", b"EXIF", b"XMP ")}
    drawn = [(kind, data) for kind, data in _webp_chunks(made) if kind in (b"ALPH", b"VP8 ", b"VP8L")]
    if not kept or drawn[-1][0] != b"VP8L":
        return made
    (bits,) = struct.unpack_from("<I", drawn[-1][1], 1)  # after its signature: width - 1, height - 1, alpha
    flags = sum(_WEBP_FLAGS[kind] for kind in kept) | (_WEBP_FLAGS[b"ALPH"] if bits >> 28 & 1 else 0)
    sizes = struct.pack("<I", bits & 0x3FFF)[:3] + struct.pack("<I", bits >> 14 & 0x3FFF)[:3]
    chunks = [(b"VP8X", struct.pack("<I", flags) + sizes)]
    chunks += [(kind, kept[kind]) for kind in (b"ICCP",) if kind in kept] + drawn
    chunks += [(kind, kept[kind]) for kind in (b"EXIF", b"XMP ") if kind in kept]
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _orientation(content: bytes) -> int:
    """Exif's word for how the picture is to be turned, 1..8; 1 where it says nothing that can be read."""
    exif = next((s[4:] for marker, s in _jpeg_segments(content) if marker == 0xE1 and s[4:10] == b"Exif\0\0"), None)
    if exif is not None:
        tiff = exif[6:]
    else:
        tiff = next((chunk[8:-4] for kind, chunk in _png_chunks(content) if kind == b"eXIf"), b"")
        tiff = tiff or next((data for kind, data in _webp_chunks(content) if kind == b"EXIF"), b"")
        tiff = tiff.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 10:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for index in range(min(count, 512)):
        at = start + 2 + 12 * index
        if at + 12 > len(tiff):
            break
        tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
        if tag == _ORIENTATION and kind == 3:
            (value,) = struct.unpack_from(f"{order}H", tiff, at + 8)
            return int(value)
    return 1
