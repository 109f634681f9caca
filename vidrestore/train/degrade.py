"""Makes clean faces bad, the way that cameras, tape, codecs and resizing do.

Two steps, so that one recipe can be used on several frames: :func:`draw_recipe` draws the numbers of one recording
chain, :func:`apply_recipe` runs a picture through it. Pictures are (H, W, 3) float32 RGB in [0, 1].

The chain:
    lens or motion blur -> sampling to the size that the face has in the video -> noise and grain -> tape chroma,
    interlacing, sharpening -> JPEG, H.264, MPEG-4 or MPEG-2 (a short clip, its last frame is kept), sometimes
    twice -> sampling to the crop as the pipeline does it: Catmull-Rom up, tent down.

Source:
    The blind chain of CodeFormer (Zhou et al. 2022, section 4: blur, downscale, noise, JPEG, upscale), with its
    numbers scaled from 512 to 256 pixels. Differences: video codecs and tape faults, order tweaks, mild recordings
    down to none at all, and the sub-pixel phase of the sampling grid is random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEVELS",
    "Codec",
    "Level",
    "Picture",
    "Recipe",
    "apply_recipe",
    "blur_deviations",
    "compress_jpeg",
    "compress_video",
    "degrade",
    "draw_recipe",
    "mpeg_quantiser",
    "recipe_kernel",
    "resample",
]

Picture = NDArray[np.float32]
"""(H, W, 3) RGB in [0, 1]."""

Codec = Literal["none", "jpeg", "h264", "mpeg4", "mpeg2"]
"""The compressions of a recipe."""
_ENCODERS = {"h264": "libx264", "mpeg4": "mpeg4", "mpeg2": "mpeg2video"}
_DECODERS = {"h264": "h264", "mpeg4": "mpeg4", "mpeg2": "mpeg2video"}

_LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
_YUV_FROM_RGB = np.stack(  # limited range: 219 steps of luma, 224 of chroma
    [
        219.0 * _LUMA,
        112.0 * (np.array([0, 0, 1]) - _LUMA) / (1 - 0.114),
        112.0 * (np.array([1, 0, 0]) - _LUMA) / (1 - 0.299),
    ]
).astype(np.float32)
_RGB_FROM_YUV = np.linalg.inv(_YUV_FROM_RGB.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Level:
    """The ranges of one severity; each pair is (lowest, highest), drawn uniformly if not said otherwise."""

    scale: tuple[float, float]
    """Crop size over the size that the face has in the video, log-uniform; below 1 the face is larger."""
    blur: tuple[float, float]
    """Standard deviation of the lens blur in video pixels."""
    noise: tuple[float, float]
    """Standard deviation of the noise on the scale of 8 bits."""
    jpeg: tuple[int, int]
    """JPEG quality."""
    crf: tuple[int, int]
    """x264's constant rate factor; the MPEG quantiser is derived from it."""
    fault: float
    """Probability of each of the rarer faults: tape chroma, interlacing, sharpening, motion, second generation."""


