"""Filters in vector instructions, which numba's own code generation does not find.

They are called in a kernel, each without its first argument, with positions inside the arrays: nothing is checked.
Arrays are flat, contiguous and float32. ``cubic_pair_at`` and ``tent_at`` are for filters one pixel wide; wider ones
take their weights from ``cubic_weights`` or ``tent_weights`` and sum with ``dot_block``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic

__all__ = ["cubic_pair_at", "cubic_weights", "dot_block", "tent_at", "tent_weights"]

cgutils: Any = untyped_cgutils

_FLOAT, _INDEX, _LANE = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_FOUR = ir.VectorType(_FLOAT, 4)

# Catmull-Rom weights of the taps at -1, 0, 1, 2 from the pixel to the left of the place, as polynomials in the distance
# t to it: rows are the factors of t^3, t^2, t and 1 (Keys 1981, a = -1/2)
_POLYNOMIALS = ((-0.5, 1.5, -1.5, 0.5), (1.0, -2.5, 2.0, -0.5), (-0.5, 0.0, 0.5, 0.0), (0.0, 1.0, 0.0, 0.0))


def _splat(builder: Any, vector: Any, lane: int) -> Any:
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_LANE, 4), [lane] * 4))


def _spread(builder: Any, value: Any) -> Any:
    return _splat(builder, builder.insert_element(ir.Constant(_FOUR, ir.Undefined), value, _LANE(0)), 0)


def _sum_of(builder: Any, vector: Any) -> Any:
    for step in (2, 1):
        lanes = ir.Constant(ir.VectorType(_LANE, 4), [(i + step) % 4 for i in range(4)])
        vector = builder.fadd(vector, builder.shuffle_vector(vector, vector, lanes))
    return builder.extract_element(vector, _LANE(0))


def _load_four(builder: Any, data: Any, at: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(data, [at]), _FOUR.as_pointer()), align=4)


def _multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return builder.fadd(builder.fmul(a, b, flags=("contract",)), c, flags=("contract",))


def _flat_data(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return context.make_array(signature.args[0])(context, builder, args[0]).data


def _cubic_pair_at(
    typing_context: Any,
    values: Any,
    first: Any,
    second: Any,
    stride: Any,
    place_u: Any,
    place_v: Any,
    second_u: Any,
    second_v: Any,
) -> Any:
    """Σ_j Σ_i h(j - 1 - v) h(i - 1 - u) values[first + j stride + i], i and j in 0..3, h the Catmull-Rom cubic.

    For two places at once: (first, place_u, place_v) and (second, second_u, second_v), u and v in [0, 1].
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = _flat_data(context, builder, signature, args)
        _, first_at, second_at, down_by, u, v, other_u, other_v = args
        both = [_LANE(i) for i in range(8)]
        wide, tall = (
            _eight_weights(builder, builder.shuffle_vector(_spread(builder, a), _spread(builder, b), _lanes(both)))
            for a, b in ((u, other_u), (v, other_v))
        )
        total = None
        for j in range(4):
            down = builder.mul(down_by, _INDEX(j))
            halves = [_load_four(builder, data, builder.add(at, down)) for at in (first_at, second_at)]
            row = builder.shuffle_vector(*halves, _lanes(both))
            weight = builder.shuffle_vector(tall, tall, _lanes([_LANE(j)] * 4 + [_LANE(4 + j)] * 4))
            product = builder.fmul(row, weight, flags=("contract",))
            total = product if total is None else builder.fadd(total, product, flags=("contract",))
        terms = builder.fmul(total, wide)
        for step in (2, 1):
            turned = [_LANE(i // 4 * 4 + (i + step) % 4) for i in range(8)]
            terms = builder.fadd(terms, builder.shuffle_vector(terms, terms, _lanes(turned)))
        return context.make_tuple(
            builder, signature.return_type, [builder.extract_element(terms, _LANE(lane)) for lane in (0, 4)]
        )

    arguments = (values, *[types.int64] * 3, *[types.float32] * 4)
    return types.UniTuple(types.float32, 2)(*arguments), generate  # type: ignore[no-untyped-call]


def _lanes(lanes: list[Any]) -> Any:
    return ir.Constant(ir.VectorType(_LANE, len(lanes)), lanes)


def _eight_weights(builder: Any, t: Any) -> Any:
    weights = ir.Constant(ir.VectorType(_FLOAT, 8), list(_POLYNOMIALS[0]) * 2)
    for factors in _POLYNOMIALS[1:]:
        weights = _multiply_add(builder, weights, t, ir.Constant(ir.VectorType(_FLOAT, 8), list(factors) * 2))
    return weights


def _tent_at(typing_context: Any, values: Any, first: Any, stride: Any, place_u: Any, place_v: Any) -> Any:
    """The bilinear mean of values[first], [first + 1], and the two of the row below, u and v in [0, 1]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = _flat_data(context, builder, signature, args)
        _, first_at, down_by, u, v = args
        rows = []
        for at in (first_at, builder.add(first_at, down_by)):
            left = builder.load(builder.gep(data, [at]))
            right = builder.load(builder.gep(data, [builder.add(at, _INDEX(1))]))
            rows.append(_multiply_add(builder, u, builder.fsub(right, left), left))
        return _multiply_add(builder, v, builder.fsub(rows[1], rows[0]), rows[0])

    return types.float32(values, types.int64, types.int64, types.float32, types.float32), generate


def _cubic_four(builder: Any, distance: Any) -> Any:
    """h of four distances >= 0."""

    def polynomial(*factors: float) -> Any:
        value = ir.Constant(_FOUR, [factors[0]] * 4)
        for factor in factors[1:]:
            value = _multiply_add(builder, value, distance, ir.Constant(_FOUR, [factor] * 4))
        return value

    one, two, zero = (ir.Constant(_FOUR, [value] * 4) for value in (1.0, 2.0, 0.0))
    inner, outer = polynomial(1.5, -2.5, 0.0, 1.0), polynomial(-0.5, 2.5, -4.0, 2.0)
    value = builder.select(builder.fcmp_ordered("<", distance, one), inner, outer)
    return builder.select(builder.fcmp_ordered("<", distance, two), value, zero)


def _tent_four(builder: Any, distance: Any) -> Any:
    zero, one = (ir.Constant(_FOUR, [value] * 4) for value in (0.0, 1.0))
    value = builder.fsub(one, distance)
    return builder.select(builder.fcmp_ordered(">", value, zero), value, zero)


def _weights(kernel: Any) -> Any:
    def typed(typing_context: Any, weights: Any, count: Any, place: Any, step: Any) -> Any:
        """Fills weights[k] = h(place - k step), k in 0..count (a multiple of 4), and gives their sum."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = _flat_data(context, builder, signature, args)
            _, number, first, apart = args
            zero = ir.Constant(_FOUR, [0.0] * 4)
            back = builder.fmul(_spread(builder, apart), ir.Constant(_FOUR, [0.0, 1.0, 2.0, 3.0]))
            along = cgutils.alloca_once_value(builder, builder.fsub(_spread(builder, first), back))
            stride = builder.fmul(_spread(builder, apart), ir.Constant(_FOUR, [4.0] * 4))
            total = cgutils.alloca_once_value(builder, zero)
            with cgutils.for_range(builder, builder.lshr(number, _INDEX(2)), intp=_INDEX) as loop:
                signed = builder.load(along)
                negative = builder.fcmp_ordered("<", signed, zero)
                distance = builder.select(negative, builder.fsub(zero, signed), signed)
                four = kernel(builder, distance)
                target = builder.gep(data, [builder.shl(loop.index, _INDEX(2))])
                builder.store(four, builder.bitcast(target, _FOUR.as_pointer()), align=4)
                builder.store(builder.fadd(builder.load(total), four), total)
                builder.store(builder.fsub(signed, stride), along)
            return _sum_of(builder, builder.load(total))

        return types.float32(weights, types.int64, types.float32, types.float32), generate

    return typed


def _dot_block(
    typing_context: Any, values: Any, first: Any, stride: Any, wide: Any, num_columns: Any, tall: Any, num_rows: Any
) -> Any:
    """Σ_j tall[j] Σ_i wide[i] values[first + j stride + i], i in 0..num_columns (a multiple of 4), j in 0..num_rows."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, columns, rows = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 3, 5))
        _, first_at, down_by, _, across, _, down = args
        zero = ir.Constant(_FOUR, [0.0] * 4)
        total = cgutils.alloca_once_value(builder, zero)
        part = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, builder.lshr(across, _INDEX(2)), intp=_INDEX) as group:
            column = builder.shl(group.index, _INDEX(2))
            builder.store(zero, part)
            start = builder.add(first_at, column)
            with cgutils.for_range(builder, down, intp=_INDEX) as row:
                pixels = _load_four(builder, data, builder.add(start, builder.mul(row.index, down_by)))
                weight = _spread(builder, builder.load(builder.gep(rows, [row.index])))
                builder.store(_multiply_add(builder, pixels, weight, builder.load(part)), part)
            four = _load_four(builder, columns, column)
            builder.store(_multiply_add(builder, builder.load(part), four, builder.load(total)), total)
        return _sum_of(builder, builder.load(total))

    arguments = (values, types.int64, types.int64, wide, types.int64, tall, types.int64)
    return types.float32(*arguments), generate


cubic_pair_at: Any = intrinsic(_cubic_pair_at)
tent_at: Any = intrinsic(_tent_at)
cubic_weights: Any = intrinsic(_weights(_cubic_four))
tent_weights: Any = intrinsic(_weights(_tent_four))
dot_block: Any = intrinsic(_dot_block)
