"""The stage: frames in, persons out, each with an id, steady points and a strength that fades.

Two trackers stand behind the same two verbs. :class:`vidrestore.track.mesh.MeshTracker` carries a 3D face from frame to
frame and asks the detector on key frames only; :class:`vidrestore.track.points.PointTracker` joins the five points of a
detector that looks all the time. Frames come out ``lookahead`` frames after they went in, or at a shot's end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from vidrestore.config import TrackOptions
from vidrestore.track.bfm import BfmReader, BfmSource
from vidrestore.track.face import FaceReader
from vidrestore.track.given import GivenBoxes
from vidrestore.track.mesh import MeshTracker, ShapeReader
from vidrestore.track.points import PointTracker
from vidrestore.types import Detections, Frame, StreamInfo, TrackedFrame

__all__ = ["Tracker", "make_tracker"]


class Tracker(Protocol):
    """Follows persons through frames and decides when the detector looks."""

    def update(self, frame: Frame, look: Callable[[Frame], Detections], *, spacing: int = 1) -> list[TrackedFrame]:
        """Takes the next frame; gives the frames, oldest first, about which nothing more will be learned.

        Args:
            frame: frames must come in order, every index one above the last.
            look: finds the faces of a frame, in display pixels; called for this frame or one that still waits, not for
                every one. It must stay usable until :meth:`flush`.
            spacing: by how much the detector's looks are to be further apart than the options say, for a machine that
                cannot keep up.
        """
        ...

    def flush(self) -> list[TrackedFrame]:
        """Gives all frames that still wait (the shot or the clip is over) and forgets everybody."""
        ...


def make_tracker(
    options: TrackOptions,
    info: StreamInfo,
    *,
    every: int = 1,
    device: torch.device | str = "cpu",
    given: GivenBoxes | None = None,
    bfm: BfmSource | None = None,
) -> Tracker:
    """The tracker that the options name.

    Args:
        options: method and thresholds.
        info: the stream that the frames come from.
        every: ``detect.every``, for the five-point tracker and for faces that the 3D model does not fit.
        device: where the network runs; the regressor goes there where it is a CUDA device, else on the CPU.
        given: boxes by frame index that count as faces where the detector finds none.
        bfm: regressor and model, for ``options.model`` ``bfm``.

    Raises:
        ValueError: ``bfm`` is wanted and not given.
        WeightsError: a file of the package is missing or damaged.
    """
    if options.method == "points":
        return PointTracker(options, every, given)
    place = torch.device(device)
    place = place if place.type == "cuda" else torch.device("cpu")
    reader: ShapeReader
    if options.model == "bfm":
        if bfm is None:
            raise ValueError("track.model = 'bfm' wants the regressor and the model that pipeline.load_bfm reads")
        reader = BfmReader(info, bfm, place)
    else:
        reader = FaceReader(info, place)
    return MeshTracker(options, reader, (info.width, info.height), every=every, given=given)
