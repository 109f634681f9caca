"""Makes docs/media/steady.mp4: degraded | frame by frame | vidrestore, a generated person; below, what flickers.

    vidrestore train faces FACES --count 1
    python docs/media/make_media.py FACES CLIPS

FACES is a folder of generated faces, CLIPS where the clips of ``vidrestore train clips`` are kept.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from temporal import OFF, ON, Clip, merged, open_clip, run

from vidrestore.evaluate.texture import Unwrapping
from vidrestore.morphable.files import load_vr468
from vidrestore.restoration.align import crop_from_display
from vidrestore.train.clips import make_clips

Picture = NDArray[np.uint8]

HERE = Path(__file__).parent
SCENE, LEVEL, FRAMES = "talk", "medium", 40
WIDTH = 300
"""Of each of the three columns, in pixels."""
GAIN = 12
"""Of the lower row: change of the face, laid flat by its true mesh, since the frame before; motion is not in it."""


def columns(clip: Clip) -> list[tuple[str, list[Picture]]]:
    """Titles and pictures of the three columns."""
    return [
        ("degraded", clip.source),
        ("frame by frame", run(clip, merged(OFF), "compact").pictures),
        ("vidrestore", run(clip, merged(ON), "compact").pictures),
    ]


def frame_of(clip: Clip, made: list[tuple[str, list[Picture]]], index: int, flat: Unwrapping) -> Picture:
    """One frame of the clip: the face, followed, above; its change since the frame before, enlarged, below."""
    assert clip.truth is not None
    parts = []
    for title, pictures in made:
        faces = [clip.truth.frames[i][0] for i in (index - 1, index)]
        matrix = crop_from_display(faces[1].landmarks, WIDTH)
        face = cv2.warpAffine(pictures[index], matrix, (WIDTH, WIDTH), flags=cv2.INTER_CUBIC)
        skins = [flat.texture(pictures[i], f.points) for i, f in zip((index - 1, index), faces, strict=True)]
        both = (skins[0][1] & skins[1][1])[..., None]
        change = np.where(both, 128 + GAIN * (skins[1][0] - skins[0][0]), 128).clip(0, 255).astype(np.uint8)
        below = cv2.resize(change, (WIDTH, WIDTH), interpolation=cv2.INTER_CUBIC)
        for picture, text in ((face, title), (below, f"change x {GAIN}")):
            cv2.rectangle(picture, (0, 0), (12 + 9 * len(text), 20), (0, 0, 0), -1)
            cv2.putText(picture, text, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        parts.append(np.vstack([face, below]))
    return np.hstack(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("clips", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    (name,) = make_clips(arguments.clips, arguments.faces, scenes=[SCENE], level=LEVEL, num_frames=FRAMES)
    folder = arguments.clips
    clip = open_clip(name, folder / f"{name}.mkv", folder / f"{name}_clean.mkv", folder / f"{name}.json")
    made = columns(clip)
    model = load_vr468()
    flat = Unwrapping(model.mean_shape.double().numpy() * [1.0, -1.0, -1.0], model.triangles.numpy(), 150)
    frames = [frame_of(clip, made, index, flat) for index in range(1, len(clip.frames))]
    target = HERE / "steady.mp4"
    with av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        options = {"crf": "25", "preset": "slow", "threads": "1"}
        stream = container.add_stream("libx264", rate=Fraction(25), options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    sys.stdout.write(f"{target}: {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
