"""Native planes and the repacks to them: sample for sample."""

from __future__ import annotations

import av
import media
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vidrestore.decode.formats import guess_matrix, native_layout, planar_twin, planes_of, repack

PLANAR = [
    *(f"yuv{s}p" for s in ("410", "411", "420", "422", "440", "444")),
    *(f"yuv{s}p{bits}le" for s in ("420", "422", "444") for bits in (9, 10, 12, 14, 16)),
    *("yuv440p10le", "yuv440p12le", "yuvj420p", "yuvj444p", "yuva420p", "yuva444p16le"),
    *("gray", "gray9le", "gray10le", "gray12le", "gray14le", "gray16le"),
    *("gbrp", "gbrp9le", "gbrp10le", "gbrp12le", "gbrp16le", "gbrap", "gbrap16le"),
]


def random_packed(name: str, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, name)
    rng = np.random.default_rng(width * height)
    for plane in frame.planes:
        np.frombuffer(memoryview(plane), np.uint8)[:] = rng.integers(0, 256, plane.buffer_size, np.uint8)
    return frame


def words(frame: av.VideoFrame, dtype: str, per_pixel: int, plane_index: int = 0) -> NDArray[np.generic]:
    """(height, width, per_pixel) samples of a packed plane; a view that writes through."""
    plane = frame.planes[plane_index]
    rows = np.frombuffer(memoryview(plane), np.uint8).view(dtype).reshape(plane.height, -1)
    return rows[:, : frame.width * per_pixel].reshape(plane.height, frame.width, per_pixel)


def repacked(frame: av.VideoFrame) -> tuple[NDArray[np.generic], ...]:
    return planes_of(repack(frame, VideoReformatter()), planar_twin(frame.format.name))


@pytest.mark.parametrize("name", PLANAR)
def test_planar_formats_are_taken_as_they_are(name: str) -> None:
    frame = media.picture(name, 33, 17, is_noise=True)
    layout = native_layout(name)
    assert layout is not None
    assert planar_twin(name) == layout
    assert repack(frame, VideoReformatter()) is frame
    planes = planes_of(frame, layout)
    for plane, expected, original in zip(planes, media.samples(frame), frame.planes, strict=True):
        assert plane.ctypes.data == original.buffer_ptr
        assert np.array_equal(plane, expected)
        assert not plane.flags.writeable


@pytest.mark.parametrize(
    ("name", "colour", "depth", "shift", "has_alpha"),
    [
        ("yuv420p", "yuv", 8, (1, 1), False),
        ("yuv410p", "yuv", 8, (2, 2), False),
        ("yuv411p", "yuv", 8, (2, 0), False),
        ("yuv440p12le", "yuv", 12, (0, 1), False),
        ("yuva422p10le", "yuv", 10, (1, 0), True),
        ("gray14le", "gray", 14, (0, 0), False),
        ("gbrap12le", "rgb", 12, (0, 0), True),
    ],
)
def test_the_layout_tells_depth_and_subsampling(
    name: str, colour: str, depth: int, shift: tuple[int, int], has_alpha: bool
) -> None:
    layout = native_layout(name)
    assert layout is not None
    assert (layout.colour, layout.depth, layout.chroma_shift, layout.has_alpha) == (colour, depth, shift, has_alpha)


# name, word type, order of the words of a pixel, low bits that are padding
ONE_PIXEL = {
    name: (dtype, order, int(padding))
    for name, dtype, order, padding in (
        line.split()
        for line in """
        rgb24 u1 RGB 0;     bgr24 u1 BGR 0;       rgba u1 RGBA 0;        bgra u1 BGRA 0
        argb u1 ARGB 0;     abgr u1 ABGR 0;       rgb0 u1 RGB_ 0;        bgr0 u1 BGR_ 0
        0rgb u1 _RGB 0;     0bgr u1 _BGR 0;       rgb48le <u2 RGB 0;     rgb48be >u2 RGB 0
        bgr48le <u2 BGR 0;  bgr48be >u2 BGR 0;    rgba64le <u2 RGBA 0;   rgba64be >u2 RGBA 0
        ayuv u1 AYUV 0;     vuya u1 VUYA 0;       vuyx u1 VUY_ 0;        uyva u1 UYVA 0
        vyu444 u1 VYU 0;    ayuv64le <u2 AYUV 0;  xv36le <u2 UYV_ 4;     xv48le <u2 UYV_ 0
        ya8 u1 Y_ 0;        ya16le <u2 Y_ 0;      bgra64le <u2 BGRA 0;   bgra64be >u2 BGRA 0
        """.replace("\n", ";").split(";")
        if line.strip()
    )
}


