"""Kernels on the CPU: crops out of video planes, differences back into them. ``reference`` holds their plain twins.

The two conversions between planes and R'G'B' live here and nowhere else.
"""

from vidrestore.kernels.colour import signal_delta
from vidrestore.kernels.composite import composite
from vidrestore.kernels.sample import sample_crops
from vidrestore.kernels.warm import warm_up

__all__ = ["composite", "sample_crops", "signal_delta", "warm_up"]
