"""``vidrestore tracks``: people, measures, pictures and a sidecar that replays."""

from __future__ import annotations

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from vidrestore.cli import ExitStatus, main
from vidrestore.errors import EncodeError
from vidrestore.evaluate.draw import Curve, Panel, contact_sheet, draw_panels
from vidrestore.overview import FACES_KEPT, Overview, look_over
from vidrestore.sidecar import Sidecar


@pytest.fixture(scope="module")
def clip() -> Path:
    return Path(__file__).parent / "clips" / "faces.mkv"


@pytest.fixture(scope="module")
def found(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Overview, Path]:
    folder = tmp_path_factory.mktemp("tracks")
    overview = look_over(clip, output=folder / "tracks.json", pictures=folder / "pictures", checks_boxes=True)
    return overview, folder


def test_the_people_of_the_clip_are_told(found: tuple[Overview, Path]) -> None:
    overview = found[0]
    assert (overview.num_frames, overview.num_shots) == (75, 3)
    assert len(overview.people) == 3
    assert [person.shots for person in overview.people] == [(0,), (0,), (1,)]
    assert sum(person.num_frames for person in overview.people) == overview.num_faces >= 100
    for person in overview.people:
        assert 40 < person.width_px < 120
        assert person.jitter is not None
        assert person.identity_spread is not None


def test_the_detector_is_counted_and_compared(found: tuple[Overview, Path]) -> None:
    overview = found[0]
    assert 0 < overview.detections_per_frame <= 1
    assert overview.boxes_matched is not None
    assert overview.boxes_matched > 0.9


def test_pictures_can_be_opened_and_show_every_person(found: tuple[Overview, Path]) -> None:
    overview, folder = found
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names == {"tracks.png"} | {f"person_{person.id:03d}.png" for person in overview.people}
    plots = cv2.imread(str(folder / "pictures" / "tracks.png"))
    assert plots.shape[0] == 3 * 130
    assert set(overview.files) == {str(folder / "pictures" / name) for name in names} | {str(folder / "tracks.json")}


def test_the_sidecar_holds_tracks_and_measures(found: tuple[Overview, Path]) -> None:
    overview, folder = found
    sidecar = Sidecar(folder / "tracks.json")
    assert sum(len(frame.tracks) for frame in sidecar.frames()) == overview.num_faces
    assert sidecar.measures is not None
    assert sidecar.measures["detections_per_frame"] == overview.detections_per_frame
    assert len(sidecar.measures["people"]) == 3


def test_files_that_exist_are_kept(found: tuple[Overview, Path], clip: Path) -> None:
    with pytest.raises(EncodeError, match="exists already"):
        look_over(clip, output=found[1] / "tracks.json")


def test_the_command_prints_one_json_object(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, found: tuple[Overview, Path]
) -> None:
    monkeypatch.setattr("vidrestore.overview.look_over", lambda *_, **__: found[0])
    assert main(["tracks", str(clip), "--json"]) == ExitStatus.WHOLE
    told = json.loads(capsys.readouterr().out)
    assert [person["id"] for person in told["people"]] == [person.id for person in found[0].people]
    assert main(["tracks", str(clip)]) == ExitStatus.WHOLE
    out = capsys.readouterr()
    assert "75 frames, 3 shots, 3 people" in out.out
    assert "tracks.json" in out.err


def test_a_video_without_faces_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "empty.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(4):
            picture = av.VideoFrame.from_ndarray(np.full((72, 64), 90, np.uint8), format="yuv420p")
            picture.pts = index
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    overview = look_over(path, pictures=tmp_path / "p", checks_boxes=True)
    assert (overview.num_faces, overview.boxes_matched, overview.people) == (0, None, ())
    assert [p.name for p in (tmp_path / "p").iterdir()] == ["tracks.png"]


def test_a_video_that_is_none_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.mkv"
    path.write_bytes(b"nothing")
    assert main(["tracks", str(path), "-o", str(tmp_path / "t.json")]) == ExitStatus.INPUT
    assert [p.name for p in tmp_path.iterdir()] == ["bad.mkv"]


def test_a_line_is_broken_where_frames_are_missing() -> None:
    def ink(frames: list[int]) -> int:
        curve = Curve("x", np.array(frames), np.full(len(frames), 0.25))
        picture = draw_panels([[Panel("", (curve,), 0.0, 1.0)]], 100)
        return int((np.abs(picture.astype(int) - (40, 60, 200)).max(-1) < 80).sum())

    whole, broken = ink(list(range(100))), ink([*range(30), *range(70, 100)])
    assert 0.5 * whole < broken < 0.7 * whole


def test_curves_stay_in_their_panel() -> None:
    curve = Curve("x", np.arange(50), np.linspace(-900, 900, 50))
    assert draw_panels([[Panel("wild", (curve,), -1.0, 1.0)] * 2], 50).shape == (130, 840, 3)
    assert draw_panels([], 50).shape[2] == 3


def test_a_contact_sheet_shows_each_face_in_its_colours() -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 250
    sheet = contact_sheet([(i, red) for i in range(7)], "id 0", columns=4, side=50)
    assert (sheet == (0, 0, 250)).all(-1).sum() == 7 * 50 * 50


def test_pictures_kept_are_few_and_evenly_spread() -> None:
    from vidrestore.overview import _Person

    person = _Person()
    for index in range(1000):
        person.rows.append((index, 0, 1.0, 1.0, 1.0, 0))
        if person.wants_picture():
            person.keep(index, np.zeros((2, 2, 3), np.uint8))
    kept = [index for index, _ in person.faces]
    assert FACES_KEPT // 2 <= len(kept) <= FACES_KEPT
    assert len(set(np.diff(kept))) == 1
    assert kept[0] == 0
    assert kept[-1] > 800
