"""Encoding: frames become a file, with everything else of the source beside them."""
