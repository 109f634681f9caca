"""Changes of expression: one generated person, before and after a move of the style.

Directions are found, not given: over many generated faces, the style is regressed on what the teacher measures in them
(how far the mouth is open and wide, how high its corners are, how far the eyes are open, where the brows are, how far
the head is turned). A direction changes its own measure by one standard deviation and the others not, and is the most
ordinary such move, in the sense of the styles' covariance. Only the coarse levels of the generator are moved, where
expression lives; colour and texture are made by the fine ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vidrestore.errors import ConfigError
from vidrestore.restoration.mobilestyle import StyleGenerator
from vidrestore.train.facemesh import FaceMesh
from vidrestore.train.faces import face_path, latent_of, write_face
from vidrestore.train.generator import Mapping, load_generator, load_mapping

__all__ = ["Change", "changes", "directions", "make_expressions", "measures"]

Array = NDArray[np.float64]

_COARSE = 4  # levels that are moved: 4, 8, 16 and 32 px
_RIDGE = 0.02  # of the styles' total variance; chosen on held-out faces, where mouth and eyes correlate with 0.84, 0.90
_AMOUNTS = (  # lowest, highest, share of the variations that have it; in standard deviations of the measure
    ("mouth open", -1.0, 3.2, 0.8),
    ("mouth wide", -1.5, 1.5, 0.5),
    ("corners up", -2.0, 2.0, 0.5),
    ("eyes open", -3.0, 2.5, 0.6),
    ("brows up", -1.5, 2.0, 0.5),
    ("turned", -0.8, 0.8, 1.0),
)


@dataclass(frozen=True, slots=True)
class Change:
    """One person with two expressions."""

    person: int
    before: Array
    """(468, 3) of the teacher."""
    after: Array
    """(468, 3) of the teacher."""
    amounts: Array
    """(6,) how far along each direction, in the order of :func:`measures`."""


def measures(points: Array) -> Array:
    """What the teacher's points tell of the expression, in shares of the distance between the eyes' outer corners.

    Args:
        points: (F, 468, 3).

    Returns:
        (F, 6): mouth open, mouth wide, corners up, eyes open, brows up, turned.
    """
    unit = np.linalg.norm(points[:, 263, :2] - points[:, 33, :2], axis=1)

    def apart(a: int, b: int) -> Array:
        return np.asarray(np.linalg.norm(points[:, a] - points[:, b], axis=1) / unit)

    lips = (points[:, 13, 1] + points[:, 14, 1]) / 2
    corners = (points[:, 61, 1] + points[:, 291, 1]) / 2
    columns = [
        apart(13, 14),
        apart(61, 291),
        (lips - corners) / unit,
        (apart(159, 145) + apart(386, 374)) / 2,
        (apart(105, 159) + apart(334, 386)) / 2,
        (points[:, 454, 2] - points[:, 234, 2]) / unit,
    ]
    return np.stack(columns, 1)


def directions(styles: Tensor, points: Array, mean: Tensor) -> Tensor:
    """(6, 512) moves of the style, each by one standard deviation of its measure.

    Args:
        styles: (F, 512) of generated faces.
        points: (F, 468, 3) of the teacher on the same faces.
        mean: (512,) mean style.

    Raises:
        ConfigError: too few faces to find directions among 512 numbers.
    """
    if len(styles) < 1000:
        raise ConfigError(f"directions of expression want at least 1000 faces, got {len(styles)}")
    x = (styles - mean).double().numpy()
    y = measures(points)
    y = (y - y.mean(0)) / y.std(0)
    ridge = _RIDGE * len(x) * x.var() * np.eye(x.shape[1])
    readers = np.linalg.solve(x.T @ x + ridge, x.T @ y)  # (512, 6)
    spread = np.cov(x.T) @ readers
    moves = spread @ np.linalg.inv(readers.T @ spread)
    return torch.from_numpy(moves.T.copy()).float()


@torch.inference_mode()
def changes(
    mapping: Mapping, generator: StyleGenerator, moves: Tensor, mean: Tensor, *, start: int, people: int, each: int = 3
) -> Iterator[Change]:
    """Makes people and their expressions; about 1.5 s a picture on a core.

    Args:
        mapping: z to w.
        generator: w to pictures.
        moves: of :func:`directions`.
        mean: (512,) mean style.
        start: number of the first person; a person depends on his number alone.
        people: how many.
        each: expressions of each.
    """
    teacher = FaceMesh()
    for person in range(start, start + people):
        z, psi = latent_of(person)
        w = mean + psi * (mapping(torch.from_numpy(z))[0] - mean)
        neutral, score = teacher.find(_picture(generator, w, torch.zeros_like(w)))
        rng = np.random.default_rng([person, 7])
        for _ in range(each):
            amounts = _amounts(rng)
            move = torch.from_numpy(amounts).float() @ moves
            points, after_score = teacher.find(_picture(generator, w, move))
            if min(score, after_score) > 20.0:
                yield Change(person, neutral, points, amounts)


@torch.inference_mode()
def make_expressions(
    folder: str | os.PathLike[str],
    moves: Tensor,
    mean: Tensor,
    *,
    start: int,
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes people who are not at rest as ``NNNNN.jpg``, 512 x 512, one picture each; those there are kept.

    A person depends on his number and on the moves; about 1.7 s of a core each.

    Args:
        folder: made if missing.
        moves: of :func:`directions`.
        mean: (512,) mean style.
        start: number of the first person.
        count: how many.
        progress: called with (done, count) after each person that was made.

    Returns:
        How many were made now.

    Raises:
        ConfigError: ``random-face`` is not installed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    missing = [p for p in range(start, start + count) if not face_path(target, p).is_file()]
    if not missing:
        return 0
    mapping, generator = load_mapping(), load_generator()
    for done, person in enumerate(missing, count - len(missing) + 1):
        z, psi = latent_of(person)
        w = mean + psi * (mapping(torch.from_numpy(z))[0] - mean)
        move = torch.from_numpy(_amounts(np.random.default_rng([person, 7]))).float() @ moves
        write_face(face_path(target, person), _picture(generator, w, move))
        if progress is not None:
            progress(done, count)
    return len(missing)


def _amounts(rng: np.random.Generator) -> Array:
    """(6,) how far along each direction."""
    return np.array([rng.uniform(low, high) * (rng.random() < share) for _, low, high, share in _AMOUNTS])


def _picture(generator: StyleGenerator, w: Tensor, move: Tensor) -> NDArray[np.uint8]:
    """(512, 512, 3) uint8 RGB."""
    styles = w.repeat(1 + len(generator.blocks), 1)
    styles[:_COARSE] += move
    picture = functional.interpolate(generator(styles[None]), size=512, mode="area")[0]
    return ((picture.permute(1, 2, 0) + 1) * 127.5).clamp(0, 255).round().byte().numpy()