@pytest.mark.parametrize("size", [(36, 20), (17, 31)])
@pytest.mark.parametrize("name", ONE_PIXEL)
def test_packed_pixels_come_apart_exactly(name: str, size: tuple[int, int]) -> None:
    dtype, order, padding = ONE_PIXEL[name]
    frame = random_packed(name, *size)
    packed = words(frame, dtype, len(order))
    packed[...] = packed >> padding << padding
    wanted = [letter for letter in ("GBRA" if "R" in order else "YUVA") if letter in order]
    for plane, letter in zip(repacked(frame), wanted, strict=True):
        assert np.array_equal(plane, packed[:, :, order.index(letter)] >> padding), letter


# name: (word type, padding bits, U before V)
SEMI_PLANAR = {
    **{name: ("u1", 0, True) for name in ("nv12", "nv16", "nv24")},
    **{name: ("u1", 0, False) for name in ("nv21", "nv42")},
    **{f"p{s}{bits}le": ("<u2", 16 - bits, True) for s in (0, 2, 4) for bits in (10, 12, 16)},
    "p010be": (">u2", 6, True),
}


@pytest.mark.parametrize("size", [(36, 20), (17, 31)])
@pytest.mark.parametrize("name", SEMI_PLANAR)
def test_interleaved_chroma_comes_apart_exactly(name: str, size: tuple[int, int]) -> None:
    dtype, padding, is_u_first = SEMI_PLANAR[name]
    frame = random_packed(name, *size)
    luma = words(frame, dtype, 1)[:, :, 0]
    width = frame.planes[1].width
    chroma = np.frombuffer(memoryview(frame.planes[1]), np.uint8).view(dtype).reshape(frame.planes[1].height, -1)
    chroma = chroma[:, : 2 * width].reshape(-1, width, 2)
    for part in (luma, chroma):
        part[...] = part >> padding << padding
    y, u, v = repacked(frame)
    assert np.array_equal(y, luma >> padding)
    assert np.array_equal(u, chroma[:, :, 0 if is_u_first else 1] >> padding)
    assert np.array_equal(v, chroma[:, :, 1 if is_u_first else 0] >> padding)


@pytest.mark.parametrize(
    ("name", "dtype", "order", "padding"),
    [
        ("yuyv422", "u1", "YUyV", 0),
        ("uyvy422", "u1", "UYVy", 0),
        ("yvyu422", "u1", "YVyU", 0),
        ("y210le", "<u2", "YUyV", 6),
        ("y212le", "<u2", "YUyV", 4),
        ("y216le", "<u2", "YUyV", 0),
    ],
)
def test_packed_422_comes_apart_exactly(name: str, dtype: str, order: str, padding: int) -> None:
    frame = random_packed(name, 36, 20)
    packed = words(frame, dtype, 2)
    packed[...] = packed >> padding << padding
    pairs = packed.reshape(20, 18, 4) >> padding
    y, u, v = repacked(frame)
    assert np.array_equal(y[:, 0::2], pairs[:, :, order.index("Y")])
    assert np.array_equal(y[:, 1::2], pairs[:, :, order.index("y")])
    assert np.array_equal(u, pairs[:, :, order.index("U")])
    assert np.array_equal(v, pairs[:, :, order.index("V")])


