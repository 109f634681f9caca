"""The 3D morphable model of a face: 257 numbers to a mesh, its colours and its picture.

``coefficients`` names the numbers, ``model`` turns them into a mesh, ``camera`` projects it, ``render`` draws it,
``d3dfr`` reads the numbers off a picture that ``align`` cut out, ``files`` loads and saves models, ``synthetic`` makes
a small one out of nothing. A leaf: the tracker, the networks, training and evaluation all stand on it.
"""
