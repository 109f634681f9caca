"""The table of pixel formats, and what goes into which container."""

from __future__ import annotations

from fractions import Fraction

import pytest

from vidrestore.config import EncodeOptions
from vidrestore.decode.formats import native_layout
from vidrestore.encode.codecs import (
    CONTAINERS,
    EXTENSIONS,
    choose_pix_fmt,
    encoder_name,
    encoder_options,
    encoder_rate,
    muxer_options,
    profile_of,
)
from vidrestore.types import PixelFormat


def described(name: str) -> PixelFormat:
    layout = native_layout(name)
    assert layout is not None
    return PixelFormat(
        name, layout.colour, layout.depth, layout.chroma_shift, has_alpha=layout.has_alpha, full_range="j" in name
    )


# source                h264           hevc           av1            ffv1           prores          dnxhr
TABLE = """
yuv420p                 yuv420p        yuv420p        yuv420p        yuv420p        yuv422p10le     yuv422p
yuvj420p                yuv420p        yuv420p        yuv420p        yuv420p        yuv422p10le     yuv422p
yuv422p                 yuv422p        yuv422p        yuv420p        yuv422p        yuv422p10le     yuv422p
yuv444p                 yuv444p        yuv444p        yuv420p        yuv444p        yuv444p10le     yuv444p10le
yuv440p                 yuv444p        yuv444p        yuv420p        yuv440p        yuv444p10le     yuv444p10le
yuv411p                 yuv422p        yuv422p        yuv420p        yuv411p        yuv422p10le     yuv422p
yuv410p                 yuv420p        yuv420p        yuv420p        yuv410p        yuv422p10le     yuv422p
yuv420p9le              yuv420p10le    yuv420p10le    yuv420p10le    yuv420p9le     yuv422p10le     yuv422p10le
yuv420p10le             yuv420p10le    yuv420p10le    yuv420p10le    yuv420p10le    yuv422p10le     yuv422p10le
yuv422p10le             yuv422p10le    yuv422p10le    yuv420p10le    yuv422p10le    yuv422p10le     yuv422p10le
yuv444p12le             yuv444p10le    yuv444p12le    yuv420p10le    yuv444p12le    yuv444p10le     yuv444p10le
yuv420p16le             yuv420p10le    yuv420p12le    yuv420p10le    yuv420p16le    yuv422p10le     yuv422p10le
yuva420p                yuv420p        yuv420p        yuv420p        yuva420p       yuva444p10le    yuv422p
yuva444p10le            yuv444p10le    yuv444p10le    yuv420p10le    yuva444p10le   yuva444p10le    yuv444p10le
gray                    gray           gray           yuv420p        gray           yuv422p10le     yuv422p
gray10le                gray10le       gray10le       yuv420p10le    gray10le       yuv422p10le     yuv422p10le
gray16le                gray10le       gray12le       yuv420p10le    gray16le       yuv422p10le     yuv422p10le
gbrp                    bgr0           gbrp           yuv420p        bgr0           yuv444p10le     gbrp10le
gbrap                   bgr0           gbrp           yuv420p        bgra           yuva444p10le    gbrp10le
gbrp10le                yuv444p10le    gbrp10le       yuv420p10le    gbrp10le       yuv444p10le     gbrp10le
gbrp16le                yuv444p10le    gbrp12le       yuv420p10le    gbrp16le       yuv444p10le     gbrp10le
"""
CASES = [
    (codec, source, made)
    for source, *row in (line.split() for line in TABLE.strip().splitlines())
    for codec, made in zip(("h264", "hevc", "av1", "ffv1", "prores", "dnxhr"), row, strict=True)
]


@pytest.mark.parametrize(("codec", "source", "made"), CASES)
def test_the_format_that_loses_least_is_chosen(codec: str, source: str, made: str) -> None:
    assert choose_pix_fmt(codec, described(source)) == made