@pytest.mark.parametrize(
    ("name", "shifts"),
    [
        ("x2rgb10le", {"G": 10, "B": 0, "R": 20}),
        ("x2bgr10le", {"G": 10, "B": 20, "R": 0}),
        ("xv30le", {"Y": 10, "U": 0, "V": 20}),
        ("v30xle", {"Y": 12, "U": 2, "V": 22}),
    ],
)
def test_ten_bits_in_a_word_come_apart_exactly(name: str, shifts: dict[str, int]) -> None:
    frame = random_packed(name, 36, 20)
    packed = words(frame, "<u4", 1)[:, :, 0]
    for plane, shift in zip(repacked(frame), shifts.values(), strict=True):
        assert np.array_equal(plane, packed >> shift & 1023)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("rgb565le", {"G": (5, 6), "B": (0, 5), "R": (11, 5)}),
        ("bgr565le", {"G": (5, 6), "B": (11, 5), "R": (0, 5)}),
        ("rgb555le", {"G": (5, 5), "B": (0, 5), "R": (10, 5)}),
        ("rgb444le", {"G": (4, 4), "B": (0, 4), "R": (8, 4)}),
    ],
)
def test_few_bits_are_spread_over_eight(name: str, fields: dict[str, tuple[int, int]]) -> None:
    frame = random_packed(name, 36, 20)
    packed = words(frame, "<u2", 1)[:, :, 0].astype(int)
    for plane, (shift, bits) in zip(repacked(frame), fields.values(), strict=True):
        value = packed >> shift & ((1 << bits) - 1)
        assert np.array_equal(plane, value << (8 - bits) | value >> (2 * bits - 8))


@pytest.mark.parametrize(("name", "ones_are"), [("monow", 0), ("monob", 255)])
def test_bits_become_black_and_white(name: str, ones_are: int) -> None:
    frame = random_packed(name, 36, 20)
    rows = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(20, -1)
    bits = np.unpackbits(rows, axis=1)[:, :36]
    assert np.array_equal(repacked(frame)[0], np.where(bits == 1, ones_are, 255 - ones_are))


def test_palettes_are_looked_up() -> None:
    frame = random_packed("pal8", 36, 20)
    palette = np.frombuffer(memoryview(frame.planes[1]), np.uint8).reshape(256, 4)
    index = words(frame, "u1", 1)[:, :, 0]
    for plane, channel in zip(repacked(frame), (1, 0, 2, 3), strict=True):
        assert np.array_equal(plane, palette[index, channel])


@pytest.mark.parametrize("name", ["yuv420p10be", "yuv440p10be", "yuva444p12be", "gray10be", "gray16be", "gbrp12be"])
def test_big_endian_turns_to_its_little_endian_twin(name: str) -> None:
    frame = av.VideoFrame(17, 31, name)
    twin = planar_twin(name)
    assert twin.name == name.replace("be", "le")
    rng = np.random.default_rng(3)
    expected = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).view(">u2").reshape(plane.height, -1)
        rows[:] = rng.integers(0, 1 << twin.depth, rows.shape)
        expected.append(rows[:, : plane.width])
    for plane, wanted in zip(repacked(frame), expected, strict=True):
        assert np.array_equal(plane, wanted)


@pytest.mark.parametrize(
    ("name", "twin"),
    [("gbrpf32le", "gbrp16le"), ("grayf32le", "gray16le"), ("bayer_rggb8", "gbrp"), ("xyz12le", "gbrp16le")],
)
def test_formats_without_a_twin_are_converted_and_not_refused(name: str, twin: str) -> None:
    frame = av.VideoFrame(36, 20, name)
    for plane in frame.planes:
        np.frombuffer(memoryview(plane), np.uint8)[:] = 0
    assert planar_twin(name).name == twin
    assert [plane.shape for plane in repacked(frame)] == [(20, 36)] * len(repacked(frame))


@pytest.mark.parametrize("name", ["cuda", "vaapi", "gray32le", "rgb96le"])
def test_formats_that_nothing_can_hold_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"pixel format|there is no planar"):
        planar_twin(name)


def test_every_format_that_numpy_knows_has_a_twin() -> None:
    for name in sorted(av.video.frame.supported_np_pix_fmts):
        layout = planar_twin(name)
        assert native_layout(layout.name) == layout


def test_side_data_and_times_survive_a_repack() -> None:
    frame = media.picture("gray", 16, 16).reformat(format="nv12")
    frame.pts, frame.color_primaries = 77, 9
    made = repack(frame, VideoReformatter())
    assert (made.format.name, made.pts, made.color_primaries) == ("yuv420p", 77, 9)


@pytest.mark.parametrize(
    ("size", "primaries", "matrix"),
    [((720, 576), 2, "bt601"), ((1280, 544), 2, "bt709"), ((960, 720), 2, "bt709"), ((3840, 2160), 9, "bt2020")],
)
def test_the_matrix_of_untagged_pictures_is_guessed_by_size(size: tuple[int, int], primaries: int, matrix: str) -> None:
    assert guess_matrix(*size, primaries) == matrix
