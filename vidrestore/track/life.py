"""How the effect on a face comes and goes."""

from __future__ import annotations

__all__ = ["strength_after"]


def strength_after(
    previous: float, index: int, last_seen: int, *, is_lost: bool, fade_frames: int, is_hidden: bool = False
) -> float:
    """Strength of a face in the next frame: one step of ``1 / fade_frames``, upwards while it stays.

    Args:
        previous: strength in the frame before; 0 for a face that appears, 1 for one with which a shot begins.
        index: the frame.
        last_seen: the last frame in which it was seen, which may lie ahead.
        is_lost: it will not be seen again.
        fade_frames: 0 switches at once.
        is_hidden: it is not seen in this frame but will, or may, be again: what hides it is not to be painted over.

    Returns:
        In [0, 1]; where a loss is known ahead it is one step in the last frame in which the face is seen.
    """
    if fade_frames == 0:
        return 0.0 if is_hidden or (is_lost and index > last_seen) else 1.0
    step = 1.0 / fade_frames
    leaves = is_hidden or (is_lost and index + fade_frames > last_seen + 1)
    strength = previous - step if leaves else min(previous + step, 1.0)
    return strength if strength > 1e-6 else 0.0
