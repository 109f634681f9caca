"""How a CPU kernel is compiled and spread over the cores, and the checks that every launcher begins with.

A kernel is a plain function over a band of output rows, compiled by numba without the GIL; a band is what a block of
rows is to a GPU. The bands run on a small pool of threads of our own and not on numba's ``parallel=True``: numba's
default pool aborts the process when two threads enter it at once (the pipeline's sampler and compositor do), dies after
a fork, and its code takes several times as long to compile.

Compiled code is kept on disk beside the source, or in the user's cache folder where the package is read-only, or not at
all where neither can be written. numba looks only at a kernel's own file to see whether its cache is fresh, so a kernel
calls no compiled function of another file; after a change of ``jit`` or ``dot_four_columns`` here, or of taps.py,
delete ``kernels/__pycache__``.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic
from numpy.typing import ArrayLike, NDArray

from vidrestore.errors import KernelError
from vidrestore.types import PixelFormat, Plane

__all__ = [
    "MAX_FOOTPRINT",
    "as_affines",
    "bands_of",
    "block_length",
    "check_planes",
    "dot_four_columns",
    "exact_jit",
    "inlined_jit",
    "invert",
    "jit",
    "limit_threads",
    "num_threads",
    "part_jit",
    "plane_from_luma",
    "run_bands",
    "run_tasks",
    "thread_limit",
]

P = ParamSpec("P")
R = TypeVar("R")

MAX_FOOTPRINT = 64.0
"""Widest filter in source pixels per output pixel and axis; what shrinks further is no longer kept free of aliasing.

An 8000 px face in a 256 px crop needs 31."""

WIDEST_FILTER = 4.0
"""Footprints from here on are filtered on means of blocks, 2 to 4 blocks wide: 8 to 16 taps."""

_BANDS_PER_THREAD = 4  # a little more than one, so that cheap and dear bands even out

_thread_limit: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()

cgutils: Any = untyped_cgutils


def jit(function: Callable[P, R]) -> Callable[P, R]:
    """Compiles a scalar function or a band kernel with numba, on first call.

    Products and sums may be contracted (fma), never reordered, so that a result does not depend on how rows are split;
    NaN keeps its meaning.
    """
    return _compiled(function, fastmath={"contract", "arcp", "nsz"})


def inlined_jit(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`jit`, for a part of another kernel: numbers of taps that a call names are unrolled there."""
    return _compiled(function, fastmath={"contract", "arcp", "nsz"}, forceinline=True)


def part_jit(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`jit`, for a step of another kernel of the same file: it has no door to Python, which takes as long to
    compile as a small step does."""
    return _compiled(function, fastmath={"contract", "arcp", "nsz"}, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def exact_jit(function: Callable[P, R]) -> Callable[P, R]:
    """As :func:`jit`, but each operation is rounded by itself: a b - c d is the negative of c d - a b."""
    return _compiled(function)


def _compiled(function: Callable[P, R], **flags: Any) -> Callable[P, R]:
    flags = {"nogil": True, "error_model": "numpy", **flags}
    try:
        compiled: Callable[P, R] = numba.njit(cache=True, **flags)(function)
    except RuntimeError:  # no folder for the cache can be written: compile anew in every run
        compiled = numba.njit(**flags)(function)
    return compiled


def _dot_four_columns(
    typing_context: Any,
    values: Any,
    first: Any,
    down: Any,
    weights_y: Any,
    weights_x: Any,
    row: Any,
    column: Any,
    place: Any,
    num_rows: Any,
) -> Any:
    """Σ_j Σ_i weights_y[j, place] weights_x[column + i, place] values[first + j down + i], i in 0..3, as float32.

    For kernels only. The four columns are one vector register, which numba's own code generation does not find.
    ``values`` is flat, ``row`` is the length of a row of both weight arrays; all three are contiguous float32.
    ``num_rows`` is even: rows come in pairs, a known number of them is unrolled.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scalar, index = ir.FloatType(), ir.IntType(64)
        vector = ir.VectorType(scalar, 4)
        data, tall, wide = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 3, 4))
        _, first_at, down_by, _, _, row_length, column_at, place_at, rows = args

        def load_scalar(pointer: Any, at: Any) -> Any:
            return builder.load(builder.gep(pointer, [at]))

        total = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * 4))
        pairs = builder.lshr(rows, index(1))
        with cgutils.for_range(builder, pairs, intp=index) as loop:
            for odd in (0, 1):
                j = builder.add(builder.shl(loop.index, index(1)), index(odd))
                at = builder.add(first_at, builder.mul(j, down_by))
                pixels = builder.load(builder.bitcast(builder.gep(data, [at]), vector.as_pointer()), align=4)
                weight = load_scalar(tall, builder.add(builder.mul(j, row_length), place_at))
                lanes = builder.insert_element(ir.Constant(vector, ir.Undefined), weight, ir.IntType(32)(0))
                lanes = builder.shuffle_vector(lanes, lanes, ir.Constant(ir.VectorType(ir.IntType(32), 4), [0] * 4))
                product = builder.fmul(pixels, lanes, flags=("contract",))
                builder.store(builder.fadd(builder.load(total), product, flags=("contract",)), total)
        sums = builder.load(total)
        terms = []
        for lane in range(4):
            at = builder.add(builder.mul(builder.add(column_at, index(lane)), row_length), place_at)
            terms.append(builder.fmul(builder.extract_element(sums, ir.IntType(32)(lane)), load_scalar(wide, at)))
        return builder.fadd(builder.fadd(terms[0], terms[1]), builder.fadd(terms[2], terms[3]))

    arguments = (values, first, down, weights_y, weights_x, row, column, place, num_rows)
    return types.float32(*arguments), generate


