"""How the end of a video differs from its beginning.

Knows: one figure a frame. Must not know: pictures, files.
"""

import numpy as np


def ends(values):
    """(mean of the first tenth, of the last tenth) of ``values``, one a frame, without NaN; NaN where a tenth has none."""
    tenth = max(1, len(values) // 10)
    return tuple(np.nanmean(part) if np.isfinite(part).any() else np.nan for part in (values[:tenth], values[-tenth:]))


def difference(values):
    """Last tenth minus first tenth, in the unit of ``values``; None where it is not known."""
    first, last = ends(values)
    return float(last - first) if np.isfinite(last - first) else None


def relative(values):
    """Last tenth over first tenth, minus 1; None where it is not known or the first tenth is 0."""
    first, last = ends(values)
    return float(last / first - 1) if first > 0 and np.isfinite(last) else None


def drift_metrics(series):
    """Changes from the first to the last tenth: ``luminance_drift`` and ``saturation_drift`` of 1, ``sharpness_drift`` as a share."""
    return dict(
        luminance_drift=difference(series.of("luminance")), saturation_drift=difference(series.of("saturation")),
        sharpness_drift=relative(series.of("sharpness")),
    )
