from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from vidrestore.encode.codecs import quiet_encoder


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="real-time scheduling is looked at on Linux")
def test_av1_leaves_no_thread_in_real_time_scheduling() -> None:
    """As root SVT-AV1 makes the opening thread and its own urgent, and the machine stands still around them."""
    context = av.CodecContext.create("libsvtav1", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = context.height = 64
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.options = {"preset": "10"}
    with quiet_encoder("av1"):
        context.open()
    frame = av.VideoFrame(64, 64, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    packets = context.encode(frame)
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    policies = {os.sched_getscheduler(thread) for thread in threads}
    packets += context.encode(None)
    assert len(packets) == 1
    assert policies == {os.SCHED_OTHER}
