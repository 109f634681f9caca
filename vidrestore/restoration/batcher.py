"""Crops go through a network in batches of a few fixed sizes, as CUDA graphs, and fewer at a time when memory is short.

A crop's place in a batch must not change its result, so padding repeats the last crop and its results are dropped.
Only restorers that say so (``is_pure``: the same crops give the same result, whatever came before) are padded and
captured; one that keeps state along tracks gets exactly its crops and their context.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from vidrestore.errors import DeviceError

__all__ = ["SIZES", "BatchSizes", "Graph", "Graphs", "capture_graph", "pad", "padded_size"]

logger = logging.getLogger(__name__)

SIZES = (1, 2, 4, 8, 16)
"""Batch sizes that a captured network exists in; larger ones gain nothing (goal P5) and cost memory."""


def padded_size(count: int, largest: int) -> int:
    """The smallest of ``SIZES`` that holds ``count`` crops and does not pass ``largest``; else ``count`` itself."""
    return next((size for size in SIZES if count <= size <= largest), count)


class BatchSizes:
    """How many crops go together; smaller once memory ran out.

    Args:
        largest: crops in one pass at most, at least 1.
    """

    def __init__(self, largest: int) -> None:
        if largest < 1:
            raise ValueError(f"a batch holds at least 1 crop, got {largest}")
        self.largest = largest

    def shrink(self, count: int, size_px: int, device: torch.device, error: BaseException) -> None:
        """Halves the batches after one of ``count`` crops did not fit into memory.

        Raises:
            DeviceError: it was a single crop.
        """
        if self.largest == 1 or count == 1:
            raise DeviceError(
                f"{device} has too little memory for one face of {size_px} px; "
                "close other programs, or use --device cpu"
            ) from error
        self.largest = max(1, count // 2)
        logger.warning("out of device memory, going on with batches of %s", self.largest)


class Graph(Protocol):
    """A captured pass of a network at one batch size."""

    images: Tensor
    """(B, 3, S, S): is read by :meth:`replay`."""
    restored: Tensor
    """(B, 3, S, S): is written by :meth:`replay`."""

    def replay(self) -> None:
        """Runs the pass again, on the current stream."""
        ...


class Graphs:
    """One captured graph per batch size of a pure network.

    Args:
        network: (B, 3, S, S) float32 to the same, without side effects.
        capture: makes a graph of the network at the size of an example (:func:`capture_graph`).
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        capture: Callable[[Callable[[Tensor], Tensor], Tensor], Graph],
    ) -> None:
        self._network = network
        self._capture = capture
        self._graphs: dict[tuple[int, int], Graph] = {}

    def run(self, images: Tensor, largest: int) -> Tensor:
        """(B, 3, S, S) restored; memory of its own, so that the next pass may begin.

        Args:
            images: on the network's device.
            largest: no graph beyond this batch size is made.
        """
        count = len(images)
        size = padded_size(count, largest)
        if size not in SIZES:
            return self._network(images)
        key = (size, images.shape[-1])
        if key not in self._graphs:
            self._graphs[key] = self._capture(self._network, pad(images, size))
        graph = self._graphs[key]
        graph.images[:count].copy_(images)
        if count < size:
            graph.images[count:].copy_(images[-1:].expand(size - count, *images.shape[1:]))
        graph.replay()
        return graph.restored[:count].clone()

    def forget(self) -> None:
        """Gives all graphs and their memory back, after memory ran out."""
        self._graphs.clear()

    def __len__(self) -> int:
        return len(self._graphs)


def pad(images: Tensor, size: int) -> Tensor:
    """The last crop repeated until there are ``size``."""
    missing = size - len(images)
    return torch.cat([images, images[-1:].expand(missing, *images.shape[1:])]) if missing else images.clone()


class _CudaGraph:
    def __init__(self, network: Callable[[Tensor], Tensor], example: Tensor) -> None:
        self.images = example.clone()
        stream = torch.cuda.current_stream(example.device)
        # lazy work (autotuning, workspaces, weights cast by autocast) must happen before the capture
        for _ in range(3):
            network(self.images)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self.restored = network(self.images)

    def replay(self) -> None:
        self._graph.replay()


def capture_graph(network: Callable[[Tensor], Tensor], example: Tensor) -> Graph:
    """A CUDA graph of ``network`` at the example's size, captured on the current stream (not the default one)."""
    return _CudaGraph(network, example)
