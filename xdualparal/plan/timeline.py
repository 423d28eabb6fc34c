"""Traces as a picture: a Gantt chart, a row for each stage and for the decode lane.

Knows: how a timeline looks; matplotlib (the extra ``pictures``), which it imports where it draws. Must not know: how a trace
came to be.
"""

import os
from collections import defaultdict
from pathlib import Path
from statistics import median

from .actions import DECODE, FORWARD, LOAD, SEND, STEP, UNCONDITIONAL
from .simulate import Trace

# Of blocks, in order, then they repeat: Okabe and Ito's palette, which colour-blind people tell apart, without its black, lightened
# so that black labels can be read on it, and a violet.
COLOURS = ("#8ecdf0", "#f3c276", "#74cfb3", "#f5ec9c", "#7fb2d9", "#eaa57a", "#dfb0cb", "#b9a7e0")
_WAITS, _STEP, _LOAD, _MESSAGE = "#efefef", "#222222", "#a01010", "#555555"
_DARKER = 0.8  # of a colour's brightness: the negative prompt's half passes
_WIDTH, _ROW, _ABOVE, _BELOW = 13.0, 0.42, 0.42, 1.0  # inches: the picture; a row; a title; the axis and the legend
_FONT = 6.0  # points, of the names of passes
_DIGIT, _STOP, _SPACE = 0.64, 0.34, 0.2  # em: DejaVu Sans' digits; full stop and colon; left free beside a name
_NARROW = 0.03  # inches: passes below it get no white edge, which would hide them
_DPI = 110


def picture_paths(file, overwrite=False):
    """The files that ``draw_timeline`` writes for ``file``: itself with .svg or .png, both where it has no such ending.

    Raises ValueError for another ending, a folder that is not there, and, unless ``overwrite``, a file that is there.
    """
    file = Path(file)
    if file.suffix not in ("", ".svg", ".png"):
        raise ValueError(f"the picture {file} ends in {file.suffix}: give .svg, .png, or no ending for both")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"the picture {file} cannot be written (there is no folder {file.parent}): make it, or give another one")
    paths = [file] if file.suffix else [file.with_suffix(ending) for ending in (".svg", ".png")]
    for path in paths:
        if os.path.lexists(path) and (not overwrite or path.is_dir()):
            raise ValueError(f"the picture {path} exists: give another name, or move it away")
    return paths


def check_matplotlib():
    """Raises ValueError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("pictures need matplotlib, which is not installed: pip install 'xdualparal[pictures]'") from None


def draw_timeline(traces, file, messages=False, overwrite=False):
    """Draws ``traces``, a Trace or {title: Trace} in seconds, below each other on one time axis. Returns the Paths it wrote, see
    ``picture_paths``.

    A pass has its block's colour and, where there is room, its name ``block.step``; the negative prompt's half pass is
    darker. What is left of a row is a bubble. ``messages``: also draw each SEND, to the start of what its receiver does with
    it. Raises ValueError as ``picture_paths`` and ``check_matplotlib`` do.
    """
    paths = picture_paths(file, overwrite)
    check_matplotlib()
    traces = {"": traces} if isinstance(traces, Trace) else traces
    import matplotlib

    # Text stays text, and equal traces give equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "timeline"}):
        figure = _figure(traces, messages)
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=_DPI, metadata=metadata)
    return paths


def _figure(traces, messages):
    from matplotlib.figure import Figure

    heights = [_ROW * len(trace.rows) + _ABOVE for trace in traces.values()]
    figure = Figure((_WIDTH, sum(heights) + _BELOW), layout="constrained")
    all_axes = figure.subplots(len(traces), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    longest = max(trace.end - trace.start for trace in traces.values())
    for axes, (title, trace) in zip(all_axes, traces.items()):
        axes.set_title(_title(title, trace), loc="left", fontsize=9)
        _draw(axes, trace, longest, messages)
    all_axes[-1].set_xlabel("seconds")
    figure.legend(handles=_legend(traces, messages), loc="outside lower center", ncols=13, fontsize=6.5, columnspacing=1.1, handlelength=1.6, frameon=False)
    return figure


def _title(title, trace):
    stages = f"{len(trace.stages)} stage{'s' if len(trace.stages) > 1 else ''}"
    figures = f"{stages}, end {trace.end - trace.start:.4g} s, bubble {trace.bubble():.1%}"
    return f"{title}: {figures}" if title else figures


def _draw(axes, trace, longest, messages):
    start = trace.start
    axes.set(xlim=(0, longest * 1.002), ylim=(len(trace.rows) - 0.5, -0.5))
    names = [f"stage {n}" for n in range(len(trace.stages))] + ["decode"] * bool(trace.lane)
    axes.set_yticks(range(len(trace.rows)), names, fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False, labelsize=8)
    for lane, row in enumerate(trace.rows):
        axes.broken_barh([(0, trace.end - start)], (lane - 0.4, 0.8), color=_WAITS, gid=f"waits {lane}")
        _draw_row(axes, lane, row, start, longest)
    if messages:
        _draw_messages(axes, trace, start)


def _draw_row(axes, lane, row, start, longest):
    """The spans of a row. Those of one look are one group in the picture, with the id ``<kind> <lane> <colour>``."""
    inches = (_WIDTH - 1) / longest
    groups = defaultdict(list)
    for span in row:
        if not span.action.is_message:
            groups[span.action.kind, _colour(span.action)].append((span.start - start, span.end - span.start))
            _label(axes, lane, span, start, inches)
    for (kind, colour), bars in groups.items():
        wide = kind in (FORWARD, DECODE) and median(width for _, width in bars) * inches > _NARROW
        axes.broken_barh(
            bars, (lane - 0.4, 0.8), facecolor=colour, edgecolor="white" if wide else colour, linewidth=0.3, gid=f"{kind} {lane} {colour}"
        )
        if kind == DECODE:
            axes.broken_barh(bars, (lane + 0.3, 0.1), facecolor=_STEP)


def _colour(action):
    if action.kind in (STEP, LOAD):
        return _STEP if action.kind == STEP else _LOAD
    colour = COLOURS[action.block % len(COLOURS)]
    if action.branch != UNCONDITIONAL:
        return colour
    return "#" + "".join(f"{round(_DARKER * int(colour[n:n + 2], 16)):02x}" for n in (1, 3, 5))


def _label(axes, lane, span, start, inches):
    """The name of a pass, or a decode's block, where it is narrower than the span."""
    action = span.action
    if action.kind not in (FORWARD, DECODE):
        return
    name = str(action.one) if action.kind == FORWARD else str(action.one).rpartition(".")[0]
    width = (sum(_STOP if letter in ".:" else _DIGIT for letter in name) + _SPACE) * _FONT / 72
    if width < (span.end - span.start) * inches:
        axes.text((span.start + span.end) / 2 - start, lane, name, ha="center", va="center", fontsize=_FONT)


