"""What more faces bring to the shape of ``vr468``: held-out error by the number of faces that it was learned from.

    python benchmarks/vr468_faces.py --faces data/faces --points data/points.npz

The first 128 faces are held out. Each model is made by :func:`vidrestore.train.vr468.make_vr468` from the first so many
of the others and from the same changes of expression, 48 people's, which are made first (about five minutes of a core).
The shipped model, from 3507 faces, stands beside them. A face's error is the mean distance of the fitted vertices from
the teacher's, in % of the distance between the eyes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from common import write_report

from vidrestore.morphable.files import load_vr468
from vidrestore.train.data import list_images
from vidrestore.train.generator import load_generator, load_mapping, mean_style, styles_of
from vidrestore.train.meshes import PointCache
from vidrestore.train.variations import changes, directions
from vidrestore.train.vr468 import VertexColours, examine, make_vr468, mesh_of, vertex_colours

COUNTS = (160, 320, 640, 1280, 2560)
HELD_OUT = 128
PEOPLE = 48
FIRST_PERSON = 60_000  # numbers of people far from those of the folder, and from the shipped model's
SIDE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", required=True, type=Path, help="folder of `vidrestore train faces`")
    parser.add_argument("--points", required=True, type=Path, help="cache of the teacher's points")
    options = parser.parse_args()
    shipped = load_vr468()
    mesh = mesh_of(shipped)
    paths = list_images(options.faces)
    found = PointCache.of(paths, options.points)
    points = found.points.astype(np.float64) * SIDE - [0.5, 0.5, 0.0]
    mean = mean_style()
    usable = np.flatnonzero(found.trusted)
    training, held_out = usable[usable >= HELD_OUT], usable[usable < HELD_OUT]
    moves = directions(styles_of(paths, mean)[training], points[training], mean)
    made = changes(load_mapping(), load_generator(), moves, mean, start=FIRST_PERSON, people=PEOPLE)
    pairs = [(change.before, change.after) for change in made]
    colours, seen = [], []
    for number in training:
        picture = cv2.resize(cv2.imread(str(paths[number])), (SIDE, SIDE), interpolation=cv2.INTER_AREA)[..., ::-1]
        shown, turned = vertex_colours(np.ascontiguousarray(picture, np.uint8), points[number], mesh.triangles)
        colours.append(shown)
        seen.append(turned)
    rows = []
    for count in sorted({min(count, len(training)) for count in COUNTS}):
        part = VertexColours(np.stack(colours[:count]), np.stack(seen[:count]))
        model = make_vr468(mesh, points[training[:count]], pairs, part)
        rows.append({"faces": count, "error_percent": examine(model, points[held_out], [])["error_percent"]})
        print(rows[-1], flush=True)
    rows.append({"faces": "shipped (3507)", "error_percent": examine(shipped, points[held_out], [])["error_percent"]})
    print(rows[-1])
    method = f"mean over {len(held_out)} faces that no model was made from; {len(pairs)} changes of expression"
    write_report("vr468_faces", method, rows)


if __name__ == "__main__":
    main()
