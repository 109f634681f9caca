"""Makes clean training faces with the generator in the package ``random-face``.

The package carries MobileStyleGAN, trained on FFHQ, as OpenVINO files; they are read where they are installed and
run by ``openvino`` (the extra ``train``). Face number i depends on i alone::

    rng = RandomState(i); z = rng.randn(1, 512); psi = rng.uniform(0.6, 0.95)
    w = mean + psi * (mapping(z) - mean); picture = area-resized(synthesis(w)), 1024 -> 512, JPEG of quality 97

where ``mean`` is the mean of ``mapping(z)`` over the seeds 1000000 to 1001999. Faces are aligned as FFHQ's.

Licence:
    random-face is published under Apache-2.0; its generator learned from FFHQ, which is CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.errors import ConfigError

__all__ = [
    "FACE_SIZE",
    "MEAN_COUNT",
    "MEAN_SEED",
    "PSI",
    "FaceGenerator",
    "face_path",
    "find_generator",
    "latent_of",
    "make_faces",
    "write_face",
]

FACE_SIZE = 512
"""Side of a face in pixels; the generator makes 1024, whose finest octave holds little."""

MEAN_SEED = 1_000_000  # far away from any seed of a face
MEAN_COUNT = 2000  # the mean's error is then 2 % of the spread of w
PSI = (0.6, 0.95)
"""Range of the truncation: below faces look alike, above they break."""
_QUALITY = 97

_Mapping: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def find_generator() -> Path:
    """The folder of the generator's files in the installed package.

    Raises:
        ConfigError: the package ``random-face`` is not installed.
    """
    spec = importlib.util.find_spec("random_face")  # finds the folder, runs none of its code
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        data = Path(folder) / "data"
        if (data / "MappingNetwork.xml").is_file() and (data / "SynthesisNetwork.xml").is_file():
            return data
    raise ConfigError("making faces needs the generator: pip install --no-deps random-face==2021.7.21.1")


class FaceGenerator:
    """The generator, loaded: seeds become styles, styles become faces.

    Args:
        threads: of the generator; None is one per core.

    Raises:
        ConfigError: ``random-face`` or ``openvino`` is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._mapping, self._synthesis = _open_generator(find_generator(), threads or os.cpu_count() or 1)
        self._mean: NDArray[np.float32] | None = None

    def style(self, seed: int, psi: float | None = None) -> NDArray[np.float32]:
        """w of a seed, (1, 512), drawn towards the mean.

        Args:
            seed: the face's number.
            psi: share of the way from the mean to the seed's own w; None draws it from the seed, as for training.
        """
        if self._mean is None:
            draws = [self._mapping(latent_of(MEAN_SEED + i)[0]) for i in range(MEAN_COUNT)]
            self._mean = np.asarray(np.mean(draws, 0))
        z, own_psi = latent_of(seed)
        share = own_psi if psi is None else psi
        return np.asarray(self._mean + share * (self._mapping(z) - self._mean), dtype=np.float32)

    def picture(self, style: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The face of a style, (512, 512, 3) uint8 RGB. May be called from several threads."""
        return _render(self._synthesis, style)


def make_faces(
    folder: str | os.PathLike[str],
    start: int,
    count: int,
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes faces number ``start`` to ``start + count - 1`` as ``NNNNN.jpg``, 512 x 512; those there are kept.

    Args:
        folder: made if missing.
        start: number (and seed) of the first face.
        count: how many.
        threads: of the generator; None is one per core. One face takes about 0.9 s of one core.
        progress: called with (done, count) after each face, in order.

    Returns:
        How many were made now.

    Raises:
        ConfigError: ``random-face`` or ``openvino`` is not installed.
        ValueError: start or count is negative, or a seed is beyond those of the mean.
    """
    if start < 0 or count < 0 or start + count > MEAN_SEED:
        raise ValueError(f"faces have numbers from 0 to {MEAN_SEED - 1}, got {start} and {count} more")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    cores = threads or os.cpu_count() or 1
    generator = FaceGenerator(cores)
    missing = [i for i in range(start, start + count) if not face_path(target, i).is_file()]
    styles = {number: generator.style(number) for number in missing}

    def make(number: int) -> None:
        if number in styles:
            write_face(face_path(target, number), generator.picture(styles[number]))

    with ThreadPoolExecutor(cores) as pool:
        for done, _ in enumerate(pool.map(make, range(start, start + count)), 1):
            if progress is not None:
                progress(done, count)
    return len(missing)


def face_path(folder: Path, number: int) -> Path:
    """Where a face of this number lies in a folder of faces."""
    return folder / f"{number:05d}.jpg"


def latent_of(seed: int) -> tuple[NDArray[np.float32], float]:
    """z (1, 512) of a face and how far it is drawn towards the mean, both from its number."""
    rng = np.random.RandomState(seed)  # the legacy generator, whose stream never changes
    return rng.randn(1, 512).astype(np.float32), float(rng.uniform(*PSI))


def _open_generator(folder: Path, threads: int) -> tuple[_Mapping, Any]:
    if importlib.util.find_spec("openvino") is None:
        raise ConfigError("making faces needs openvino: pip install 'vidrestore[train]'")
    import openvino  # a heavy extra, wanted by this function alone

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # some CPUs would take bfloat16, and faces would differ between machines
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
    }
    core = openvino.Core()
    mapping = core.compile_model(str(folder / "MappingNetwork.xml"), "CPU", options)
    synthesis = core.compile_model(str(folder / "SynthesisNetwork.xml"), "CPU", options)
    return (lambda z: np.array(mapping(z)[0])), synthesis


def _render(synthesis: Any, style: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(512, 512, 3) uint8 RGB."""
    outputs = synthesis.create_infer_request().infer([style])  # a request of its own: threads do not share one
    raw = next(iter(outputs.values()))[0]  # (3, 1024, 1024) in about [-1, 1]
    large = np.clip((raw.transpose(1, 2, 0) + 1) * 127.5, 0, 255)
    small = cv2.resize(large, (FACE_SIZE, FACE_SIZE), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(small), dtype=np.uint8)


def write_face(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes (S, S, 3) uint8 RGB as JPEG of quality 97; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not ok:
        raise OSError(f"{path}: JPEG encoding failed")
    part = path.with_name(path.name + ".part")
    part.write_bytes(data.tobytes())
    os.replace(part, path)
