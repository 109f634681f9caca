"""The lanes of one GPU: uploads, network and downloads each on a stream of their own, joined by marks.

What runs on the device asks here for three things: a lane to launch on, memory, and the kernels
(:class:`vidrestore.kernels.device.Backend`). CuPy compiles and launches the kernels on torch's current stream and reads
torch's memory where it lies; all memory comes from torch's allocator, so there is one pool. CuPy is imported when
:class:`CudaLanes` is made, and not before.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidrestore.errors import DeviceError
from vidrestore.kernels.device import BLOCK, Backend, DeviceArray, cuda_source

__all__ = ["CudaLanes", "Lanes", "Mark", "as_device_array", "lanes_of"]

Lane: TypeAlias = Literal["upload", "network", "download"]

_DTYPES: dict[torch.dtype, Any] = {
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}
_NUM_PARCELS = 64  # small uploads that may be on their way at once
_PARCEL_BYTES = 1 << 16  # geometry of some 100 faces


class Mark(Protocol):
    """A point in a lane's work; ``torch.cuda.Event`` is one."""

    def synchronize(self) -> None:
        """Waits, on the host, until the lane has passed it."""
        ...


class Lanes(Backend, Protocol):
    """A device as the engine uses it."""

    device: torch.device

    def on(self, lane: Lane) -> Any:
        """A context manager: what is launched inside goes to that lane."""
        ...

    def mark(self) -> Mark:
        """A mark after what was launched on the current lane so far."""
        ...

    def wait(self, mark: Mark) -> None:
        """What is launched next on the current lane starts after the mark; the host does not wait."""
        ...

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory that the device reads and writes by itself (pinned)."""
        ...


def as_device_array(tensor: Tensor) -> DeviceArray:
    """The memory of a tensor of one of the types above, for the kernels; nothing is copied."""
    dtype = np.dtype(_DTYPES[tensor.dtype])
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), dtype, tensor)


def lanes_of(device: torch.device) -> Lanes | None:
    """The lanes of a CUDA device where CuPy is installed; None elsewhere."""
    if device.type != "cuda" or importlib.util.find_spec("cupy") is None:
        return None
    return CudaLanes(device)


class CudaLanes:
    """:class:`Lanes` of an NVIDIA GPU.

    Raises:
        DeviceError: CuPy does not work with this driver.
    """

    def __init__(self, device: torch.device) -> None:
        import cupy

        self._cupy = cupy
        self.device = torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device())
        try:
            with cupy.cuda.Device(self.device.index):
                cupy.cuda.runtime.getDevice()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(f"CuPy does not reach {self.device}: {error}; is its build the driver's?") from error
        self._streams = {name: _stream(self.device) for name in ("upload", "network", "download")}
        self._modules: dict[str, Any] = {}
        self._kernels: dict[tuple[str, str], Any] = {}
        self._outside: dict[int, Any] = {}  # torch's streams as CuPy's
        self._parcels: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    @contextmanager
    def on(self, lane: Lane) -> Generator[None, None, None]:
        """See :class:`Lanes`."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._streams[lane]):
            yield

    def mark(self) -> torch.cuda.Event:
        """See :class:`Lanes`."""
        event = _event()
        event.record(torch.cuda.current_stream(self.device))
        return event

    def wait(self, mark: Mark) -> None:
        """See :class:`Lanes`."""
        assert isinstance(mark, torch.cuda.Event)
        torch.cuda.current_stream(self.device).wait_event(mark)

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See :class:`Lanes`."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def upload(self, values: NDArray[Any]) -> DeviceArray:
        """See :class:`~vidrestore.kernels.device.Backend`; goes through a ring of pinned parcels."""
        source = np.ascontiguousarray(values)
        data = source.reshape(-1).view(np.uint8)
        if data.size > _PARCEL_BYTES:
            raise DeviceError(f"{data.size} bytes of geometry are more than one upload holds ({_PARCEL_BYTES})")
        if len(self._parcels) < _NUM_PARCELS:
            parcel, sent = self.staging((_PARCEL_BYTES,), torch.uint8), _event()
        else:
            parcel, sent = self._parcels.popleft()
            sent.synchronize()  # 64 uploads ago: long since passed
        parcel.numpy()[: data.size] = data
        there = torch.empty(data.size, dtype=torch.uint8, device=self.device)
        there.copy_(parcel[: data.size], non_blocking=True)
        sent.record(torch.cuda.current_stream(self.device))
        self._parcels.append((parcel, sent))
        array = as_device_array(there)
        strides = tuple(int(np.prod(source.shape[axis + 1 :])) for axis in range(source.ndim))
        return DeviceArray(array.address, source.shape, strides, source.dtype, there)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """See :class:`~vidrestore.kernels.device.Backend`."""
        kinds = {np.dtype(value): key for key, value in _DTYPES.items()}
        return as_device_array(torch.empty(shape, dtype=kinds[dtype], device=self.device))

    def launch(
        self, source: str, kernel: str, grid: tuple[int, int, int], arguments: Sequence[np.generic | DeviceArray | None]
    ) -> None:
        """See :class:`~vidrestore.kernels.device.Backend`."""
        values = [np.uint64(_address(a)) if a is None or isinstance(a, DeviceArray) else a for a in arguments]
        stream = torch.cuda.current_stream(self.device).cuda_stream
        if stream not in self._outside:
            self._outside[stream] = self._as_cupy_stream(stream)
        with self._cupy.cuda.Device(self.device.index), self._outside[stream]:
            self._kernel(source, kernel)(grid, BLOCK, tuple(values))

    def _as_cupy_stream(self, address: int) -> Any:
        from_external = getattr(self._cupy.cuda.Stream, "from_external", None)
        if from_external is None:  # before CuPy 14
            return self._cupy.cuda.ExternalStream(address, self.device.index)
        return from_external(_StreamAddress(address))

    def _kernel(self, source: str, kernel: str) -> Any:
        if (source, kernel) not in self._kernels:
            if source not in self._modules:
                self._modules[source] = self._cupy.RawModule(code=cuda_source(source), options=("--std=c++17",))
            self._kernels[source, kernel] = self._modules[source].get_function(kernel)
        return self._kernels[source, kernel]


def _stream(device: torch.device) -> torch.cuda.Stream:
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


def _event() -> torch.cuda.Event:
    """A host that waits for it sleeps: the core is wanted elsewhere."""
    event: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    return event


class _StreamAddress:
    """A stream by its address, as the CUDA stream protocol has it: (version, address)."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


def _address(array: DeviceArray | None) -> int:
    return 0 if array is None else array.address
