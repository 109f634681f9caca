"""``vidrestore train vr468``: from a folder of generated faces to the file of the model, with what it is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from vidrestore.errors import ConfigError
from vidrestore.morphable.files import save_model
from vidrestore.train.data import list_images
from vidrestore.train.generator import load_generator, load_mapping, mean_style, styles_of
from vidrestore.train.meshes import PointCache
from vidrestore.train.variations import changes, directions
from vidrestore.train.vr468 import VertexColours, examine, make_vr468, read_mesh, vertex_colours

__all__ = ["build"]

_HELD_OUT = 128
_FIRST_PERSON = 20_000  # numbers of the faces that make expressions, far from those of the folder


def build(
    faces: Path,
    mesh_file: Path,
    output: Path,
    *,
    people: int,
    points_file: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Makes and writes the model.

    Args:
        faces: folder of ``vidrestore train faces``; its first 128 faces are held out.
        mesh_file: ``canonical-face-model.obj``.
        output: the ``.safetensors`` file.
        people: how many people make expressions, the last tenth of them held out.
        points_file: cache of the teacher's points.
        progress: told a line now and then.

    Returns:
        What :func:`vidrestore.train.vr468.examine` measures on what was held out.

    Raises:
        ConfigError: too few faces, or a package of training is not installed.
    """
    mesh = read_mesh(mesh_file)
    paths = list_images(faces)
    if len(paths) < 1000 + _HELD_OUT:
        raise ConfigError(f"{faces}: vr468 wants at least {1000 + _HELD_OUT} faces, there are {len(paths)}")
    found = PointCache.of(paths, points_file)
    points = found.points.astype(np.float64) * 512 - [0.5, 0.5, 0.0]
    mean = mean_style()
    styles = styles_of(paths, mean)
    usable = np.flatnonzero(found.trusted)
    training, held_out = usable[usable >= _HELD_OUT], usable[usable < _HELD_OUT]
    progress(f"{len(training)} faces to learn from, {len(held_out)} held out")
    moves = directions(styles[training], points[training], mean)
    made = []
    for change in changes(load_mapping(), load_generator(), moves, mean, start=_FIRST_PERSON, people=people):
        made.append(change)
        if len(made) % 100 == 0:
            progress(f"{len(made)} changes of expression")
    last = _FIRST_PERSON + people - max(1, people // 10)
    pairs = [(c.before, c.after) for c in made if c.person < last]
    tests = [(c.before, c.after) for c in made if c.person >= last]
    colours, seen = [], []
    for number in training:
        picture = cv2.imread(str(paths[number]), cv2.IMREAD_COLOR)
        if picture is None:
            raise ConfigError(f"{paths[number]}: cannot be read")
        picture = cv2.resize(picture, (512, 512), interpolation=cv2.INTER_AREA)[..., ::-1]
        shown, turned = vertex_colours(np.ascontiguousarray(picture, dtype=np.uint8), points[number], mesh.triangles)
        colours.append(shown)
        seen.append(turned)
    model = make_vr468(mesh, points[training], pairs, VertexColours(np.stack(colours), np.stack(seen)))
    origin = (
        f"made by vidrestore.train.vr468 from {len(training)} generated faces and {len(pairs)} changes of expression"
    )
    save_model(model, output, {"name": "vr468", "licence": "Apache-2.0", "origin": origin})
    output.chmod(0o644)
    return examine(model, points[held_out], tests)
