"""Means of values of which some are not known.

Knows: NaN. Must not know: what the values are.
"""

import numpy as np


def mean(values):
    """The mean of the finite ones of ``values``; None where there is none."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None
