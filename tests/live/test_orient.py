from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stand_ins import info_of, stamped

from vidrestore.geometry import apply
from vidrestore.live.orient import Upright
from vidrestore.picture import display_picture
from vidrestore.types import Frame, PixelFormat, StreamInfo

# display_from_frame of a 6 x 4 picture: x' and y' as a player shows it
TURNS = {
    "upright": [[1, 0, 0], [0, 1, 0]],
    "90 clockwise": [[0, -1, 3], [1, 0, 0]],
    "180": [[-1, 0, 5], [0, -1, 3]],
    "90 counter-clockwise": [[0, 1, 0], [-1, 0, 5]],
    "mirrored": [[-1, 0, 5], [0, 1, 0]],
}
SMALL = PixelFormat("yuv420p", "yuv", 8, (1, 1), (0.0, 0.5), matrix="bt601")


def small(turn: str) -> tuple[Frame, StreamInfo]:
    rng = np.random.default_rng(1)
    planes = tuple(rng.integers(16, 235, size, np.uint8) for size in ((4, 6), (2, 3), (2, 3)))
    matrix = np.array(TURNS[turn], np.float64)
    is_sideways = matrix[0, 0] == 0
    info = replace(
        info_of(6, 4),
        display_from_frame=matrix,
        width=4 if is_sideways else 6,
        height=6 if is_sideways else 4,
        format=SMALL,
    )
    return Frame(0, 0, info.time_base, planes, SMALL), info


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_frame_looks_as_a_player_shows_it(turn: str) -> None:
    frame, info = small(turn)
    upright = Upright(info)
    turned = upright.turn(frame)
    corner = apply(info.display_from_frame, [2.0, 1.0])
    assert turned.planes[0][int(corner[1]), int(corner[0])] == frame.planes[0][1, 2]
    before = display_picture(frame, info, (info.height, info.width))[0]
    after = display_picture(turned, upright.info, (info.height, info.width))[0]
    # OpenCV enlarges chroma first along rows, then along columns, and rounds between
    assert np.abs(before.astype(int) - after).max() <= 4
    assert np.allclose(upright.info.display_from_frame, [[1, 0, 0], [0, 1, 0]])


def test_an_upright_frame_is_passed_on_as_it_is() -> None:
    frame = stamped(3)
    assert Upright(info_of()).turn(frame) is frame


def test_a_mirror_exchanges_left_and_right_and_so_the_places_of_the_chroma() -> None:
    frame, info = small("upright")
    upright = Upright(info, mirror=True)
    turned = upright.turn(frame)
    for plane, source in zip(turned.planes, frame.planes, strict=True):
        assert np.array_equal(plane, source[:, ::-1])
    # the first chroma sample was at x = 4 of 6: counted from the right, 1 pixel
    assert upright.info.format.siting == (1.0, 0.5)
    twice = Upright(upright.info, mirror=True)
    assert np.array_equal(twice.turn(turned).planes[0], frame.planes[0])
    assert twice.info.format.siting == SMALL.siting


def test_uneven_chroma_is_mirrored_but_not_laid_on_its_side() -> None:
    frame, info = small("90 clockwise")
    format_ = replace(SMALL, name="yuv422p", chroma_shift=(1, 0))
    planes = (frame.planes[0], *(np.arange(12, dtype=np.uint8).reshape(4, 3) for _ in range(2)))
    frame = replace(frame, planes=planes, format=format_)
    info = replace(info, format=format_)
    assert Upright(info).turn(frame) is frame
    mirrored = Upright(info, mirror=True)
    shown = display_picture(frame, info, (6, 4))[0]
    assert np.array_equal(display_picture(mirrored.turn(frame), mirrored.info, (6, 4))[0][:, ::-1], shown)
