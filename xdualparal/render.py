"""Schedules and traces as something to look at: a text grid, or Chrome's trace format.

Knows: how a schedule and a trace look. Must not know: how either came to be.
"""

import json

from .schedule import FORWARD
from .simulate import simulate


def list_grid(schedule, marked=()):
    """The stages' lists below each other, one column a place in the list; ``marked`` actions stand in ``>...<``."""
    cells = [[f">{a}<" if a in marked else str(a) for a in row] for row in schedule.stages]
    width = max(len(cell) for row in cells for cell in row)
    return "\n".join(
        f"stage {n} | " + " ".join(cell.ljust(width) for cell in row).rstrip() for n, row in enumerate(cells)
    )


def time_grid(schedule):
    """The schedule over time: a row a stage, a column a unit of time, ``block.step`` where a stage works, ``.`` where it waits."""
    trace = simulate(schedule)
    rows = [_time_row(row, int(trace.end)) for row in trace.stages]
    width = max(len(cell) for row in rows for cell in row)
    return "\n".join(
        f"stage {n} | " + " ".join(cell.ljust(width) for cell in row).rstrip() for n, row in enumerate(rows)
    )


def _time_row(spans, length):
    cells = ["."] * length
    for span in spans:
        if span.action.kind == FORWARD:
            cells[int(span.start)] = f"{span.action.block}.{span.action.step}"
    return cells


def chrome_trace(trace):
    """``trace`` (times in seconds) as the JSON text that chrome://tracing and Perfetto open."""
    start = min(span.start for row in trace.stages for span in row)
    events = [_chrome_event(span, start) for row in trace.stages for span in row]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def _chrome_event(span, start):
    action = span.action
    return {
        "name": f"block {action.block} step {action.step}" if action.kind == FORWARD else "scheduler step",
        "cat": action.kind, "ph": "X", "pid": 0, "tid": action.stage,
        "ts": (span.start - start) * 1e6, "dur": (span.end - span.start) * 1e6,
        "args": {"action": str(action)},
    }
