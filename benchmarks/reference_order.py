"""What today's published face restoration scripts do to a video, as a baseline: small, plain and honest.

The whole input is decoded into a list; the detector runs on every frame at short side 640; one face at a time goes
through the network in fp32, batch 1, with a blocking copy back; a square mask is eroded and blurred, and the restored
face is warped over the whole frame on the CPU in float64, once per face; every result is written as a PNG, all are read
back, then encoded. Nothing overlaps. The parsing network that those scripts also run on every face is left out, in
their favour.

Network, weights, detector, frames and encoder settings are those of vidrestore, so that only the order differs.
"""

from __future__ import annotations

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.config import RestoreConfig
from vidrestore.detect.yunet import YuNet
from vidrestore.geometry import invert
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.restorer import Restorer

SHORT_SIDE = 640
BORDER = (135, 133, 132)  # BGR, outside the picture


def restore_in_reference_order(source: Path, output: Path, config: RestoreConfig, restorer: Restorer) -> int:
    """Restores a clip and gives the number of faces."""
    with av.open(str(source)) as container:
        rate = container.streams.video[0].average_rate or Fraction(25)
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    finder = YuNet(config.detect.score_threshold)
    num_faces = 0
    with tempfile.TemporaryDirectory() as folder:
        for index, frame in enumerate(frames):
            restored = frame.astype(np.float64)
            for landmarks in _landmarks(finder, frame):
                restored = _paste(restored, *_restored_face(frame, landmarks, restorer))
                num_faces += 1
            cv2.imwrite(f"{folder}/{index:08d}.png", np.clip(restored, 0, 255).astype(np.uint8))
        _encode(sorted(Path(folder).glob("*.png")), output, Fraction(rate), config)
    return num_faces


def _landmarks(finder: YuNet, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    scale = SHORT_SIDE / min(frame.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return finder.detect(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=method)).landmarks / scale


def _restored_face(
    frame: NDArray[np.uint8], landmarks: NDArray[np.float32], restorer: Restorer
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = restorer.size
    crop_from_frame = crop_from_display(landmarks, size)
    crop = cv2.warpAffine(frame, crop_from_frame, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)
    image = torch.from_numpy(crop[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.inference_mode():
        result = restorer.restore(image.to(restorer.device)).cpu().numpy()[0]
    face = np.clip((result.transpose(1, 2, 0)[..., ::-1] + 1) * 127.5, 0, 255).round()
    return face.astype(np.float64), crop_from_frame


def _paste(
    picture: NDArray[np.float64], face: NDArray[np.float64], crop_from_frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    size, shape = face.shape[0], (picture.shape[1], picture.shape[0])
    frame_from_crop = invert(crop_from_frame)
    warped = cv2.warpAffine(face, frame_from_crop, shape)
    mask = cv2.warpAffine(np.ones((size, size)), frame_from_crop, shape)
    inner = cv2.erode(mask, np.ones((2, 2), np.uint8))
    edge = max(1, int(math.sqrt(inner.sum())) // 20)
    centre = cv2.erode(inner, np.ones((2 * edge, 2 * edge), np.uint8))
    soft = cv2.GaussianBlur(centre, (2 * edge + 1, 2 * edge + 1), 0)[..., None]
    pasted: NDArray[np.float64] = soft * (inner[..., None] * warped) + (1 - soft) * picture
    return pasted


def _encode(pictures: list[Path], output: Path, rate: Fraction, config: RestoreConfig) -> None:
    options = {"crf": str(config.encode.crf if config.encode.crf is not None else 17), "preset": config.encode.speed}
    with av.open(str(output), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        for index, path in enumerate(pictures):
            picture = cv2.imread(str(path))
            if index == 0:
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(picture, format="bgr24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
