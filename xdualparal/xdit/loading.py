"""How far a rank's weights are read, on the screen and for its watchdog.

Knows: bytes, the progress bar, and the phases of a start. Must not know: what is read.
"""

import sys
import time

from ..engine.progress_bar import ProgressBar, time_left

_PHASE_BYTES = 1 << 29  # how often the watchdog is told


class LoadingProgress:
    """A context manager. ``total()``: the bytes that are read in all; it is asked at the first ones. ``begin_phase``: see
    launch/watchdog. ``is_shown``: whether there is a bar, on a terminal; it goes when all is read."""

    def __init__(self, total, begin_phase, is_shown):
        self._get_total, self._begin_phase, self._is_shown = total, begin_phase, is_shown
        self._bar = self._total = None
        self._done, self._told = 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.__exit__(*error)

    def tell(self, num_bytes):
        """Says that ``num_bytes`` more have been read."""
        if self._bar is None:
            self._begin()
        self._done += num_bytes
        how_far = f"{self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB of weights"
        self._bar.show(self._done, ", ".join(filter(None, [how_far, time_left(time.monotonic() - self._begun_s, self._done, self._total)])))
        if self._done // _PHASE_BYTES != self._told:
            self._told = self._done // _PHASE_BYTES
            self._begin_phase(f"loads the weights, {how_far}")

    def _begin(self):
        self._total, self._begun_s = self._get_total(), time.monotonic()
        self._bar = ProgressBar(self._total, self._is_shown and sys.stderr.isatty(), leave=False).__enter__()
