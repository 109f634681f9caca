"""Sampling and compositing kernels: CPU versions and their references."""
