"""What a small CodeFormer has learned: codes, ablation, pictures and curves, stage by stage.

    python benchmarks/codeformer_small.py --faces data/faces --runs runs [--folder docs/images]

``--runs`` holds ``codeformer_small_1`` to ``_3``, which the shipped configurations ``codeformer_small_stage1`` to
``3`` leave; what was not trained yet is left out. Faces are the first 128 of the folder, which training never saw, each
degraded once per level with a fixed seed. Ways to find the codes, after the paper's ablation of its transformer:

    stage I, nearest       the autoencoder of stage I is handed the degraded face
    tuned, nearest         the encoder of stage II, and the nearest entry of its latents
    transformer            stage II: what the transformer predicts
    transformer, joint     the same after stage III

The truth is what stage I sees in the clean face. Beside them: how often the code that is most frequent at a place
among 512 training faces is right, which is what can be known without looking. Pictures are compared at w = 0, without
AdaIN as in training, and for stage III also at w = 0.5 and 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from common import write_report
from torch import Tensor

from vidrestore.errors import WeightsError
from vidrestore.evaluate.perceptual import ShiftTolerantLpips
from vidrestore.restoration.codeformer import CodeFormer
from vidrestore.restoration.vqgan import VQAutoencoder
from vidrestore.train.codeformer import load_network, psnr
from vidrestore.train.data import FaceCache, list_images, to_tensor
from vidrestore.train.paper_degrade import BlindLevel, degrade_blind

LEVELS = {
    "light": BlindLevel((0.1, 0.5), (1.0, 1.5), (0.0, 5.0), (70.0, 80.0), 21),
    "medium": BlindLevel((0.5, 1.0), (2.0, 3.0), (5.0, 10.0), (50.0, 70.0), 21),
    "heavy": BlindLevel((1.0, 2.0), (3.5, 5.0), (10.0, 20.0), (30.0, 50.0), 21),
    "beyond": BlindLevel((2.0, 3.0), (6.0, 8.0), (20.0, 25.0), (20.0, 30.0), 21),
}
"""The last one is worse than anything in training; ``clean`` is measured too."""
COUNT, TRAINING_FACES = 128, 512
SHOWN = {"medium": (3, 20, 41, 77, 101), "heavy": (5, 33, 64, 90, 118)}
"""Numbers of the faces in the picture, chosen before any result was seen."""

Function = Callable[[Tensor], Tensor]


def in_parts(function: Function, batch: Tensor) -> Tensor:
    """A function of a batch, sixteen at a time."""
    with torch.inference_mode():
        return torch.cat([function(part) for part in torch.split(batch, 16)])


def degraded_faces(clean: Sequence[np.ndarray], name: str) -> Tensor:
    """(N, 3, S, S) of a level; face i depends on (level, i) alone."""
    if name == "clean":
        return torch.stack([to_tensor(face) for face in clean])
    number = list(LEVELS).index(name)
    rngs = [np.random.default_rng([11, number, i]) for i in range(len(clean))]
    return torch.stack([to_tensor(degrade_blind(f, LEVELS[name], rng)) for f, rng in zip(clean, rngs, strict=True)])


def without_looking(codes: Tensor, targets: Tensor, size: int) -> float:
    """Share of targets that equal the most frequent training code of their place."""
    counts = torch.nn.functional.one_hot(codes, size).sum(0)  # (T, K)
    return float((counts.argmax(-1) == targets).float().mean())


class Ways:
    """The networks that are there, and the ways from a picture to codes."""

    def __init__(self, runs: Path) -> None:
        first = load_network(runs / "codeformer_small_1" / "autoencoder.safetensors")
        assert isinstance(first, VQAutoencoder)
        self.first = first
        self.codes: dict[str, Function] = {"stage I, nearest": lambda x: first.predict_codes(first.encode(x))}
        second, self.third = (self.later(runs / f"codeformer_small_{i}" / "codeformer.safetensors") for i in (2, 3))
        if second is not None:
            self.codes["tuned, nearest"] = lambda x: second.quantize.nearest(second.encode(x).latent)
            self.codes["transformer"] = lambda x: second.predict_codes(second.encode(x).latent)
        third = self.third
        if third is not None:
            self.codes["transformer, joint"] = lambda x: third.predict_codes(third.encode(x).latent)

    @staticmethod
    def later(path: Path) -> CodeFormer | None:
        """The network of stage II or III, or None where it was not trained yet."""
        if not path.is_file():
            return None
        network = load_network(path)
        assert isinstance(network, CodeFormer)
        return network

    def picture(self, name: str, x: Tensor, w: float = 0.0) -> Tensor:
        """(N, 3, S, S) restored in one of the ways."""
        third = self.third
        if name == "transformer, joint" and third is not None:
            return in_parts(lambda part: third(part, w, adain=False), x)
        return in_parts(self.first.decode, in_parts(self.codes[name], x))


def measure(ways: Ways, clean: Sequence[np.ndarray], training: Tensor, metric: Function | None) -> list[dict]:
    reference = torch.stack([to_tensor(face) for face in clean])
    truth = in_parts(ways.codes["stage I, nearest"], reference)
    known = in_parts(ways.codes["stage I, nearest"], training)
    size = ways.first.dims.codebook_size
    base = {
        "most_frequent_of_place": round(without_looking(known, truth, size), 4),
        "most_frequent": round(float(torch.bincount(truth.flatten()).max()) / truth.numel(), 4),
        "one_in": 1 / size,
        "codes_in_use": len(truth.unique()),
        "psnr_of_true_codes": round(psnr(in_parts(ways.first.decode, truth), reference), 3),
    }
    results: list[dict] = [{"level": "truth", **base}]
    for level in ("clean", *LEVELS):
        degraded = degraded_faces(clean, level)
        row: dict = {"level": level, "psnr_input": round(psnr(degraded, reference), 3)}
        if metric is not None:
            row["st_lpips_input"] = round(float(metric_of(metric, degraded, reference)), 4)
        for name, codes in ways.codes.items():
            found = in_parts(codes, degraded)
            restored = ways.picture(name, degraded)
            row[name] = figures(restored, reference, metric)
            row[name]["accuracy"] = round(float((found == truth).float().mean()), 4)
        for w in (0.5, 1.0) if ways.third is not None else ():
            restored = ways.picture("transformer, joint", degraded, w)
            row[f"transformer, joint, w = {w:g}"] = figures(restored, reference, metric)
        results.append(row)
    return results


def figures(restored: Tensor, reference: Tensor, metric: Function | None) -> dict:
    found = {"psnr": round(psnr(restored, reference), 3)}
    if metric is not None:
        found["st_lpips"] = round(float(metric_of(metric, restored.clamp(-1, 1), reference)), 4)
    return found


def metric_of(metric: ShiftTolerantLpips, first: Tensor, second: Tensor) -> Tensor:
    pairs = torch.stack([first, second], 1)[:32]  # stand for all: the metric costs more than all networks together
    return in_parts(lambda part: metric(part[:, 0], part[:, 1]), pairs).mean()


def sheet(ways: Ways, clean: Sequence[np.ndarray], path: Path) -> None:
    """Columns are faces; rows: degraded, the ways at w = 0, joint at w = 1, the true codes, clean."""
    columns = []
    for level, numbers in SHOWN.items():
        degraded = degraded_faces(clean, level)[list(numbers)]
        reference = torch.stack([to_tensor(clean[i]) for i in numbers])
        truth = in_parts(ways.first.decode, in_parts(ways.codes["stage I, nearest"], reference))
        rows = [degraded, *(ways.picture(name, degraded) for name in list(ways.codes)[:3])]
        if ways.third is not None:
            rows.append(ways.picture("transformer, joint", degraded, 1.0))
        rows += [truth, reference]
        columns.append(torch.cat([torch.cat(list(row), -1) for row in rows], -2))
    whole = ((torch.cat(columns, -1).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    whole = (whole.astype(np.uint16) * 63 + 127) // 255 * 255 // 63  # six bits: small, and not seen at this size
    large = cv2.resize(whole.astype(np.uint8), None, fx=1.5, fy=1.5, interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(path), large[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


def curve(canvas: np.ndarray, box: tuple[int, int, int, int], lines: dict[str, tuple[list, list]], title: str) -> None:
    """Lines of one panel, each scaled to the panel's common range; written from smallest to largest value."""
    x0, y0, width, height = box
    values = np.concatenate([np.asarray(y, float) for _, y in lines.values()])
    steps = max(max(x) for x, _ in lines.values())
    low, high = float(values.min()), float(values.max())
    cv2.rectangle(canvas, (x0, y0), (x0 + width, y0 + height), (170, 170, 170), 1)
    colours = [(30, 30, 30), (0, 90, 200), (200, 80, 0), (20, 140, 60), (150, 40, 150)]
    put = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.4, "thickness": 1, "lineType": cv2.LINE_AA}
    cv2.putText(canvas, title, (x0, y0 - 8), color=(0, 0, 0), **put)
    cv2.putText(canvas, f"{high:.3g}", (x0 + 3, y0 + 13), color=(110, 110, 110), **put)
    cv2.putText(canvas, f"{low:.3g}", (x0 + 3, y0 + height - 4), color=(110, 110, 110), **put)
    cv2.putText(canvas, f"step {steps}", (x0 + width - 70, y0 + height + 14), color=(110, 110, 110), **put)
    for i, (name, (x, y)) in enumerate(lines.items()):
        points = np.stack([x0 + np.asarray(x) / steps * width, y0 + (high - np.asarray(y)) / (high - low) * height], -1)
        cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, colours[i], 1, cv2.LINE_AA)
        cv2.putText(canvas, name, (x0 + 60, y0 + 15 + 14 * i), color=colours[i], **put)


