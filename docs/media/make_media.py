"""Makes docs/media/steady.mp4: degraded | frame by frame | vidrestore, a generated person, the face enlarged below.

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

from vidrestore.train.clips import make_clips

Picture = NDArray[np.uint8]

HERE = Path(__file__).parent
SCENE, LEVEL, FRAMES = "talk", "heavy", 60
ZOOM = 3
WIDTH = 300
"""Of each of the three columns, in pixels."""


def columns(clip: Clip) -> list[tuple[str, list[Picture]]]:
    """Titles and pictures of the three columns."""
    return [
        ("degraded", clip.source),
        ("frame by frame", run(clip, merged(OFF), "compact").pictures),
        ("vidrestore", run(clip, merged(ON), "compact").pictures),
    ]


def frame_of(clip: Clip, made: list[tuple[str, list[Picture]]], index: int) -> Picture:
    """One frame of the clip: the whole pictures above, an eye and the mouth enlarged below."""
    assert clip.truth is not None
    middle = np.mean([faces[0].landmarks.mean(0) for faces in clip.truth.frames if faces], 0)
    parts = []
    for title, pictures in made:
        picture = pictures[index]
        height = 2 * round(WIDTH * picture.shape[0] / picture.shape[1] / 2)
        whole = cv2.resize(picture, (WIDTH, height), interpolation=cv2.INTER_AREA)
        side = WIDTH / ZOOM
        place = np.array([[ZOOM, 0, -ZOOM * (middle[0] - side / 2)], [0, ZOOM, -ZOOM * (middle[1] - side / 2)]])
        near = cv2.warpAffine(picture, place, (WIDTH, WIDTH), flags=cv2.INTER_CUBIC)
        column = np.vstack([whole, near])
        cv2.rectangle(column, (0, 0), (12 + 9 * len(title), 20), (0, 0, 0), -1)
        cv2.putText(column, title, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
        parts.append(column)
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
    frames = [frame_of(clip, made, index) for index in range(len(clip.frames))]
    target = HERE / "steady.mp4"
    with av.open(str(target), "w", options={"movflags": "faststart"}) as container:
        options = {"crf": "27", "preset": "veryslow", "threads": "1"}
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
