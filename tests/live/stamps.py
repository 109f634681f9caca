"""Numbers written into pictures as blocks of black and white, readable after an encoder; NumPy alone, so that another
process can read them without waiting for anything else to be imported."""

from __future__ import annotations

from typing import Any

BITS, BLOCK = 16, 8  # 16 blocks of 8 x 8 in the top rows, far from the face


def write_number(luma: Any, number: int) -> None:
    """Writes a number into the luma of a picture."""
    for bit in range(BITS):
        luma[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 235 if number >> bit & 1 else 16


def number_in(luma: Any) -> int:
    """The number in a picture, also after an encoder."""
    blocks = [luma[2 : BLOCK - 2, bit * BLOCK + 2 : (bit + 1) * BLOCK - 2].mean() for bit in range(BITS)]
    return sum(int(value > 125) << bit for bit, value in enumerate(blocks))
