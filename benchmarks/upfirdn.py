"""The resampling filter of StyleGAN2: one depthwise convolution against its plain definition.

    python benchmarks/upfirdn.py [--threads N] [--rounds N]

Cases are the shapes of SGPN at 512 pixels and the three ways in which it filters. The plain definition pads with zeros
and filters each channel as a picture of its own, as the published Python does. Both results are compared first.
"""

from __future__ import annotations

import argparse

import torch
from common import measure, write_report

from vidrestore.restoration.stylegan import filter_kernel, upfirdn2d, upfirdn2d_plain

# name, channels, side, up, padding: after a transposed convolution, before a halving convolution, enlarging a picture
CASES = [
    ("after a transposed convolution, 512 px", 64, 513, 1, (1, 1, 1, 1)),
    ("after a transposed convolution, 128 px", 256, 129, 1, (1, 1, 1, 1)),
    ("after a transposed convolution, 32 px", 512, 33, 1, (1, 1, 1, 1)),
    ("before a halving convolution, 512 px", 64, 512, 1, (2, 2, 2, 2)),
    ("before a halving convolution, 64 px", 512, 64, 1, (2, 2, 2, 2)),
    ("a picture enlarged to 512 px", 3, 256, 2, (2, 1, 2, 1)),
    ("features enlarged to 128 px", 256, 64, 2, (2, 1, 2, 1)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    results = []
    for name, channels, side, up, padding in CASES:
        x = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
        kernel = filter_kernel(gain=float(up * up))
        with torch.inference_mode():
            difference = (
                upfirdn2d(x, kernel, up=up, padding=padding) - upfirdn2d_plain(x, kernel, up=up, padding=padding)
            ).abs()
            times = measure(
                {
                    "plain": lambda x=x, k=kernel, u=up, p=padding: upfirdn2d_plain(x, k, up=u, padding=p),
                    "depthwise": lambda x=x, k=kernel, u=up, p=padding: upfirdn2d(x, k, up=u, padding=p),
                },
                rounds=options.rounds,
            )
        faster = times["plain"]["median_ms"] / times["depthwise"]["median_ms"]
        results.append(
            {"case": name, "largest_difference": float(difference.max()), "times_faster": round(faster, 1), **times}
        )
        print(f"{name}: {faster:.1f} times faster, largest difference {float(difference.max()):.1e}")
    print(write_report("upfirdn", __doc__.strip(), results, threads=options.threads))


if __name__ == "__main__":
    main()
