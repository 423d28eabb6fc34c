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
    """What becomes of a strategy's medians from one number, of frames or of processes, to the next one that was run.

    ``first``, ``last``: Cases. ``time``: ``wall_s`` of the last over that of the first; ``exponent``: of the number in the time: 1 is
    linear growth with frames, -1 a perfect speedup by processes. ``steady_per_frame``: ratio of ``steady_s_per_frame``: 1 where time is
    linear once fill and drain are left out. ``memory``: ratio of the largest rank's peak.
    """

    first: Case
    last: Case
    time: float
    exponent: float
    steady_per_frame: float | None
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
    of_rounds = [{run.case: run for run in runs} for runs in rounds]
    runs = [by_case[case] for by_case in of_rounds if case in by_case]
    pairs = [(by_case[case].wall_s, by_case[other].wall_s) for by_case in of_rounds if case in by_case and other in by_case]
    peaks = [run.peak_bytes for run in runs if run.peak_bytes]
    return Summary(
        case, *(Range.of([getattr(run, name) for run in runs if run.failed is None]) for name in FIGURES),
        ratio=Range.of([mine / its for mine, its in pairs if mine and its]),
        peak_bytes=tuple(map(max, zip(*peaks))) or None, failed=next((run.failed for run in runs if run.failed), None),
    )


def growth_with_frames(summaries):
    """A Growth for each strategy and number of processes that was run with several numbers of frames: first to last."""
    return _growths(summaries, "num_frames", lambda case: (case.strategy, case.processes), ends_only=True)


def growth_with_processes(summaries):
    """A Growth for each strategy and number of frames, from each number of processes to the next one."""
    return _growths(summaries, "processes", lambda case: (case.strategy, case.num_frames), ends_only=False)


def _growths(summaries, name, group_of, ends_only):
    groups = {}
    for summary in summaries:
        if summary.wall_s is not None:
            groups.setdefault(group_of(summary.case), []).append(summary)
    found = []
    for group in groups.values():
        group.sort(key=lambda summary: getattr(summary.case, name))
        chosen = [(group[0], group[-1])] if ends_only else list(pairwise(group))
        found += [_growth(first, last, name) for first, last in chosen if first is not last]
    return found


def _growth(first, last, name):
    time, more = last.wall_s.median / first.wall_s.median, getattr(last.case, name) / getattr(first.case, name)
    steady, memory = None, None
    if first.steady_s_per_frame and last.steady_s_per_frame:
        steady = last.steady_s_per_frame.median / first.steady_s_per_frame.median
    if first.peak_bytes and last.peak_bytes:
        memory = max(last.peak_bytes) / max(first.peak_bytes)
    return Growth(first.case, last.case, time, math.log(time) / math.log(more), steady, memory)
