from __future__ import annotations

import pytest
import torch

from vidrestore.morphable.coefficients import COEFFICIENTS, WIDTHS, Coefficients, join, split


def test_the_order_is_the_published_one() -> None:
    c = split(torch.arange(257.0)[None])
    first = {name: int(getattr(c, name)[0, 0]) for name in WIDTHS}
    assert first == {
        "identity": 0,
        "expression": 80,
        "texture": 144,
        "angles": 224,
        "lighting": 227,
        "translation": 254,
    }
    assert COEFFICIENTS == 257


def test_join_undoes_split() -> None:
    coefficients = torch.randn(3, 257, generator=torch.Generator().manual_seed(0))
    assert torch.equal(join(split(coefficients)), coefficients)


@pytest.mark.parametrize("shape", [(257,), (2, 256), (1, 2, 257)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 257\)"):
        split(torch.zeros(shape))


def test_parts_of_another_width_are_refused() -> None:
    parts = {name: torch.zeros(2, width) for name, width in WIDTHS.items()} | {"angles": torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"angles must be \(2, 3\), got \(2, 4\)"):
        Coefficients(**parts)
