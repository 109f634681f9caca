"""What today's published face restoration scripts do to a video, as a baseline: small, plain and honest.

The whole input is decoded into a list; the detector runs on every frame at short side 640; one face at a time goes
through the network in fp32, batch 1, with a blocking copy back; a parsing network runs on every restored face and its
mask is blurred twice; a square mask is eroded and blurred, and the restored face is warped over the whole frame on the
CPU in float64, once per face; every result is written as a PNG, all are read back, then encoded. Nothing overlaps.

Network, weights, detector, frames and encoder settings are those of vidrestore, so that only the order differs. The
parsing network has seeded weights (no published ones come with the package): it costs what the published one costs, and
its mask, which means nothing, is then not used.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidrestore.config import RestoreConfig
from vidrestore.geometry import invert
from vidrestore.restoration.align import crop_from_display
from vidrestore.restoration.parsenet import ParseNet
from vidrestore.restoration.restorer import Restorer
from vidrestore.restoration.seeded import fill_seeded

SHORT_SIDE = 640
PARSING_SIZE = 512
BORDER = (135, 133, 132)  # BGR, outside the picture

Picture = NDArray[np.uint8]


def restore_in_reference_order(
    source: Path, output: Path, config: RestoreConfig, restorer: Restorer, *, parses: bool = True
) -> int:
    """Restores a clip and gives the number of faces."""
    import av  # a GPU machine that only times arrays need not have it

    from vidrestore.detect.yunet import YuNet

    with av.open(str(source)) as container:
        rate = container.streams.video[0].average_rate or Fraction(25)
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    finder = YuNet(config.detect.score_threshold)

    def find(index: int, picture: Picture) -> NDArray[np.float32]:
        scale = SHORT_SIDE / min(picture.shape[:2])
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return finder.detect(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)).landmarks / scale

    parser = load_parser(restorer.device) if parses else None
    with tempfile.TemporaryDirectory() as folder:
        num_faces = restore_pictures(frames, find, restorer, parser, Path(folder))
        _encode(sorted(Path(folder).glob("*.png")), output, Fraction(rate), config)
    return num_faces


def load_parser(device: torch.device) -> ParseNet:
    """The parsing network, with seeded weights."""
    with torch.device("meta"):
        network = ParseNet()
    return fill_seeded(network).to(device).eval().requires_grad_(False)


def restore_pictures(
    frames: Sequence[Picture],
    find: Callable[[int, Picture], NDArray[np.float32]],
    restorer: Restorer,
    parser: ParseNet | None,
    folder: Path,
) -> int:
    """From a list of decoded pictures to PNG files; gives the number of faces.

    Args:
        frames: (H, W, 3) BGR.
        find: (N, 5, 2) landmarks of a picture, by its index.
        restorer: the network.
        parser: the parsing network, or None for none.
        folder: where the files go.
    """
    num_faces = 0
    for index, frame in enumerate(frames):
        restored = frame.astype(np.float64)
        for landmarks in find(index, frame):
            face, crop_from_frame = _restored_face(frame, landmarks, restorer)
            if parser is not None:
                _parsed(face, parser, restorer.device)
            restored = paste(restored, face, crop_from_frame)
            num_faces += 1
        cv2.imwrite(f"{folder}/{index:08d}.png", np.clip(restored, 0, 255).astype(np.uint8))
    return num_faces


def _restored_face(
    frame: Picture, landmarks: NDArray[np.float32], restorer: Restorer
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    size = restorer.size
    crop_from_frame = crop_from_display(landmarks, size)
    crop = cv2.warpAffine(frame, crop_from_frame, (size, size), borderMode=cv2.BORDER_CONSTANT, borderValue=BORDER)
    image = torch.from_numpy(crop[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.inference_mode():
        result = restorer.restore(image.to(restorer.device)).cpu().numpy()[0]
    face = np.clip((result.transpose(1, 2, 0)[..., ::-1] + 1) * 127.5, 0, 255).round()
    return face.astype(np.float64), crop_from_frame


def _parsed(face: NDArray[np.float64], parser: ParseNet, device: torch.device) -> NDArray[np.float64]:
    """Labels of a restored face, as a soft mask of its size."""
    size = face.shape[0]
    whole = cv2.resize(face, (PARSING_SIZE, PARSING_SIZE), interpolation=cv2.INTER_LINEAR)
    image = torch.from_numpy(whole[..., ::-1].astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.inference_mode():
        labels = parser(image.to(device))[0].argmax(1)[0].cpu().numpy()
    mask = np.where(labels > 0, 255.0, 0.0)
    for _ in range(2):
        mask = cv2.GaussianBlur(mask, (101, 101), 11)
    mask[:10], mask[-10:], mask[:, :10], mask[:, -10:] = 0, 0, 0, 0
    soft: NDArray[np.float64] = cv2.resize(mask / 255.0, (size, size))
    return soft


def paste(
    picture: NDArray[np.float64], face: NDArray[np.float64], crop_from_frame: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A face warped over a whole picture, its square mask eroded and blurred; all in float64."""
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
    import av

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
