"""Decoding: a file becomes frames in their native planes, with exact times and shot numbers."""
