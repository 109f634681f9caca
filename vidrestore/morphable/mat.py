"""Numeric arrays out of MATLAB files, level 5: what the Basel Face Model's users have on their disks.

Written from the description of the format (MAT-File Format, The MathWorks, section 1: level 5), for the little that is
needed: full, real, numeric arrays, plain or compressed. Anything else in a file is passed over. A file is data from
outside: every length is checked before it is used, nothing in it can run.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import WeightsError

__all__ = ["read_mat"]

MAX_BYTES = 1 << 30
"""Largest file and array that is read; the converted Basel model has 160 MB."""

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy type by the number of a stored type."""
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""NumPy type by the number of an array's class; its numbers may be stored in a smaller type."""
IS_COMPLEX = 0x800


def read_mat(path: Path) -> dict[str, NDArray[Any]]:
    """The full, real, numeric arrays of a file, by name.

    Raises:
        WeightsError: the file is missing, of another format (also level 7.3, which is HDF5), damaged or too large.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{path}: is larger than {MAX_BYTES} bytes, it cannot be a face model")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(b"MATLAB 7.3"):
        raise WeightsError(f"{path}: is a MATLAB 7.3 file; save it again with -v7")
    mark = data[126:HEADER_BYTES]
    if len(data) < HEADER_BYTES or mark not in (b"IM", b"MI"):
        raise WeightsError(f"{path}: is no MATLAB file of level 5")
    order = "<" if mark == b"IM" else ">"
    try:
        return dict(_arrays(memoryview(data)[HEADER_BYTES:], order))
    except (ValueError, zlib.error, struct.error, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: is damaged ({error})") from error


def _arrays(data: memoryview, order: str) -> Iterator[tuple[str, NDArray[Any]]]:
    for kind, body in _elements(data, order):
        if kind == COMPRESSED:
            yield from _arrays(_inflated(body), order)
        elif kind == MATRIX:
            yield from _array(body, order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of each element; a small one has both in its first eight bytes."""
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(order + "II", data, at)
        is_small = kind >> 16 != 0
        if is_small:
            kind, length = kind & 0xFFFF, kind >> 16
        begin = at + (4 if is_small else 8)
        if begin + length > len(data) or (is_small and length > 4):
            raise ValueError(f"an element of {length} bytes does not fit")
        yield kind, data[begin : begin + length]
        # all but compressed elements fill up eights
        at = begin + length if kind == COMPRESSED else at + 8 if is_small else begin + -(-length // 8) * 8


def _inflated(body: memoryview) -> memoryview:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(body, MAX_BYTES)
    if not inflater.eof:
        raise ValueError("a compressed array is cut short or too large")
    return memoryview(inflated)


def _array(body: memoryview, order: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """The array of a matrix element; none where it is of another kind."""
    parts = list(_elements(body, order))
    if len(parts) < 3:
        return
    flags = struct.unpack_from(order + "I", parts[0][1])[0]
    if flags & 0xFF not in CLASSES or flags & IS_COMPLEX or len(parts) != 4:
        return
    shape = tuple(int(n) for n in np.frombuffer(parts[1][1], np.dtype(order + "i4")))
    name = bytes(parts[2][1]).decode("ascii")
    stored, numbers = parts[3]
    if stored not in STORED:
        raise ValueError(f"{name} is stored as type {stored}")
    values = np.frombuffer(numbers, np.dtype(order + STORED[stored]))
    if len(shape) < 2 or min(shape) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"{name} has {len(values)} numbers, its shape is {shape}")
    yield name, values.astype(CLASSES[flags & 0xFF]).reshape(shape, order="F")
