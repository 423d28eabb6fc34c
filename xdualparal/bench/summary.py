"""Medians, ratios and growth of a bench's runs.

Knows: what was measured. Must not know: how, or how it is shown.
"""

import math
import statistics
from dataclasses import dataclass
from itertools import pairwise

from .runs import Case

FIGURES = ("command_s", "wall_s", "first_s", "pass_s", "steady_s_per_frame")


@dataclass(frozen=True)
class Range:
    """The median of some figures, the least and the greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values):
        """The Range of ``values``, None for none."""
        values = [value for value in values if value is not None]
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class Summary:
    """All runs of a Case. Each figure is a Range, or None where it is not known; see runs.Run for what they are.

    ``ratio``: ``wall_s`` over that of the bench's first strategy with as many processes and frames, in the same round.
    ``peak_bytes``: of each rank, the most of all runs. ``failed``: why there is no video, or None.
    """

    case: Case
    command_s: Range | None
    wall_s: Range | None
    first_s: Range | None
    pass_s: Range | None
    steady_s_per_frame: Range | None
    ratio: Range | None
    peak_bytes: tuple[int, ...] | None
    failed: str | None


@dataclass(frozen=True)
class Growth:
    """What becomes of a strategy's figures from one number, of frames or of processes, to another that was run.

    ``first``, ``last``: Cases; ratios are of the last to the first one in the same round, as Ranges. ``time``: ratio of ``wall_s``;
    ``exponent``: of the number in the median of that: 1 is linear growth with frames, -1 a perfect speedup by processes. ``steady_per_frame``: ratio of ``steady_s_per_frame``: 1 where time is
    linear once fill and drain are left out. ``memory``: ratio of the largest rank's peak.
    """

    first: Case
    last: Case
    time: Range
    exponent: float
    steady_per_frame: Range | None
    memory: float | None


def summarize(rounds):
    """A Summary for each Case, in the order of the first round. ``rounds``: a list of lists of runs.Run."""
    cases = list(dict.fromkeys(run.case for runs in rounds for run in runs))
    first = cases[0].strategy
    return [_summary(case, rounds, Case(first, case.processes, case.num_frames)) for case in cases]


def read_summaries(known):
    """The Summaries in ``known``, the JSON that a bench wrote, as a dict."""
    return [
        Summary(**{
            name: Case(**value) if name == "case" else Range(**value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
            for name, value in summary.items()
        })
        for summary in known["summary"]
    ]


def _summary(case, rounds, other):
    runs = [run for by_case in map(_by_case, rounds) for run in by_case.values() if run.case == case]
    peaks = [run.peak_bytes for run in runs if run.peak_bytes]
    return Summary(
        case, *(Range.of([getattr(run, name) for run in runs if run.failed is None]) for name in FIGURES),
        ratio=_ratio(rounds, "wall_s", other, case), peak_bytes=tuple(map(max, zip(*peaks))) or None,
        failed=next((run.failed for run in runs if run.failed), None),
    )


def _by_case(runs):
    return {run.case: run for run in runs}


def _ratio(rounds, name, first, last):
    """The Range of a figure of the Case ``last`` over that of ``first``, round by round; None where no round has both."""
    pairs = [
        (getattr(by_case[first], name), getattr(by_case[last], name)) for by_case in map(_by_case, rounds) if {first, last} <= by_case.keys()
    ]
    return Range.of([its / mine for mine, its in pairs if mine and its])


def growth_with_frames(rounds):
    """A Growth for each strategy and number of processes that was run with several numbers of frames: first to last."""
    return _growths(rounds, "num_frames", lambda case: (case.strategy, case.processes), ends_only=True)


def growth_with_processes(rounds):
    """A Growth for each strategy and number of frames, from each number of processes to the next one."""
    return _growths(rounds, "processes", lambda case: (case.strategy, case.num_frames), ends_only=False)


def _growths(rounds, name, group_of, ends_only):
    groups = {}
    for summary in summarize(rounds):
        if summary.wall_s is not None:
            groups.setdefault(group_of(summary.case), []).append(summary)
    found = []
    for group in groups.values():
        group.sort(key=lambda summary: getattr(summary.case, name))
        chosen = [(group[0], group[-1])] if ends_only else list(pairwise(group))
        found += [_growth(rounds, *pair, name) for pair in chosen if pair[0] is not pair[1]]
    return [growth for growth in found if growth is not None]


def _growth(rounds, first, last, name):
    time = _ratio(rounds, "wall_s", first.case, last.case)
    if time is None:
        return None
    more = getattr(last.case, name) / getattr(first.case, name)
    memory = max(last.peak_bytes) / max(first.peak_bytes) if first.peak_bytes and last.peak_bytes else None
    steady = _ratio(rounds, "steady_s_per_frame", first.case, last.case)
    return Growth(first.case, last.case, time, math.log(time.median) / math.log(more), steady, memory)
