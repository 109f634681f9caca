from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vidrestore import inspection
from vidrestore.decode.samples import sample_frames
from vidrestore.types import Frame


def test_a_key_frame_that_several_places_lead_to_is_looked_at_once(
    face_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(sample_frames(face_clip, 1)))

    def samples(path: Path, count: int) -> Iterator[Frame]:
        yield from [first, first, replace(first, pts=first.pts + 1), first]

    monkeypatch.setattr(inspection, "sample_frames", samples)
    assert inspection.probe(face_clip).sampled_frames == 2
