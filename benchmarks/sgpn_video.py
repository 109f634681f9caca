"""SGPN along a track: what the kept shape prior saves, how steady it is, and whether lips still move.

    python benchmarks/sgpn_video.py [--rounds N] [--frames N]

*Cost*: the published layout with seeded weights at 512 pixels, a mesh of about the size of BFM 2009, one face, one
thread; seconds of processor time of each part, median of N rounds. From them, per frame: the shape prior (reading
coefficients, drawing, encoding the render) made in each frame, and kept as the restorer keeps it, with the share of
frames that were drawn in the talking track below. Beside it the whole network, and the same with the plain definition
of the resampling filter, which is what the published program runs (its per-picture kernels are not counted).

*Steadiness and lips*: a track of N frames with known truth on the mesh vr468: a person who keeps still, then talks,
over and over. Each frame's reading is the truth plus noise of 0.05 standard deviations on shape and texture, 0.004
radians, 0.002 of the model's unit and 0.01 of light: about a pixel of a crop of 512 at the landmarks, as a
regressor's readings tremble. A small seeded network paints it: per frame, kept for 8 frames with the default
tolerance, and kept for 8 frames whatever the lips do. Flicker is the mean absolute difference between consecutive
outputs while the person is still; lips are compared between the render that is shown and the true mesh, in pixels of
a crop of 512.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from common import write_report
from torch import Tensor, nn

from vidrestore.morphable.coefficients import split
from vidrestore.morphable.d3dfr import D3dfr
from vidrestore.morphable.files import load_vr468
from vidrestore.morphable.synthetic import synthetic_model
from vidrestore.restoration import stylegan
from vidrestore.restoration.align import SGPN_TEMPLATE_512, template
from vidrestore.restoration.seeded import fill_seeded
from vidrestore.restoration.sgpn import Sgpn, SgpnDims
from vidrestore.restoration.sgpn_restorer import PriorOptions, SgpnRestorer
from vidrestore.restoration.shape_prior import ShapePrior
from vidrestore.types import CropContext, Track

NOISE = 0.05
SMALL = SgpnDims(size=32, max_channels=16, area_channels=512, latent=16, style=32)
MOUTH = slice(48, 68)


def seconds(job: Callable[[], object], rounds: int, *, warm_up: bool = True) -> float:
    if warm_up:
        job()
    times = []
    for _ in range(rounds):
        begin = time.thread_time()
        job()
        times.append(time.thread_time() - begin)
    return statistics.median(times)


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def cost(rounds: int) -> dict[str, float]:
    network: Sgpn = fill_seeded(empty(Sgpn)).eval()
    prior = ShapePrior(fill_seeded(empty(D3dfr)).eval(), synthetic_model(267, 134))
    image = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = prior.maps(template(512, SGPN_TEMPLATE_512)[None], 512)
    coefficients = prior.read(image, maps)
    drawn = prior.draw(coefficients, maps, 512)
    rendered, seen = network.encode(drawn), network.encode(image)
    parts = {
        "read": seconds(lambda: prior.read(image, maps), rounds),
        "draw": seconds(lambda: prior.draw(coefficients, maps, 512), rounds),
        "encode_render": seconds(lambda: network.encode(drawn), rounds),
        "encode_degraded": seconds(lambda: network.encode(image), rounds),
        "decode": seconds(lambda: network.decode(seen, rendered, coefficients), rounds, warm_up=False),
    }
    ours = stylegan.upfirdn2d
    stylegan.upfirdn2d = stylegan.upfirdn2d_plain
    try:
        parts["plain_encode"] = seconds(lambda: network.encode(image), 1, warm_up=False)
        parts["plain_decode"] = seconds(lambda: network.decode(seen, rendered, coefficients), 1, warm_up=False)
    finally:
        stylegan.upfirdn2d = ours
    return {name: round(value, 3) for name, value in parts.items()}


class Told(ShapePrior):
    """A shape prior that is told the readings, one batch after the other."""

    def __init__(self, readings: Tensor) -> None:
        super().__init__(nn.Identity(), load_vr468())
        self.readings, self.at = readings, 0

    def read(self, images: Tensor, maps: Tensor) -> Tensor:
        self.at += len(images)
        return self.readings[self.at - len(images) : self.at]


def track_of(frames: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """(truth, readings) (N, 257), and (N,) bool: the person is still."""
    rng = np.random.default_rng(0)
    truth = torch.zeros(frames, 257)
    named = split(truth)
    named.identity[:] = torch.from_numpy(rng.standard_normal(80)).float()
    named.texture[:] = torch.from_numpy(rng.standard_normal(80)).float()
    time_s = np.arange(frames) / 25.0
    talks = (time_s % 4.0) >= 2.0  # two seconds of silence, two of talk at four syllables a second
    opening = np.where(talks, 0.5 - 0.5 * np.cos(2 * np.pi * 4.0 * time_s), 0.0)
    named.expression[:] = torch.from_numpy(opening).float()[:, None] * 3.0 * mouth_opening()
    noise = torch.from_numpy(rng.standard_normal((frames, 257))).float() * NOISE
    for part, size in ((slice(224, 227), 0.004), (slice(227, 254), 0.01), (slice(254, 257), 0.002)):
        noise[:, part] *= size / NOISE
    return truth, truth + noise, ~talks


def mouth_opening() -> Tensor:
    """(64,) of length 1: the expression that parts the lips most."""
    model = load_vr468()
    rows = model.expression_basis.unflatten(0, (-1, 3))[model.landmarks]  # (68, 3, 64)
    gradient = rows[62, 1] - rows[66, 1]  # inner upper and lower lip, y up
    return gradient / gradient.norm()


def along(options: PriorOptions, truth: Tensor, readings: Tensor, still: np.ndarray) -> dict[str, float]:
    prior = Told(readings)
    restorer = SgpnRestorer(fill_seeded(Sgpn(SMALL)), prior, torch.device("cpu"), options=options)
    points = template(SMALL.size, SGPN_TEMPLATE_512).astype(np.float32)
    same = np.array([[[1.0, 0, 0], [0, 1.0, 0]]])
    image = 0.2 * torch.randn(1, 3, SMALL.size, SMALL.size, generator=torch.Generator().manual_seed(0))
    maps = prior.maps(points[None], SMALL.size)
    outputs, shown = [], []
    for i in range(len(readings)):
        track = Track(id=0, box=np.zeros(4, np.float32), landmarks=points, score=1.0)
        context = CropContext((track,), (i,), same, same, np.full(1, 0.5, np.float32))
        outputs.append(restorer.restore(image, context)[0])
        person = restorer._people[0].points
        assert person is not None
        shown.append(person)
    scale = 512 / SMALL.size
    true_points = torch.cat([prior.points_in_crop(prior.model(t[None]), maps) for t in truth])[:, MOUTH] * scale
    lips = torch.stack(shown)[:, MOUTH] * scale
    change = torch.stack([(b - a).abs().mean() for a, b in itertools.pairwise(outputs)]).numpy()
    quiet = still[1:] & still[:-1]
    quiet[:25] = False  # the first second is for the pool
    motion, true_motion = lips - lips.mean(0), true_points - true_points.mean(0)
    return {
        "drawn_share": round(restorer.work.num_drawn / len(readings), 3),
        "flicker_still": round(float(change[quiet].mean()), 5),
        "lip_motion_of_truth": round(float((motion * true_motion).sum() / true_motion.square().sum()), 3),
        "lip_error_px": round(float((motion - true_motion).norm(dim=2).mean()), 2),
        "lip_travel_px": round(float(true_motion.norm(dim=2).max() * 2), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=125)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = {
        "every frame": PriorOptions(every=1, pools=False),
        "kept, tolerance 3 px": PriorOptions(every=8),
        "kept, whatever the lips do": PriorOptions(every=8, tolerance_px=1e9),
    }
    results: list[dict[str, object]] = []
    with torch.inference_mode():
        truth, readings, still = track_of(options.frames)
        for name, case in cases.items():
            row = along(case, truth, readings, still)
            results.append({"case": name, **row})
            print(results[-1])
        quiet = PriorOptions(every=8)
        still_row = along(quiet, truth[:50], readings[:50], still[:50])
        parts = cost(options.rounds)
    drawing = parts["draw"] + parts["encode_render"]
    painting = parts["encode_degraded"] + parts["decode"]
    whole = parts["read"] + drawing + painting
    plain = parts["read"] + parts["draw"] + 2 * parts["plain_encode"] + parts["plain_decode"]
    per_frame = {"prior": parts["read"] + drawing, "whole": whole, "whole_with_the_plain_filter": plain}
    summary = {}
    for name, share in {"talking": results[1]["drawn_share"], "still": still_row["drawn_share"]}.items():
        kept = parts["read"] + float(str(share)) * drawing
        summary[name] = {
            "drawn_share": share,
            "prior_times_faster": round(per_frame["prior"] / kept, 2),
            "whole_times_faster": round(whole / (kept + painting), 2),
            "whole_times_faster_than_with_the_plain_filter": round(plain / (kept + painting), 2),
        }
    print(parts, summary)
    print(write_report("sgpn_video", __doc__.strip(), results, parts_s=parts, per_frame=summary))


if __name__ == "__main__":
    main()