@pytest.mark.parametrize(
    ("codec", "source", "depth", "made"),
    [
        ("h264", "yuv420p", "10", "yuv420p10le"),
        ("hevc", "yuv422p10le", "8", "yuv422p"),
        ("ffv1", "yuv420p16le", "10", "yuv420p10le"),
        ("av1", "gray", "10", "yuv420p10le"),
        ("prores", "yuv420p", "8", "yuv422p10le"),
        ("dnxhr", "yuv422p10le", "8", "yuv422p"),
    ],
)
def test_a_wanted_depth_is_taken_where_the_codec_has_it(codec: str, source: str, depth: str, made: str) -> None:
    assert choose_pix_fmt(codec, described(source), depth) == made


@pytest.mark.parametrize(
    ("codec", "source", "size", "made"),
    [
        ("h264", "yuv420p", (31, 17), "yuv444p"),
        ("h264", "yuv422p", (31, 18), "yuv422p"),
        ("hevc", "yuv420p10le", (66, 65), "yuv444p10le"),
        ("ffv1", "yuv420p", (31, 17), "yuv420p"),
        ("av1", "yuv420p", (31, 17), "yuv420p"),
    ],
)
def test_odd_sizes_go_where_they_can_be_coded(codec: str, source: str, size: tuple[int, int], made: str) -> None:
    assert choose_pix_fmt(codec, described(source), size=size) == made


def test_every_container_has_a_muxer() -> None:
    assert {extension for fitting in CONTAINERS.values() for extension in fitting} <= set(EXTENSIONS)


def test_profiles_follow_the_pixels() -> None:
    made = [profile_of("prores", name) for name in ("yuv422p10le", "yuv444p10le", "yuva444p10le")]
    assert made == ["hq", "4444", "4444"]
    made = [profile_of("dnxhr", name) for name in ("yuv422p", "yuv422p10le", "yuv444p10le", "gbrp10le")]
    assert made == ["dnxhr_hq", "dnxhr_hqx", "dnxhr_444", "dnxhr_444"]


def test_options_reach_the_encoder_in_its_own_words() -> None:
    size = (480, 640)
    assert encoder_name("h264", "bgr0") == "libx264rgb"
    assert encoder_options(EncodeOptions(), "yuv420p", size=size)["crf"] == "17"
    assert encoder_options(EncodeOptions(crf=63), "yuv420p", size=size)["crf"] == "51"
    hevc = encoder_options(EncodeOptions(codec="hevc", threads=3), "yuv420p", size=size, hdr=[("max-cll", "1,2")])
    assert hevc["x265-params"] == "log-level=none:pools=3:max-cll=1,2"
    av1 = encoder_options(EncodeOptions(codec="av1", crf=63, speed="slow", threads=2), "yuv420p", size=size)
    assert av1 == {"crf": "63", "preset": "4", "svtav1-params": "lp=2"}
    assert encoder_options(EncodeOptions(codec="ffv1"), "yuv420p", size=(32, 640))["slices"] == "1"
    assert encoder_options(EncodeOptions(codec="ffv1"), "yuv420p", size=size)["slices"] == "4"


@pytest.mark.parametrize(
    ("codec", "rate", "made"),
    [
        ("h264", None, Fraction(25)),
        ("h264", Fraction(30000, 1001), Fraction(30000, 1001)),
        ("av1", Fraction(1000), Fraction(240)),
        ("hevc", Fraction(1, 10), Fraction(1)),
    ],
)
def test_the_rate_told_to_an_encoder_is_one_it_takes(codec: str, rate: Fraction | None, made: Fraction) -> None:
    assert encoder_rate(codec, rate) == made


def test_movie_ticks_are_those_of_the_track() -> None:
    assert muxer_options(".mp4", Fraction(1001, 30000)) == {"movie_timescale": "30000"}
    assert muxer_options(".m4v", Fraction(1, 25))["movie_timescale"] == "12800"
    assert muxer_options(".mkv", Fraction(1, 25)) == {"avoid_negative_ts": "disabled"}
    assert muxer_options(".mkv", Fraction(1, 25), -3) == {}
