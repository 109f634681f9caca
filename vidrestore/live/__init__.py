"""A camera in, a restored picture out, while it happens: the same stages as for files, paced by the camera.

capture -> latest-frame slot -> engine (detect, track, restore, blend; ladder) -> one slot per sink -> sinks, browser.
"""
