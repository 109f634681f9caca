"""Where a face lies in a crop that is aligned as the FFHQ data set is: what restorers and the regressor are shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FFHQ_TEMPLATE_512", "SGPN_TEMPLATE_512"]

FFHQ_TEMPLATE_512: NDArray[np.float64] = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
"""Left eye, right eye, nose, left and right mouth corner in a 512-pixel crop aligned as the FFHQ data set is; the
published template of the blind face restoration tools (FaceRestoreHelper), so that their networks fit too."""

SGPN_TEMPLATE_512: NDArray[np.float64] = np.array(
    [
        (202.04068428, 242.88396346),
        (309.43024555, 242.28998092),
        (256.07679966, 303.95917038),
        (211.95977493, 366.82819474),
        (300.89112491, 366.33630952),
    ]
)
"""The same points where SGPN wants them, before its regressor's crop is cut out of that one: the 112-pixel template of
face recognition with a quarter of its side around it. The face is smaller than in FFHQ's template and more of its
surroundings is seen."""
