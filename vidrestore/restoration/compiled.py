"""A network compiled by torch for the batch sizes that it meets: ``restore.compile``."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidrestore.errors import DeviceError
from vidrestore.restoration.batcher import SIZES, pad, padded_size

__all__ = ["CompiledNetwork", "missing_compiler"]

logger = logging.getLogger(__name__)

WAY_OUT = "install it, or set restore.compile = 'off'"


def missing_compiler(device: torch.device) -> str | None:
    """What ``torch.compile`` wants on a device and does not find; None where nothing is missing."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") is not None else "the package triton"
    from torch._inductor import config  # heavy, and wanted here only: it knows which compiler torch will call

    names: Any = config.cpp.cxx  # (None or a name, ...); CXX of the environment as torch has read it
    wanted = [str(name) for name in (names if isinstance(names, (list, tuple)) else [names]) if name]
    if any(shutil.which(name) for name in wanted):
        return None
    return f"a C++ compiler ({' or '.join(wanted)})"


class CompiledNetwork:
    """Runs a network as ``torch.compile`` made it, once for each batch size of ``SIZES``.

    A batch is filled up to the next of these sizes, a larger one is cut into pieces of the largest: there are no more
    compilations than sizes. Nothing falls back to the network as it was: what cannot be compiled is an error.

    Args:
        network: (B, 3, S, S) to the same, where a picture's place in the batch does not matter.
        device: where it runs.
        compiler: makes a callable of the network; None is ``torch.compile`` for fixed shapes, in one piece.

    Raises:
        DeviceError: the compiler is not there.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        device: torch.device,
        *,
        compiler: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        if compiler is None:
            missing = missing_compiler(device)
            if missing is not None:
                raise DeviceError(f"restore.compile = 'on' wants {missing}, which is not there; {WAY_OUT}")
            compiler = _compile
        self._run = compiler(network)
        self._done: set[tuple[int, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) of the same; the first batch of a size waits for its compilation, seconds to a minute.

        Raises:
            DeviceError: the network could not be compiled.
        """
        return torch.cat([self._padded(part) for part in torch.split(images, max(SIZES))])

    def _padded(self, images: Tensor) -> Tensor:
        if len(images) == 0:
            return images
        filled = pad(images, padded_size(len(images), max(SIZES))).contiguous(memory_format=torch.channels_last)
        return self._compiled(filled)[: len(images)]

    def _compiled(self, images: Tensor) -> Tensor:
        key = tuple(images.shape)
        if key in self._done:
            return self._run(images)
        with self._lock:
            logger.info("compiling the network for %d faces at once", len(images))
            try:
                restored = self._run(images)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ImportError) as error:  # torch's own errors of compiling are RuntimeErrors
                first = getattr(error, "inner_exception", error)  # what torch's BackendCompilerFailed is about
                lines = [line for line in str(first).splitlines() if line.strip()] or [""]
                reason = f"{type(first).__name__}: {lines[0]}"
                raise DeviceError(
                    f"the network could not be compiled: {reason}; set restore.compile = 'off'"
                ) from error
            self._done.add(key)
            return restored


def _compile(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # in one piece: a part that torch cannot compile, or more shapes than it will, raise instead of running as they were
    compiled: Callable[[Tensor], Tensor] = torch.compile(network, fullgraph=True, dynamic=False)
    return compiled
