from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vidrestore.errors import DeviceError
from vidrestore.restoration.batcher import SIZES, BatchSizes, Graphs, padded_size

CPU = torch.device("cpu")


class FakeGraph:
    """Runs the network again where a CUDA graph would be replayed."""

    def __init__(self, network: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self._network = network
        self.images = example.clone()
        self.restored = network(self.images)

    def replay(self) -> None:
        self.restored.copy_(self._network(self.images))


def double(images: Tensor) -> Tensor:
    return 2.0 * images


@pytest.mark.parametrize(
    ("count", "largest", "expected"),
    [(1, 8, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (7, 6, 7), (3, 3, 3), (9, 64, 16), (17, 64, 17)],
)
def test_batches_are_padded_to_the_next_size_that_is_allowed(count: int, largest: int, expected: int) -> None:
    assert padded_size(count, largest) == expected


def test_each_size_is_captured_once_and_results_are_those_of_the_network() -> None:
    sizes: list[int] = []

    def capture(network: Callable[[Tensor], Tensor], example: Tensor) -> FakeGraph:
        sizes.append(len(example))
        return FakeGraph(network, example)

    graphs = Graphs(double, capture)
    torch.manual_seed(0)
    for count in (3, 4, 1, 3, 8, 5, 1):
        images = torch.rand(count, 3, 4, 4)
        restored = graphs.run(images, 8)
        torch.testing.assert_close(restored, 2.0 * images, rtol=0, atol=0)
    assert sizes == [4, 1, 8]
    assert len(graphs) == 3


def test_a_result_outlives_the_next_pass() -> None:
    graphs = Graphs(double, FakeGraph)
    first = graphs.run(torch.ones(2, 3, 4, 4), 8)
    graphs.run(torch.zeros(2, 3, 4, 4), 8)
    assert (first == 2.0).all()


def test_padding_repeats_a_crop_and_never_shows_old_ones() -> None:
    seen: list[Tensor] = []

    def watch(images: Tensor) -> Tensor:
        seen.append(images.clone())
        return images.clone()

    graphs = Graphs(watch, FakeGraph)
    graphs.run(torch.full((4, 3, 2, 2), 9.0), 8)
    graphs.run(torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 3, 2, 2), 8)
    assert seen[-1][:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0, 2.0]


def test_sizes_beyond_the_largest_graph_run_as_they_are() -> None:
    graphs = Graphs(double, FakeGraph)
    assert len(graphs.run(torch.ones(SIZES[-1] + 1, 3, 2, 2), 64)) == SIZES[-1] + 1
    assert len(graphs) == 0


def test_forgotten_graphs_are_made_anew() -> None:
    graphs = Graphs(double, FakeGraph)
    graphs.run(torch.ones(2, 3, 2, 2), 8)
    graphs.forget()
    assert len(graphs) == 0
    assert (graphs.run(torch.ones(2, 3, 2, 2), 8) == 2.0).all()


def test_batches_halve_when_memory_is_short_and_stay_small() -> None:
    sizes = BatchSizes(16)
    sizes.shrink(16, 512, CPU, MemoryError())
    assert sizes.largest == 8
    sizes.shrink(5, 512, CPU, MemoryError())  # the last batch of a call was a small one
    assert sizes.largest == 2
    sizes.shrink(2, 512, CPU, MemoryError())
    assert sizes.largest == 1
    with pytest.raises(DeviceError, match="cpu has too little memory for one face of 512 px"):
        sizes.shrink(1, 512, CPU, MemoryError())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 crop, got 0"):
        BatchSizes(0)
