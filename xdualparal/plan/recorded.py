"""Recorded traces: read back from their files, and compared in numbers with simulated ones.

Knows: the Chrome trace that render.py writes. Must not know: how it was recorded, or how a trace is drawn.
"""

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass

from .actions import DECODE, FORWARD, parse_action
from .simulate import Span, make_trace


def read_trace(path):
    """The Trace, in seconds from its start, in the file ``path``, which ``--dualparal_trace`` wrote.

    Raises ValueError for a file that cannot be read or has no such trace.
    """
    try:
        with open(path, "rb") as file:
            events = json.load(file)["traceEvents"]
        rows = defaultdict(list)
        for event in events:
            rows[event["tid"]].append(_span(event))
        if sorted(rows) != list(range(len(rows))) or not rows:
            raise ValueError("a lane has no actions")
    except OSError as error:
        raise ValueError(f"the trace {path} cannot be read ({error.strerror}): give a file that --dualparal_trace wrote") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a recorded trace: give a file that --dualparal_trace wrote") from None
    rows = [rows[lane] for lane in range(len(rows))]
    decodes_only = len(rows) > 1 and all(span.action.kind == DECODE for span in rows[-1])
    return make_trace(rows, len(rows) - decodes_only)


def _span(event):
    action, start = parse_action(event["args"]["action"]), event["ts"] / 1e6
    if action.lane != event["tid"] or not event["dur"] >= 0:
        raise ValueError("not what render.chrome_trace writes")
    return Span(action, start, start + event["dur"] / 1e6)


@dataclass(frozen=True)
class Comparison:
    """A recorded Trace beside a simulated one: each field is a pair (recorded, simulated), or has one for each stage.

    ``end_s``: from the first action's start to the last one's end; ``bubble``: 0 to 1, see Trace.bubble; ``busy_s``: time in
    actions; ``pass_s``: the median duration of a pass, both halves where it is split.
    """

    end_s: tuple[float, float]
    bubble: tuple[float, float]
    busy_s: tuple[tuple[float, float], ...]
    pass_s: tuple[tuple[float, float], ...]

    def as_json(self):
        """Plain values."""
        return asdict(self)

    def as_text(self):
        """A table, with recorded over simulated in its last column."""
        rows = [("", "recorded", "simulated", "ratio"), _seconds("end", self.end_s)]
        rows.append(("bubble", *(f"{share:.1%}" for share in self.bubble), ""))
        rows += [_seconds(f"stage {n} busy", pair) for n, pair in enumerate(self.busy_s)]
        rows += [_seconds(f"stage {n} pass", pair) for n, pair in enumerate(self.pass_s)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows)
        return "\n".join(lines)


def compare(recorded, simulated):
    """The Comparison of two Traces in seconds. Raises ValueError when they have different numbers of stages."""
    if len(recorded.stages) != len(simulated.stages):
        raise ValueError(
            f"the recorded trace has {len(recorded.stages)} stages and the simulated one {len(simulated.stages)}: compare "
            "traces of as many stages"
        )
    pairs = recorded, simulated
    stages = range(len(recorded.stages))
    return Comparison(
        end_s=tuple(trace.end - trace.start for trace in pairs), bubble=tuple(trace.bubble() for trace in pairs),
        busy_s=tuple(tuple(trace.busy(stage) for trace in pairs) for stage in stages),
        pass_s=tuple(tuple(_median_pass(trace.stages[stage]) for trace in pairs) for stage in stages),
    )


def _median_pass(spans):
    passes = defaultdict(float)
    for span in spans:
        if span.action.kind == FORWARD:
            passes[span.action.one] += span.end - span.start
    return statistics.median(passes.values()) if passes else 0.0


def _seconds(name, pair):
    ratio = f"{pair[0] / pair[1]:.2f}" if pair[1] else ""
    return (name, *(f"{seconds:.4g} s" for seconds in pair), ratio)