def _draw_messages(axes, trace, start):
    from matplotlib.collections import LineCollection

    lines = []
    for sent, sender, used, receiver in _messages(trace):
        edge = 0.4 if receiver > sender else -0.4  # from the sender's row to the side of the other that is next to it
        lines.append([(sent - start, sender + edge), (used - start, receiver - edge)])
    axes.add_collection(LineCollection(lines, colors=_MESSAGE, linewidths=0.5, gid="messages"), autolim=False)


def _messages(trace):
    """Yields (time, lane) of each SEND's start and of the first action of its receiver that needs it: the same pass further
    on, or the decode of its block, or, of latents that go back, the next pass of the block or one that sees it."""
    for span in (span for row in trace.rows for span in row if span.action.kind == SEND):
        send = span.action
        for other in trace.rows[send.peer]:
            if other.start >= span.start and not other.action.is_message and _uses(other.action, send, len(trace.stages)):
                yield span.start, send.lane, other.start, send.peer
                break


def _uses(action, send, num_stages):
    if action.video != send.video:
        return False
    if send.peer == num_stages:
        return action.block == send.block
    if send.peer == send.lane + 1:
        return (action.one, action.branch) == (send.one, send.branch)
    return action.kind == FORWARD and action.block in (send.block, send.block + 1) and action.step in (send.step, send.step + 1)


def _legend(traces, messages):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    actions = {span.action for trace in traces.values() for row in trace.rows for span in row}
    kinds, blocks = {action.kind for action in actions}, 1 + max(action.block for action in actions)
    shown = [Patch(facecolor=colour, label=_blocks(n, blocks)) for n, colour in enumerate(COLOURS[:blocks])]
    if any(action.branch == UNCONDITIONAL for action in actions):
        shown.append(Patch(facecolor="#999999", label="darker: half pass, negative prompt"))
    marks = [(STEP, Patch(facecolor=_STEP, label="scheduler step")), (LOAD, Patch(facecolor=_LOAD, label="load expert"))]
    marks += [(DECODE, Line2D([], [], color=_STEP, linewidth=2, label="decode (black below)"))]
    shown += [mark for kind, mark in marks if kind in kinds]
    shown += [Line2D([], [], color=_MESSAGE, linewidth=0.5, label="message")] * (messages and SEND in kinds)
    return [*shown, Patch(facecolor=_WAITS, edgecolor="#bbbbbb", linewidth=0.5, label="waits (bubble)")]


def _blocks(first, blocks):
    """The name of the colour of the blocks ``first``, ``first`` + 8 ..."""
    return f"block {first}" + (f", {first + len(COLOURS)} ..." if first + len(COLOURS) < blocks else "")