LEVELS: dict[str, Level] = {
    "light": Level((0.8, 1.6), (0.0, 0.6), (0.0, 4.0), (70, 95), (18, 27), 0.08),
    "medium": Level((1.5, 3.5), (0.0, 0.9), (0.0, 9.0), (45, 88), (22, 33), 0.15),
    "heavy": Level((3.0, 8.0), (0.0, 1.2), (0.0, 14.0), (30, 75), (24, 36), 0.2),
}
"""The severities that training mixes and that the reports are broken down by."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The drawn numbers of one recording chain; everything that two frames of one shot share. With no number but a size
    the picture is only resampled."""

    size: int
    """Side of the picture in the video, in pixels; even."""
    blur: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Standard deviations along and across, in video pixels, and the angle in radians."""
    motion_px: float = 0.0
    """Length of a straight motion blur in crop pixels; 0 is none."""
    kernel: Literal["box", "tent", "cubic", "lanczos"] = "cubic"
    """Filter of the camera's or scaler's way down."""
    noise: float = 0.0
    """Standard deviation on the scale of 8 bits."""
    grain: float = 0.0
    """Share of the noise that is correlated over neighbouring pixels, in [0, 1]."""
    chroma_noise: float = 1.0
    """How independent the noise of the three channels is, in [0, 1]; 0 is luma noise."""
    bleed_px: float = 0.0
    """Horizontal smear of the chroma, standard deviation in video pixels; 0 is none."""
    bleed_shift_px: float = 0.0
    """Horizontal displacement of the chroma in video pixels."""
    interlace: Literal["none", "comb", "bob"] = "none"
    """Fields woven from two moments, or one field with its lines doubled."""
    sharpen: float = 0.0
    """Gain of an unsharp mask; 0 is none."""
    codecs: tuple[tuple[Codec, int], ...] = ()
    """Compressions in order: codec and quality (JPEG) or rate factor."""
    late_noise: bool = False
    """The noise comes after the first compression (a recording of a broadcast)."""
    frames: int = 1
    """Length of the encoded clip; the last frame is kept."""
    drift_px: tuple[float, float] = (0.0, 0.0)
    """Motion per frame of the encoded clip, in video pixels."""


def draw_recipe(rng: np.random.Generator, level: Level, *, crop: int = 256) -> Recipe:
    """The numbers of one chain.

    Args:
        rng: source of randomness.
        level: ranges.
        crop: side of the crop that the recipe will be applied to, in pixels.
    """
    scale = math.exp(rng.uniform(math.log(level.scale[0]), math.log(level.scale[1])))
    size = max(16, 2 * round(crop / scale / 2))
    along = rng.uniform(*level.blur)
    across = along if rng.random() < 0.5 else rng.uniform(*level.blur)

    def fault() -> bool:
        return bool(rng.random() < level.fault)

    codecs = [_draw_codec(rng, level)]
    if fault():
        codecs.append(_draw_codec(rng, level))
    return Recipe(
        size=size,
        blur=(along, across, rng.uniform(0.0, math.pi)),
        motion_px=rng.uniform(2.0, 8.0) if fault() else 0.0,
        kernel=("box", "tent", "cubic", "lanczos")[rng.integers(4)],
        noise=rng.uniform(*level.noise) if rng.random() < 0.8 else 0.0,
        grain=rng.uniform(0.0, 1.0) if rng.random() < 0.5 else 0.0,
        chroma_noise=rng.uniform(0.0, 1.0),
        bleed_px=rng.uniform(1.0, 4.0) if fault() else 0.0,
        bleed_shift_px=rng.uniform(-1.0, 1.0),
        interlace=("none", "comb", "bob")[rng.integers(1, 3)] if fault() else "none",
        sharpen=rng.uniform(0.2, 1.2) if fault() else 0.0,
        codecs=tuple(codecs),
        late_noise=bool(rng.random() < 0.15),
        frames=int(rng.integers(1, 4)),
        drift_px=(rng.uniform(-1.5, 1.5), rng.uniform(-1.0, 1.0)),
    )


def _draw_codec(rng: np.random.Generator, level: Level) -> tuple[Codec, int]:
    names: tuple[Codec, ...] = ("none", "jpeg", "h264", "mpeg4", "mpeg2")
    codec = names[rng.choice(5, p=(0.08, 0.32, 0.42, 0.06, 0.12))]
    low, high = level.jpeg if codec == "jpeg" else level.crf
    return codec, int(rng.integers(low, high + 1))


def degrade(picture: Picture, level: Level, rng: np.random.Generator) -> Picture:
    """Draws a recipe of a level and applies it; see :func:`apply_recipe`."""
    return apply_recipe(picture, draw_recipe(rng, level, crop=picture.shape[0]), rng)


def apply_recipe(picture: Picture, recipe: Recipe, rng: np.random.Generator) -> Picture:
    """The square picture after its way through the chain, on its old grid.

    Args:
        picture: (S, S, 3) RGB in [0, 1].
        recipe: the chain. Two calls with one recipe and other random numbers are two frames of one shot.
        rng: source of the noise and of the sampling grid's sub-pixel phase.

    Returns:
        (S, S, 3) RGB in [0, 1], aligned with the input: no shift of its content, whatever the phase was.

    Raises:
        ValueError: the picture is not square.
    """
    side = picture.shape[0]
    if picture.ndim != 3 or picture.shape[1] != side or picture.shape[2] != 3:
        raise ValueError(f"expected a picture of shape (S, S, 3), got {picture.shape}")
    phase = rng.uniform(-0.5, 0.5, 2)  # in video pixels
    step = side / recipe.size
    small = resample(_blur(picture, recipe, step), recipe.size, step, phase * step, recipe.kernel)
    noise_at = 1 if recipe.late_noise else 0
    for i in range(len(recipe.codecs) + 1):
        if i == noise_at:
            small = _tape(_add_noise(small, recipe, rng), recipe)
        if i < len(recipe.codecs):
            small = _compress(small, recipe, *recipe.codecs[i])
    kernel: Literal["catmull-rom", "tent"] = "catmull-rom" if step >= 1.0 else "tent"
    return np.clip(resample(small, side, 1.0 / step, -phase, kernel), 0.0, 1.0)


def resample(
    picture: Picture,
    size: int,
    step: float,
    offset: NDArray[np.float64] | tuple[float, float],
    kernel: Literal["box", "tent", "cubic", "lanczos", "catmull-rom"],
) -> Picture:
    """The picture sampled on another grid, separably, with the filter widened where the grid is coarser.

    Args:
        picture: (H, W, 3).
        size: side of the result.
        step: source pixels per pixel of the result.
        offset: (x, y) displacement of the grid in source pixels.
        kernel: the filter. ``cubic`` is Keys' with a = -0.75 (OpenCV's), ``catmull-rom`` with a = -0.5.

    Convention:
        Pixel i of the result has its centre at ``(i + 0.5) * step - 0.5 + offset`` of the source. Outside the
        picture there is nothing: the weights inside are normalised.
    """
    rows = _weights(size, picture.shape[0], step, float(offset[1]), kernel)
    columns = _weights(size, picture.shape[1], step, float(offset[0]), kernel)
    tall = rows @ picture.reshape(picture.shape[0], -1)  # (size, W * 3)
    return np.asarray(np.matmul(columns, tall.reshape(size, picture.shape[1], 3)), dtype=np.float32)


def _weights(size: int, length: int, step: float, offset: float, kernel: str) -> NDArray[np.float32]:
    centres = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(step) - 0.5 + np.float32(offset)
    stretch = np.float32(max(1.0, step))
    x = np.abs((np.arange(length, dtype=np.float32)[None] - centres[:, None]) / stretch)
    if kernel == "box":
        w = np.clip(0.5 + (0.5 - x) * stretch, 0.0, 1.0)  # exact cover of a pixel by the box
    elif kernel == "tent":
        w = np.maximum(0.0, 1.0 - x)
    elif kernel == "lanczos":
        w = np.where(x < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)
    else:
        a = -0.5 if kernel == "catmull-rom" else -0.75
        near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        far = ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
        w = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    total = w.sum(1, keepdims=True)
    return np.asarray(w / np.where(np.abs(total) < 1e-6, 1.0, total), dtype=np.float32)


def _blur(picture: Picture, recipe: Recipe, step: float) -> Picture:
    along, across = blur_deviations(recipe, step)
    if max(along, across) < 0.2:
        return picture
    if abs(along - across) < 1e-9:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), along, borderType=cv2.BORDER_REFLECT_101))
    kernel = recipe_kernel(recipe, step)
    return np.asarray(cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def blur_deviations(recipe: Recipe, step: float) -> tuple[float, float]:
    """Standard deviations of a recipe's blur along and across, in crop pixels, with the motion blur in the first.

    Args:
        recipe: the chain.
        step: crop pixels per video pixel.
    """
    along, across = (deviation * max(step, 1.0) for deviation in recipe.blur[:2])
    if recipe.motion_px > 0.0:
        along = math.hypot(along, recipe.motion_px / math.sqrt(12.0))  # deviation of a box
    return along, across


def recipe_kernel(recipe: Recipe, step: float) -> NDArray[np.float32]:
    """(K, K) blur kernel of a recipe, K odd, of sum 1; (1, 1) where there is no blur.

    Args:
        recipe: the chain.
        step: crop pixels per video pixel.
    """
    along, across = blur_deviations(recipe, step)
    if max(along, across) < 0.2:
        return np.ones((1, 1), np.float32)
    if abs(along - across) < 1e-9:
        line = cv2.getGaussianKernel(round(along * 8 + 1) | 1, along, cv2.CV_32F)  # GaussianBlur's own length
        return np.asarray(line @ line.T, dtype=np.float32)
    radius = min(20, math.ceil(2.5 * max(along, across)))  # CodeFormer's kernel of 41 taps at most
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    angle = recipe.blur[2]
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    kernel = np.exp(-0.5 * ((u / max(along, 0.2)) ** 2 + (v / max(across, 0.2)) ** 2))
    return np.asarray(kernel / kernel.sum(), dtype=np.float32)


def _add_noise(picture: Picture, recipe: Recipe, rng: np.random.Generator) -> Picture:
    if recipe.noise <= 0.0:
        return picture
    shape = picture.shape
    common = rng.standard_normal((shape[0], shape[1], 1), dtype=np.float32)
    own = rng.standard_normal(shape, dtype=np.float32)
    k = recipe.chroma_noise
    noise = (common * (1.0 - k) + own * k) / math.hypot(1.0 - k, k)
    if recipe.grain > 0.0:
        coarse = np.asarray(cv2.GaussianBlur(noise, (0, 0), 0.8), dtype=np.float32)
        coarse /= max(float(coarse.std()), 1e-6)
        noise = noise * (1.0 - recipe.grain) + coarse * recipe.grain
        noise /= max(float(noise.std()), 1e-6)
    return np.clip(picture + noise * np.float32(recipe.noise / 255.0), 0.0, 1.0).astype(np.float32)


def _tape(picture: Picture, recipe: Recipe) -> Picture:
    if recipe.bleed_px > 0.0:
        luma, chroma = _split(picture)
        smeared = cv2.GaussianBlur(chroma, (0, 0), sigmaX=recipe.bleed_px, sigmaY=0.3)
        move = np.array([[1.0, 0.0, recipe.bleed_shift_px], [0.0, 1.0, 0.0]])
        size = (picture.shape[1], picture.shape[0])
        smeared = cv2.warpAffine(smeared, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        picture = np.asarray(np.clip(luma + smeared, 0.0, 1.0), dtype=np.float32)
    if recipe.interlace != "none":
        picture = _interlace(picture, recipe)
    if recipe.sharpen > 0.0:
        soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
        picture = np.asarray(np.clip(picture + recipe.sharpen * (picture - soft), 0.0, 1.0), dtype=np.float32)
    return picture


def _split(picture: Picture) -> tuple[Picture, Picture]:
    """Luma (H, W, 1), Rec. 601, and the colour that remains, (H, W, 3)."""
    luma = picture @ np.array([[0.299], [0.587], [0.114]], np.float32)
    return luma, picture - luma


def _interlace(picture: Picture, recipe: Recipe) -> Picture:
    out = picture.copy()
    if recipe.interlace == "bob":
        out[1:-1:2] = (picture[0:-2:2] + picture[2::2]) / 2
        return out
    move = np.array([[1.0, 0.0, recipe.drift_px[0]], [0.0, 1.0, recipe.drift_px[1]]])
    size = (picture.shape[1], picture.shape[0])
    other = cv2.warpAffine(picture, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    out[1::2] = other[1::2]
    return out


def _compress(picture: Picture, recipe: Recipe, codec: Codec, quality: int) -> Picture:
    if codec == "none":
        return _to_bytes(picture).astype(np.float32) / np.float32(255.0)
    if codec == "jpeg":
        return compress_jpeg(picture, quality)
    clip = [_drift(picture, recipe, i - recipe.frames + 1) for i in range(recipe.frames)]
    return compress_video(clip, codec, quality)


def _drift(picture: Picture, recipe: Recipe, frames: int) -> Picture:
    if frames == 0:
        return picture
    move = np.array([[1.0, 0.0, frames * recipe.drift_px[0]], [0.0, 1.0, frames * recipe.drift_px[1]]])
    size = (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.warpAffine(picture, move, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


def _to_bytes(picture: Picture) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(picture, 0.0, 1.0) * 255.0), dtype=np.uint8)


def compress_jpeg(picture: Picture, quality: int) -> Picture:
    """The picture after JPEG with 4:2:0 chroma.

    Args:
        picture: (H, W, 3) RGB in [0, 1].
        quality: 1 to 100.
    """
    ok, data = cv2.imencode(".jpg", _to_bytes(picture)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    if not ok:  # only for arrays that cannot be a picture
        raise ValueError(f"JPEG cannot hold a picture of shape {picture.shape}")
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.float32)
    return decoded[..., ::-1] / np.float32(255.0)


def compress_video(clip: list[Picture], codec: Literal["h264", "mpeg4", "mpeg2"], crf: int) -> Picture:
    """The last frame of a clip after video compression with 4:2:0 chroma.

    Args:
        clip: (H, W, 3) RGB pictures of one even size, in [0, 1].
        codec: H.264 (x264, preset superfast), MPEG-4 part 2 or MPEG-2.
        crf: x264's constant rate factor; for the MPEG codecs the quantiser is ``2 ** ((crf - 12) / 6)``, as one
            step of six doubles it in H.264, within 2 to 31.

    Returns:
        (H, W, 3) RGB in [0, 1].
    """
    import av  # here alone: batches on a device (degrade_batch) are made where there is no PyAV

    height, width = clip[0].shape[:2]
    encoder = av.CodecContext.create(_ENCODERS[codec], "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.thread_count = 1
    if codec == "h264":
        encoder.options = {"preset": "superfast", "crf": str(crf), "tune": "zerolatency"}
    else:
        quantiser = str(mpeg_quantiser(crf))
        encoder.options = {"qmin": quantiser, "qmax": quantiser, "bf": "0"}
    decoder = av.CodecContext.create(_DECODERS[codec], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    packets = []
    for i, picture in enumerate(clip):
        frame = av.VideoFrame.from_ndarray(_to_yuv420(picture), format="yuv420p")
        frame.pts, frame.time_base = i, Fraction(1, 25)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    return _from_yuv420(np.asarray(frames[-1].to_ndarray(), dtype=np.uint8), height)


def mpeg_quantiser(crf: int) -> int:
    """The quantiser of the MPEG codecs for one of x264's rate factors; see :func:`compress_video`."""
    return int(np.clip(round(2 ** ((crf - 12) / 6)), 2, 31))


def _to_yuv420(picture: Picture) -> NDArray[np.uint8]:
    """(H * 3 / 2, W) planes, limited range, Rec. 601, rounded: swscale's quick path darkens by half a step."""
    height, width = picture.shape[:2]
    yuv = picture @ _YUV_FROM_RGB.T
    chroma = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3)) + 128.0
    planes = [yuv[..., 0] + 16.0, *np.moveaxis(chroma, 2, 0)]
    return np.asarray(np.rint(np.concatenate([p.ravel() for p in planes])), dtype=np.uint8).reshape(-1, width)


def _from_yuv420(planes: NDArray[np.uint8], height: int) -> Picture:
    width = planes.shape[1]
    luma = planes[:height].astype(np.float32) - 16.0
    chroma = planes[height:].reshape(2, height // 2, width // 2).astype(np.float32) - 128.0
    fine = [cv2.resize(c, (width, height), interpolation=cv2.INTER_LINEAR) for c in chroma]
    rgb = np.stack([luma, *fine], -1) @ _RGB_FROM_YUV.T
    return np.clip(rgb, 0.0, 1.0).astype(np.float32)
