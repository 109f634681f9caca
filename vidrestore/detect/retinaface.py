"""RetinaFace in plain torch: faces with five points, many pictures at a time.

Figure:
    BGR pictures (B, 3, H, W), 0..255 less a mean colour
    -> body: ResNet-50 (512, 1024, 2048 channels) or MobileNet at quarter width (64, 128, 256), at strides 8, 16, 32
    -> feature pyramid: 1 x 1 to one width, the coarser level doubled and added, 3 x 3
    -> context (SSH): 3 x 3, two 3 x 3 and three 3 x 3 side by side on each level
    -> heads 1 x 1: for two anchors at each place a class, a box and five points, relative to the anchor
    -> decode, threshold, greedy suppression.

Paper:
    Deng et al.: RetinaFace: Single-stage Dense Face Localisation in the Wild, 2020, section 3; without its mesh
    branch. Context modules: Najibi et al.: SSH: Single Stage Headless Face Detector, 2017.

Range:
    Pictures of any size, BGR uint8. Anchors span 16 to 512 pixels, so faces far outside of that are missed;
    the published pipelines first scale the short side to 640.

Weights:
    ``detection_Resnet50_Final.pth`` and ``detection_mobilenet0.25_Final.pth`` of facexlib v0.1.0 or CodeFormer
    v0.1.0: flat, with ``module.`` before every key. Parameter names are those of the files.

Precision:
    float32; bfloat16 and float16 in the network (weights cast). Scores and coordinates are decoded in float32.

Licence:
    The files are published by facexlib (MIT) and by CodeFormer (S-Lab License 1.0, non-commercial). This code is
    written anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vidrestore.errors import VidrestoreError, WeightsError
from vidrestore.types import Detections

__all__ = [
    "MOBILENET",
    "RESNET50",
    "RetinaFace",
    "RetinaFaceDims",
    "RetinaFaceFinder",
    "anchors",
    "decode_boxes",
    "decode_landmarks",
    "load_retinaface",
    "suppress",
]

STRIDES = (8, 16, 32)
"""Pixels between neighbouring places of each level."""
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))
"""Sides of the square anchors of each level in pixels."""
VARIANCES = (0.1, 0.2)
"""Units of the predicted offsets and of the predicted log sizes; fixed by the published weights."""
MEAN_BGR = (104.0, 117.0, 123.0)
"""Subtracted from 0..255; the ImageNet mean that the published weights were trained with."""

_ANCHORS_PER_PLACE = 2
_RESNET50_BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True, slots=True)
class RetinaFaceDims:
    """The numbers that fix the layout of a :class:`RetinaFace`."""

    body: Literal["resnet50", "mobilenet"]
    """Which trunk."""
    body_channels: int
    """Channels of the trunk's first convolution: 64 and 8 as published."""
    width: int
    """Channels of the feature pyramid: 256 and 64 as published."""

    @property
    def slope(self) -> float:
        """Slope of the leaky ReLU in pyramid and context: 0.1 up to a width of 64, else 0 (a plain ReLU)."""
        return 0.1 if self.width <= 64 else 0.0

    @property
    def level_channels(self) -> tuple[int, int, int]:
        """Channels of the trunk at strides 8, 16 and 32."""
        factors = (8, 16, 32)
        first, second, third = (self.body_channels * factor for factor in factors)
        return first, second, third


RESNET50 = RetinaFaceDims("resnet50", body_channels=64, width=256)
"""``detection_Resnet50_Final.pth``, 27.3 M parameters."""
MOBILENET = RetinaFaceDims("mobilenet", body_channels=8, width=64)
"""``detection_mobilenet0.25_Final.pth``, 0.43 M parameters."""


class Predictions(NamedTuple):
    """What the heads say about each of N anchors."""

    logits: Tensor
    """(B, N, 2): background, face."""
    boxes: Tensor
    """(B, N, 4): offset of the centre, log ratio of the sides; see :func:`decode_boxes`."""
    landmarks: Tensor
    """(B, N, 10): offsets of five points; see :func:`decode_landmarks`."""


class Bottleneck(nn.Module):
    """ResNet's 1 x 1, 3 x 3 (with the stride), 1 x 1 beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        out_channels = 4 * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 * channels, H / stride, W / stride)."""
        h = functional.relu(self.bn1(self.conv1(x)))
        h = functional.relu(self.bn2(self.conv2(h)))
        h = self.bn3(self.conv3(h))
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return functional.relu(shortcut + h)


