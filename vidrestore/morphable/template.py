"""Where a face lies in a crop that is aligned as the FFHQ data set is: what restorers and the regressor are shown."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["FFHQ_TEMPLATE_512"]

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
