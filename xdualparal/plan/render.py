"""Schedules and traces as something to look at: a text grid, or Chrome's trace format.

Knows: how a schedule and a trace look. Must not know: how either came to be.
"""

import json

from .actions import DECODE, FORWARD, LOAD
from .schedule import row_name
from .simulate import simulate


def list_grid(schedule, marked=()):
    """The stages' lists below each other, one column a place in the list; ``marked`` actions stand in ``>...<``."""
    cells = [[f">{a}<" if a in marked else str(a) for a in row] for row in schedule.rows]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join(
        f"{row_name(schedule, n)} | " + " ".join(cell.ljust(width) for cell in row).rstrip() for n, row in enumerate(cells)
    )


def time_grid(schedule):
    """The schedule over time: a row a stage, a column a pass's time (half of it where guidance is split), the pass as
    ``block.step`` where a stage works (``=`` for the rest of it), ``.`` where it waits."""
    trace, columns_a_pass = simulate(schedule), 2 if schedule.plan.split_guidance else 1
    rows = [_time_row(row, trace.end, columns_a_pass) for row in trace.stages]
    width = max(len(cell) for row in rows for cell in row)
    return "\n".join(
        f"stage {n} | " + " ".join(cell.ljust(width) for cell in row).rstrip() for n, row in enumerate(rows)
    )


def _time_row(spans, end, columns_a_pass):
    cells = ["."] * round(end * columns_a_pass)
    for span in spans:
        first, after = (round(time * columns_a_pass) for time in (span.start, span.end))
        if span.action.kind == FORWARD:
            name = f"{span.action.one}{span.action.branch}"
            cells[first:after] = [name] + ["="] * (after - first - 1)
    return cells


def chrome_trace(trace, **about):
    """``trace`` (times in seconds) as the JSON text that chrome://tracing and Perfetto open. ``about``: what else it says,
    which they leave alone."""
    start = min(span.start for row in trace.rows for span in row)
    events = [_chrome_event(span, start) for row in trace.rows for span in row]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", **about})


def _chrome_event(span, start):
    action = span.action
    names = {LOAD: "load expert", FORWARD: f"{action.one}{action.branch}", DECODE: f"decode block {action.block}" + (f" of video {action.video}" if action.video else "")}
    return {
        "name": names.get(action.kind, "scheduler step"),
        "cat": action.kind, "ph": "X", "pid": 0, "tid": action.lane,
        "ts": (span.start - start) * 1e6, "dur": (span.end - span.start) * 1e6,
        "args": {"action": str(action)},
    }
