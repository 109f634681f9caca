"""Makes docs/images/example.jpg: faces of the example clip before and after, and the change between them.

python docs/images/make_images.py [CLIP] [OUT]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from vidrestore import RestoredVideo, load_config, restore, rgb_from_frame
from vidrestore.decode.reader import VideoReader

HERE = Path(__file__).parent
SIDE = 288
SHOWN = (18, 52, 96)  # frames
GAIN = 8


def main() -> None:
    clip = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "examples" / "clip.mp4"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "example.jpg"
    config = load_config(overrides={"encode": {"codec": "ffv1"}})
    with RestoredVideo(clip, config) as video:
        boxes = [[track.box for track in restored.tracks] for restored in video]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.mkv"
        restore(clip, output, config)
        with VideoReader(clip) as before, VideoReader(output) as after:
            columns = [
                column(rgb_from_frame(b), rgb_from_frame(a), boxes[b.index][k % len(boxes[b.index])])
                for b, a in zip(before.decode(), after.decode(), strict=True)
                for k, index in enumerate(SHOWN)
                if b.index == index and boxes[b.index]
            ]
    cv2.imwrite(str(target), np.hstack(columns)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])


def column(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Before, after and change of the square around a face, one above the other."""
    centre, side = (box[:2] + box[2:]) / 2, 1.75 * float((box[2:] - box[:2]).max())
    scale = SIDE / side
    window = np.array([[scale, 0, SIDE / 2 - scale * centre[0]], [0, scale, SIDE / 2 - scale * centre[1]]])
    how = {"dsize": (SIDE, SIDE), "flags": cv2.INTER_CUBIC, "borderMode": cv2.BORDER_REPLICATE}
    cut = [cv2.warpAffine(picture.astype(np.float32), window, **how) for picture in (before, after)]
    change = 128 + GAIN * (cut[1] - cut[0])
    return np.clip(np.rint(np.vstack([*cut, change])), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
