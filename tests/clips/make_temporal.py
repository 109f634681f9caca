"""Makes the committed clip with full truth: two people cross, then one speaks and a hand passes in front of him.

    vidrestore train faces FACES --count 3
    python tests/clips/make_temporal.py FACES     # tests/clips/temporal.mkv, temporal_clean.mkv, temporal.json

Needs what ``vidrestore train clips`` needs. Everything follows from the seeds below.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vidrestore.train.clips import LEVELS, SCENES, Occluder, Role, Scene, Shot, make_clip
from vidrestore.train.puppets import load_puppets

HERE = Path(__file__).parent
WIDTH, HEIGHT = 320, 192
FACES = (14, 28, 5)
"""Numbers of held-out faces, without glasses."""


def scene() -> Scene:
    """24 frames of two people who cross, 20 of a third one and a hand."""
    cross = SCENES["cross"](24, np.random.default_rng(41)).shots[0]
    hand = SCENES["hand"](20, np.random.default_rng(42)).shots[0]
    roles = []
    for role in cross.roles:
        moves = role.moves.copy()
        moves[:, :3] *= WIDTH / 480  # the scene's own size is 480 x 272
        roles.append(Role(role.person, moves))
    moves = hand.roles[0].moves.copy()
    moves[:, :3] *= 0.63  # of 400 x 304
    moves[:, 0] += 34
    path = hand.occluders[0].path * [0.63, 0.63, 1.0] + [34.0, 0.0, 0.0]
    shots = (
        Shot(24, cross.background, tuple(roles)),
        Shot(20, hand.background, (Role(2, moves),), (Occluder(path, 95.0, 5),)),
    )
    return Scene(3, WIDTH, HEIGHT, shots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path, help="folder of vidrestore train faces")
    people = load_puppets(parser.parse_args().faces, FACES, expressions=True)
    make_clip(HERE, "temporal", scene(), people, LEVELS["medium"], seed=43, clean_crf=17)


if __name__ == "__main__":
    main()
