"""How much a face trembles in time: what changes from frame to frame that did not move there.

Two measures. :func:`flicker` follows the face by its mesh, so that motion and expression do not count; it is what goal
and benchmark speak of. :func:`warp_error` follows any picture by the optical flow of a reference and needs no mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidrestore.evaluate.texture import Unwrapping

__all__ = ["flicker", "flicker_of_frames", "warp_error"]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CONSISTENT_PX = 1.0  # forward and backward flow may differ by so much where the flow is trusted
_TRUSTED_CHANGE = 24.0  # of 255: where the reference itself changes more under its own flow, the flow is wrong


def flicker_of_frames(
    pictures: Iterable[NDArray[np.generic]],
    meshes: Iterable[NDArray[np.floating] | None],
    unwrapping: Unwrapping,
    masks: Iterable[NDArray[np.bool_] | None] | None = None,
) -> list[float | None]:
    """Change of a face's texture from each frame to the next.

    Args:
        pictures: (H, W, 3) RGB or (H, W), one a frame.
        meshes: (V, 2) or (V, 3) in the picture's pixels; None where the face is not there or a shot begins anew.
        unwrapping: lays the face flat.
        masks: (S, S) True where the texture counts, one a frame; None where all of it does.

    Returns:
        For each frame but the first the mean absolute difference of luma over what both frames show, on the pictures'
        scale (levels of 255 for 8-bit ones); None where one of the two has no face or they share too little.
    """
    changes: list[float | None] = []
    before: tuple[NDArray[np.float32], NDArray[np.bool_]] | None = None
    for number, (picture, mesh, mask) in enumerate(zip(pictures, meshes, masks or _always(), strict=masks is not None)):
        now = None
        if mesh is not None:
            values, usable = unwrapping.texture(_grey(picture), mesh)
            now = values[..., 0], usable if mask is None else usable & mask
        if number:
            changes.append(_change(before, now))
        before = now
    return changes


def _always() -> Iterable[None]:
    while True:
        yield None


def _change(
    before: tuple[NDArray[np.float32], NDArray[np.bool_]] | None,
    now: tuple[NDArray[np.float32], NDArray[np.bool_]] | None,
) -> float | None:
    if before is None or now is None:
        return None
    both = before[1] & now[1]
    if both.sum() < 0.1 * both.size:  # a tenth of the texture: less is a rim that says nothing
        return None
    return float(np.abs(now[0] - before[0])[both].mean())


def flicker(
    pictures: Iterable[NDArray[np.generic]],
    meshes: Iterable[NDArray[np.floating] | None],
    unwrapping: Unwrapping,
    masks: Iterable[NDArray[np.bool_] | None] | None = None,
) -> float:
    """Mean of :func:`flicker_of_frames`; NaN where no two frames could be compared.

    What a clean picture of the same motion has is not 0: sampling, light on a turning head and an imperfect mesh are in
    it. The *excess*, the flicker less that of the clean pictures under the same meshes, is what a restoration adds.
    """
    known = [value for value in flicker_of_frames(pictures, meshes, unwrapping, masks) if value is not None]
    return float(np.mean(known)) if known else float("nan")


def warp_error(
    pictures: Sequence[NDArray[np.uint8]],
    reference: Sequence[NDArray[np.uint8]],
    masks: Sequence[NDArray[np.bool_]] | None = None,
) -> float:
    """Mean absolute difference of luma between each frame and the one before, moved by the reference's optical flow.

    Args:
        pictures: F of (H, W, 3) RGB uint8.
        reference: F of the same size, with the same motion: the clean or the source's frames.
        masks: F of (H, W), True where it counts; None: everywhere.

    Returns:
        On the scale of 0 to 255; NaN where the flow could be trusted nowhere.

    Source:
        Lai et al.: Learning Blind Video Temporal Consistency, ECCV 2018, section 4.2; there with FlowNet2 and squared
        differences, here with DIS flow (Kroeger et al., ECCV 2016) and absolute ones, which are read in levels.
    """
    if len(pictures) != len(reference):
        raise ValueError(f"{len(pictures)} pictures and {len(reference)} of the reference")
    engine: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    total, count = 0.0, 0
    for i in range(1, len(pictures)):
        old, new = (np.rint(_grey(reference[k])).astype(np.uint8) for k in (i - 1, i))
        back, forth = engine.calc(new, old, None), engine.calc(old, new, None)
        ok = _consistent(back, forth)
        moved = _moved(_grey(reference[i - 1]), back)
        ok &= np.abs(moved - _grey(reference[i])) < _TRUSTED_CHANGE
        if masks is not None:
            ok &= masks[i]
        difference = np.abs(_grey(pictures[i]) - _moved(_grey(pictures[i - 1]), back))
        total, count = total + float(difference[ok].sum()), count + int(ok.sum())
    return total / count if count else float("nan")


def _consistent(back: NDArray[np.float32], forth: NDArray[np.float32]) -> NDArray[np.bool_]:
    returned = _moved(forth, back)
    return np.asarray(np.linalg.norm(back + returned, axis=-1) < _CONSISTENT_PX)


def _moved(values: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values of the old frame, brought to the pixels of the new one: ``flow`` leads from the new frame to the old."""
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32)
    return np.asarray(
        cv2.remap(values, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _grey(picture: NDArray[np.generic]) -> NDArray[np.float32]:
    image = np.asarray(picture, np.float32)
    return image if image.ndim == 2 else np.asarray(image[..., :3] @ _LUMA)