class ResNet50Body(nn.Module):
    """ResNet-50 without its classifier: features at strides 8, 16, 32."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, base, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        stages: list[nn.Sequential] = []
        channels = base
        for level, count in enumerate(_RESNET50_BLOCKS):
            inner = base * 2**level
            blocks = [Bottleneck(channels, inner, stride=1 if level == 0 else 2)]
            blocks += [Bottleneck(4 * inner, inner) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            channels = 4 * inner
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> 8, 16 and 32 times the base channels at H / 8, H / 16, H / 32."""
        h = functional.relu(self.bn1(self.conv1(x)))
        h = self.layer1(functional.max_pool2d(h, 3, stride=2, padding=1))
        fine = self.layer2(h)
        middle = self.layer3(fine)
        return fine, middle, self.layer4(middle)


class MobileNetBody(nn.Module):
    """MobileNet (first version) without its classifier: features at strides 8, 16, 32."""

    def __init__(self, base: int) -> None:
        super().__init__()
        b = base
        self.stage1 = nn.Sequential(
            _conv_bn(3, b, 3, stride=2, slope=0.1),
            _separable(b, 2 * b, stride=1),
            _separable(2 * b, 4 * b, stride=2),
            _separable(4 * b, 4 * b, stride=1),
            _separable(4 * b, 8 * b, stride=2),
            _separable(8 * b, 8 * b, stride=1),
        )
        self.stage2 = nn.Sequential(
            _separable(8 * b, 16 * b, stride=2), *(_separable(16 * b, 16 * b, stride=1) for _ in range(5))
        )
        self.stage3 = nn.Sequential(
            _separable(16 * b, 32 * b, stride=2),
            _separable(32 * b, 32 * b, stride=1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) -> 8, 16 and 32 times the base channels at H / 8, H / 16, H / 32."""
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)


class FeaturePyramid(nn.Module):
    """Brings the three levels to one width and hands the coarse ones' context down."""

    def __init__(self, channels: tuple[int, int, int], width: int, slope: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv_bn(c, width, 1, slope=slope) for c in channels)
        self.merge1 = _conv_bn(width, width, 3, slope=slope)
        self.merge2 = _conv_bn(width, width, 3, slope=slope)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three maps of different channels -> three maps of ``width`` channels."""
        p1, p2, p3 = self.output1(fine), self.output2(middle), self.output3(coarse)
        p2 = self.merge2(p2 + functional.interpolate(p3, size=p2.shape[-2:], mode="nearest"))
        p1 = self.merge1(p1 + functional.interpolate(p2, size=p1.shape[-2:], mode="nearest"))
        return p1, p2, p3


class ContextModule(nn.Module):
    """Receptive fields of 3, 5 and 7 pixels side by side, out of stacked 3 x 3 convolutions (SSH)."""

    def __init__(self, width: int, slope: float) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.conv3X3 = _conv_bn(width, half, 3)
        self.conv5X5_1 = _conv_bn(width, quarter, 3, slope=slope)
        self.conv5X5_2 = _conv_bn(quarter, quarter, 3)
        self.conv7X7_2 = _conv_bn(quarter, quarter, 3, slope=slope)
        self.conv7x7_3 = _conv_bn(quarter, quarter, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        shared = self.conv5X5_1(x)
        seven = self.conv7x7_3(self.conv7X7_2(shared))
        return functional.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(shared), seven], dim=1))


class Head(nn.Module):
    """A 1 x 1 convolution whose channels are read as (anchors, values)."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, _ANCHORS_PER_PLACE * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, H * W * anchors, values), row by row."""
        flat: Tensor = self.conv1x1(x).permute(0, 2, 3, 1)  # (B, H, W, anchors * values)
        return flat.reshape(x.shape[0], -1, self.values)


class RetinaFace(nn.Module):
    """The network alone: prepared pictures in, predictions for each anchor out."""

    def __init__(self, dims: RetinaFaceDims = RESNET50) -> None:
        super().__init__()
        self.dims = dims
        base, width, slope = dims.body_channels, dims.width, dims.slope
        self.body = ResNet50Body(base) if dims.body == "resnet50" else MobileNetBody(base)
        self.fpn = FeaturePyramid(dims.level_channels, width, slope)
        self.ssh1, self.ssh2, self.ssh3 = (ContextModule(width, slope) for _ in STRIDES)
        self.ClassHead = nn.ModuleList(Head(width, 2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(width, 4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(Head(width, 10) for _ in STRIDES)

    def forward(self, images: Tensor) -> Predictions:
        """(B, 3, H, W) BGR, 0..255 less ``MEAN_BGR`` -> predictions in the order of :func:`anchors`, float32."""
        levels = self.fpn(*self.body(images.to(next(self.parameters()).dtype)))
        levels = [context(x) for context, x in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        return Predictions(
            *(
                torch.cat([head(x) for head, x in zip(heads, levels, strict=True)], dim=1).float()
                for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
            )
        )


class RetinaFaceFinder:
    """Finds the faces of one picture or of a batch of pictures; a ``FaceFinder`` of the detect stage.

    Args:
        network: with its weights; switched to evaluation.
        device: where it runs.
        score_threshold: faces below it are dropped; 0.8 in CodeFormer's pipeline, 0.97 in facexlib's.
        overlap_threshold: of two boxes with a larger intersection over union the weaker is dropped; 0.4 as published.
        max_candidates: so many anchors of a picture, the best ones, go into suppression, whose cost is quadratic.
    """

    def __init__(
        self,
        network: RetinaFace,
        *,
        device: torch.device | str = "cpu",
        score_threshold: float = 0.8,
        overlap_threshold: float = 0.4,
        max_candidates: int = 1000,
    ) -> None:
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.score_threshold = score_threshold
        self.overlap_threshold = overlap_threshold
        self.max_candidates = max_candidates
        self._anchors: dict[tuple[int, int], Tensor] = {}

    def detect(self, picture: NDArray[np.uint8]) -> Detections:
        """Faces of an (H, W, 3) BGR picture, best first, in its own pixels; see ``detect_batch``."""
        return self.detect_batch([picture])[0]

    def detect_batch(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """The faces of each picture, best first, from one pass of the network.

        Args:
            pictures: (H, W, 3) uint8 BGR, all of one size.

        Returns:
            One :class:`Detections` per picture, in its own pixels.

        Raises:
            ValueError: the pictures differ in size or are not three channels of uint8.
            VidrestoreError: the network overflowed; its precision is too low.

        Convention:
            Coordinates are those that the published weights were trained to give. Their pipelines use them as
            positions of pixel centres, and so do we.
        """
        if not pictures:
            return []
        batch = _stack(pictures)
        with torch.inference_mode():
            candidates = self._candidates(torch.from_numpy(batch).to(self.device))
        scores, boxes, landmarks = (x.cpu().numpy() for x in candidates)
        if not all(np.isfinite(x).all() for x in (scores, boxes, landmarks)):
            raise VidrestoreError("the face detector's network gave NaN or infinity: run it in float32")
        keep = suppress(boxes, scores >= self.score_threshold, self.overlap_threshold)
        return [
            Detections(boxes[i][keep[i]], landmarks[i][keep[i]].reshape(-1, 5, 2), scores[i][keep[i]])
            for i in range(len(pictures))
        ]

    def _candidates(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, 3) uint8 -> scores (B, K), boxes (B, K, 4), landmarks (B, K, 10) of the K best anchors, sorted."""
        bgr = images.permute(0, 3, 1, 2).float()
        mean = torch.tensor(MEAN_BGR, device=self.device).reshape(1, 3, 1, 1)
        predictions: Predictions = self.network(bgr - mean)
        priors = self._anchors_of(images.shape[1], images.shape[2])
        scores = predictions.logits.softmax(-1)[..., 1]
        best = scores.topk(min(self.max_candidates, scores.shape[1]), dim=1)
        index = best.indices.unsqueeze(-1)  # (B, K, 1)
        boxes = predictions.boxes.gather(1, index.expand(-1, -1, 4))
        landmarks = predictions.landmarks.gather(1, index.expand(-1, -1, 10))
        near = priors[best.indices]  # (B, K, 4)
        return best.values, decode_boxes(boxes, near), decode_landmarks(landmarks, near)

    def _anchors_of(self, height: int, width: int) -> Tensor:
        key = height, width
        if key not in self._anchors:
            self._anchors[key] = torch.from_numpy(anchors(height, width)).to(self.device)
        return self._anchors[key]


def anchors(height: int, width: int) -> NDArray[np.float32]:
    """The squares that predictions are relative to, (N, 4): centre x, centre y, width, height in pixels.

    Order: levels from fine to coarse, places row by row, the smaller square first. A level has ceil(size / stride)
    places along a side.
    """
    levels = []
    for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True):
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
        centres = (np.stack([x, y], -1).reshape(-1, 1, 2) + 0.5) * stride
        squares = np.broadcast_to(np.array(sizes).reshape(1, -1, 1), (len(centres), len(sizes), 2))
        centres = np.broadcast_to(centres, squares.shape)
        levels.append(np.concatenate([centres, squares], -1).reshape(-1, 4))
    return np.concatenate(levels).astype(np.float32)


def decode_boxes(offsets: Tensor, priors: Tensor) -> Tensor:
    """Boxes xyxy in pixels from predictions (..., 4) and their anchors (..., 4).

    centre = anchor centre + 0.1 * offset * anchor side; side = anchor side * exp(0.2 * offset).
    """
    centres = priors[..., :2] + VARIANCES[0] * offsets[..., :2] * priors[..., 2:]
    halves = 0.5 * priors[..., 2:] * torch.exp(VARIANCES[1] * offsets[..., 2:])
    return torch.cat([centres - halves, centres + halves], dim=-1)


def decode_landmarks(offsets: Tensor, priors: Tensor) -> Tensor:
    """Five points x, y in pixels, (..., 10), from predictions (..., 10) and their anchors (..., 4)."""
    points = priors[..., None, :2] + VARIANCES[0] * offsets.reshape(*offsets.shape[:-1], 5, 2) * priors[..., None, 2:]
    return points.flatten(-2)


def suppress(boxes: NDArray[np.float32], valid: NDArray[np.bool_], threshold: float) -> NDArray[np.bool_]:
    """Which boxes remain where the best of those that overlap wins (greedy non-maximum suppression).

    All pictures of a batch are gone through side by side.

    Args:
        boxes: (B, K, 4) xyxy, each picture's best first.
        valid: (B, K); boxes that take no part are dropped.
        threshold: intersection over union above which the weaker box goes.

    Returns:
        (B, K) bool.
    """
    last = int(np.flatnonzero(valid.any(0)).max(initial=-1)) + 1  # beyond it nothing takes part in any picture
    keep = valid.copy()
    overlaps = _overlaps(boxes[:, :last].astype(np.float64)) > threshold  # (B, last, last)
    for i in range(last - 1):
        keep[:, i + 1 : last] &= ~(overlaps[:, i, i + 1 :] & keep[:, i, None])
    return keep


def load_retinaface(network: RetinaFace, state: Mapping[str, Any], *, source: str = "weights") -> None:
    """Gives the network the weights of a published file; a leading ``module.`` of the keys is taken off.

    Raises:
        WeightsError: a key is missing, unexpected, no tensor, of a wrong shape or not finite; the first one is named.
    """
    given = {key.removeprefix("module."): value for key, value in state.items()}
    own = network.state_dict()
    for key, expected in own.items():
        value = given.get(key)
        if not isinstance(value, Tensor):
            raise WeightsError(f"{source}: {key} is missing; is the file of the other body?")
        if value.shape != expected.shape:
            raise WeightsError(f"{source}: {key} has shape {tuple(value.shape)}, expected {tuple(expected.shape)}")
        if not value.is_meta and not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{source}: {key} holds NaN or infinity; the file is damaged")
    for key in given:
        if key not in own:
            raise WeightsError(f"{source}: {key} is unexpected; is the file of the other body?")
    ready = {key: given[key].to(expected.dtype) for key, expected in own.items()}
    network.load_state_dict(ready, assign=any(parameter.is_meta for parameter in network.parameters()))


def _overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each pair, (B, K, 4) -> (B, K, K)."""
    low = np.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = np.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = np.clip(high - low, 0.0, None).prod(-1)
    areas = np.clip(boxes[..., 2:] - boxes[..., :2], 0.0, None).prod(-1)
    union = areas[:, :, None] + areas[:, None, :] - common
    ratio: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0.0)
    return ratio


def _stack(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    for image in pictures:
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected pictures (H, W, 3) uint8, got {image.shape} {image.dtype}")
        if image.shape != pictures[0].shape:
            raise ValueError(f"pictures of one call must have one size, got {image.shape} beside {pictures[0].shape}")
    return np.stack(pictures)


def _conv_bn(
    in_channels: int, out_channels: int, size: int, *, stride: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution without bias, batch norm, and a leaky ReLU where a slope is given."""
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    if slope is not None:
        layers.append(nn.LeakyReLU(slope))
    return nn.Sequential(*layers)


def _separable(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution of each channel alone, then a 1 x 1 across channels, both normalised and activated."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(0.1),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1),
    )