def logged(folder: Path, *names: str, smooth: int = 1) -> dict[str, tuple[list, list]]:
    """{name: (steps, values)} of a run's log, as running means."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]
    found = {}
    for name in names:
        pairs = [(e["step"], e[name]) for e in entries if name in e]
        values = [float(np.mean([v for _, v in pairs[max(0, i - smooth + 1) : i + 1]])) for i in range(len(pairs))]
        found[name] = ([s for s, _ in pairs], values)
    return found


PANELS = (  # stage, names, running mean, title
    ("1", ("pixel",), 3, "I: absolute error, training"),
    ("1", ("psnr",), 1, "I: PSNR of held-out faces, dB"),
    ("2", ("cross_entropy",), 5, "II: half the cross-entropy, training"),
    ("2", ("accuracy_large", "nearest_accuracy_large"), 1, "II: share of right codes, held out"),
    ("3", ("pixel",), 5, "III: absolute error, training"),
    ("3", ("psnr_small_w0", "psnr_small_w0.5", "psnr_small_w1", "psnr_small_input"), 1, "III: PSNR, held out, dB"),
)


def curves(runs: Path, path: Path) -> None:
    """Two panels for each stage that has run."""
    canvas = np.full((460, 1000, 3), 255, np.uint8)
    for i, (stage, names, smooth, title) in enumerate(PANELS):
        folder = runs / f"codeformer_small_{stage}"
        if (folder / "log.jsonl").is_file():
            box = (20 + 330 * (i // 2), 30 + 220 * (i % 2), 300, 170)
            curve(canvas, box, logged(folder, *names, smooth=smooth), title)
    cv2.imwrite(str(path), canvas, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def lengths(runs: Path) -> dict[str, dict]:
    """Steps and the share of each stage's time, from the logs."""
    found = {}
    for i in (1, 2, 3):
        path = runs / f"codeformer_small_{i}" / "log.jsonl"
        if not path.is_file():
            continue
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        last = {k: round(v, 4) for k, v in entries[-1].items() if k not in ("time_s", "progress")}
        found[f"stage {i}"] = {"wall_s": round(entries[-1]["time_s"] - entries[0]["time_s"]), "last_validation": last}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways = Ways(arguments.runs)
    side = ways.first.dims.image_size
    paths = list_images(arguments.faces)
    with tempfile.TemporaryDirectory() as folder:
        held_out = FaceCache(paths[:COUNT], side, Path(folder) / "held_out.npy").pictures
        clean = [face.astype(np.float32) / np.float32(255.0) for face in held_out]
        known = FaceCache(paths[COUNT : COUNT + TRAINING_FACES], side, Path(folder) / "known.npy").pictures
        training = torch.stack([to_tensor(np.asarray(face)) for face in known])
    try:
        metric = ShiftTolerantLpips("alex")
    except WeightsError as error:
        print(f"without ST-LPIPS: {error}")
        metric = None
    results = measure(ways, clean, training, metric)
    sheet(ways, clean, arguments.folder / "codeformer_small.png")
    curves(arguments.runs, arguments.folder / "codeformer_small_curves.png")
    method = "128 held-out generated faces of 64 px, one degradation each per level; ST-LPIPS (alex) on the first 32"
    print(write_report("codeformer_small", method, results, training=lengths(arguments.runs)))
    for row in results:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