dot_four_columns: Any = intrinsic(_dot_four_columns)
"""The above, to be called in a kernel without its first argument."""


def num_threads() -> int:
    """Threads that a kernel is spread over: the cores that this process may use, or the limit if it is lower."""
    return _cores() if _thread_limit is None else min(_cores(), _thread_limit)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """What :func:`limit_threads` was told last."""
    return _thread_limit


def limit_threads(count: int | None) -> None:
    """Lets kernels use at most so many threads from now on; None takes the limit away. The result is the same."""
    global _thread_limit
    if count is not None and count < 1:
        raise KernelError(f"a kernel needs at least 1 thread, got {count}")
    _thread_limit = count


def run_bands(kernel: Callable[[int, int], object], start: int, stop: int, *, min_rows: int = 16) -> None:
    """Runs ``kernel(first_row, last_row_exclusive)`` over rows start..stop, in bands, on all cores; waits for all.

    Args:
        kernel: must release the GIL, write its own rows only and not call ``run_bands``.
        start: first row.
        stop: row after the last.
        min_rows: bands are not made smaller, a hand-over costs some 20 µs.
    """
    run_tasks([partial(kernel, a, b) for a, b in bands_of(start, stop, min_rows=min_rows)])


def bands_of(start: int, stop: int, *, min_rows: int = 16) -> list[tuple[int, int]]:
    """Rows start..stop in bands (first, last exclusive), a few for each thread; one where there is one thread."""
    num_rows = stop - start
    if num_rows <= 0:
        return []
    num_bands = 1 if num_threads() == 1 else min(num_threads() * _BANDS_PER_THREAD, -(-num_rows // min_rows))
    edges = [start + num_rows * i // num_bands for i in range(num_bands + 1)]
    return list(pairwise(edges))


def run_tasks(tasks: Sequence[Callable[[], object]]) -> None:
    """Runs all of them, on all cores, the caller's thread among them; waits for all.

    The caller works too, so that little work is done before another thread has woken up, and a pool that is busy with
    somebody else's work costs no waiting.

    Raises:
        Exception: what a task raised, the first of them; tasks that were not begun by then are left out.
    """
    global _pool
    helpers = min(num_threads(), len(tasks)) - 1
    if helpers <= 0:
        for task in tasks:
            task()
        return
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_cores(), thread_name_prefix="vidrestore-kernel")
        pool = _pool
    waiting = deque(tasks)

    def work() -> None:
        while True:
            try:
                task = waiting.popleft()
            except IndexError:
                return
            try:
                task()
            except BaseException:
                waiting.clear()
                raise

    futures = [pool.submit(work) for _ in range(helpers)]
    try:
        work()
    finally:
        begun = [future for future in futures if not future.cancel()]
        wait(begun)
    for future in begun:
        future.result()


def _forget_pool() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # a child of fork has none of the pool's threads


def check_planes(planes: Sequence[Plane], pixel_format: PixelFormat) -> None:
    """Compares planes with their format.

    Raises:
        KernelError: number, shape or type of the planes is not what the format says, or a plane is empty.
    """
    if len(planes) != pixel_format.num_planes:
        raise KernelError(f"{pixel_format.name} has {pixel_format.num_planes} planes, got {len(planes)}")
    for i, plane in enumerate(planes):
        if not isinstance(plane, np.ndarray) or plane.ndim != 2 or plane.size == 0:
            raise KernelError(f"plane {i} must be a (height, width) array that is not empty")
        size = pixel_format.plane_size(i, *planes[0].shape)
        if plane.shape != size or plane.dtype != pixel_format.dtype:
            raise KernelError(
                f"plane {i} of {pixel_format.name} must be {size} {pixel_format.dtype}, got {plane.shape} {plane.dtype}"
            )


def as_affines(crop_from_frame: ArrayLike) -> NDArray[np.float64]:
    """(B, 2, 3) float64 maps, checked.

    Raises:
        KernelError: the shape is another one, a value is not finite, or a map is singular.
    """
    maps = np.ascontiguousarray(crop_from_frame, np.float64)
    if maps.ndim != 3 or maps.shape[1:] != (2, 3):
        raise KernelError(f"crop_from_frame must be (B, 2, 3), got {maps.shape}")
    if not np.isfinite(maps).all():
        raise KernelError("crop_from_frame holds values that are not finite")
    determinants = maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0]
    if (np.abs(determinants) < 1e-18).any():
        raise KernelError("crop_from_frame holds a singular map")
    return maps


def invert(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """source_from_target of one (2, 3) target_from_source map that :func:`as_affines` has checked."""
    (a, b, e), (c, d, f) = matrix
    determinant = a * d - b * c
    linear = np.array([[d, -b], [-c, a]]) / determinant
    return np.column_stack([linear, -linear @ np.array([e, f])])


def block_length(footprint: float) -> int:
    """Samples per axis that are averaged before a filter of this footprint: the power of two that leaves [2, 4)."""
    block = 1
    while footprint >= WIDEST_FILTER * block:
        block *= 2
    return block


def plane_from_luma(pixel_format: PixelFormat, plane_index: int) -> tuple[float, float, float, float]:
    """(scale_x, scale_y, offset_x, offset_y): plane = scale * luma + offset, pixel centres at whole numbers.

    Chroma sample (0, 0) lies at ``siting`` in luma pixels, its neighbours 2 ** chroma_shift further.
    """
    if pixel_format.colour != "yuv" or plane_index not in (1, 2):
        return 1.0, 1.0, 0.0, 0.0
    scale_x, scale_y = 1.0 / (1 << pixel_format.chroma_shift[0]), 1.0 / (1 << pixel_format.chroma_shift[1])
    return scale_x, scale_y, -pixel_format.siting[0] * scale_x, -pixel_format.siting[1] * scale_y
