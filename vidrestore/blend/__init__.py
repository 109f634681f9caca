"""Restored faces put back into their frames."""

from vidrestore.blend.compositor import Compositor

__all__ = ["Compositor"]
