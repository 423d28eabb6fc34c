"""Which worker hangs, by the status files of all workers of a node.

Knows: statuses, and time. Must not know: processes, or what is done about a hang. The launcher looks at the files: whatever
keeps a worker from running, it cannot keep the launcher from seeing it.
"""

import time
from pathlib import Path
from typing import NamedTuple

from .status import read_status

# Of a worker that makes no passes yet: how long its watchdog's thread may stand still. Importing and loading can hold Python's
# lock for as long as a slow disk takes.
START_PULSE_S = 600.0
# What counts of the time from one look to the next, which should be a fraction of a second: where it was longer this process
# itself did not run, because the machine was paused, say; then the others did not run either.
_LONGEST_GAP_S = 1.0


class StandstillTimer:
    """How long values have not changed, in the time in which this process ran."""

    def __init__(self, clock=time.monotonic):
        self._clock, self._last_look, self._time = clock, clock(), 0.0
        self._seen = {}

    def look(self):
        """Call it before each round of ``standing_s``."""
        now = self._clock()
        self._time += min(now - self._last_look, _LONGEST_GAP_S)
        self._last_look = now

    def standing_s(self, name, value):
        """For how many seconds ``name`` has had this ``value``."""
        before, since = self._seen.get(name, (None, None))
        if since is None or before != value:
            self._seen[name] = value, since = value, self._time
        return self._time - since


class _Candidate(NamedTuple):
    """A thread of ``rank`` and for how long it has done the same. ``kind``: the likelier it is the cause, the smaller."""

    kind: int
    age_s: float
    limit_s: float
    rank: str
    what: str


_DOES_NOT_RUN, _WORKS, _BETWEEN, _WAITS = range(4)


class Heartbeats:
    """The workers ``ranks``, whose status files are in ``folder``."""

    def __init__(self, folder, ranks, clock=time.monotonic):
        self._folder, self._ranks, self._timer = Path(folder), ranks, StandstillTimer(clock)

    def hang(self):
        """Why the run hangs, in a line that names the rank that does not wait for another one; None when it does not."""
        self._timer.look()
        candidates = [candidate for rank in self._ranks for candidate in self._candidates(rank)]
        over = [one for one in candidates if one.limit_s and one.age_s > one.limit_s]
        if not over:
            return None
        # Who has waited longest may have begun to wait a little before the other one hung.
        least_s = min(one.limit_s for one in over) / 2
        kind, *_ = culprit = min(
            (one for one in candidates if one in over or one.age_s > least_s), key=lambda one: (one.kind, -one.age_s)
        )
        reason = {
            _DOES_NOT_RUN: "the process does not run: it is stopped, or stuck in code that holds Python's lock",
            _WAITS: "it, or what it waits for, hangs",
        }.get(kind, "it hangs")
        limit_s = culprit.limit_s if culprit in over else min(one.limit_s for one in over)  # else the waiting rank's was passed
        return f"rank {culprit.rank}, {culprit.what} for {culprit.age_s:.0f} s, more than {limit_s:.0f} s: {reason}"

    def _candidates(self, rank):
        status, age = read_status(self._folder / f"rank{rank}"), self._timer.standing_s
        pulse = status.pulse
        yield _Candidate(_DOES_NOT_RUN, age((rank, "pulse"), pulse.count), pulse.limit_s or START_PULSE_S, rank, status.text)
        for thread, activity in enumerate(status.activities):
            age_s = age((rank, thread), activity.count)
            if activity.is_active:
                kind = _WAITS if activity.waits else _WORKS if activity.limit_s else _BETWEEN
                yield _Candidate(kind, age_s, activity.limit_s, rank, activity.what)
