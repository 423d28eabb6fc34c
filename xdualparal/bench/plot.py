"""A bench as a picture: time and memory against frames and against processes.

Knows: Summaries, and matplotlib, which it imports where it draws. Must not know: how they were measured.
"""

from ..plan.timeline import picture_paths

_DPI = 110
# Okabe and Ito's palette, which colour-blind people tell apart; a mark of its own for each strategy besides.
_COLOURS, _MARKS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"), "osD^vPX"
_LINES = ("-", "--", ":", "-.")
_LABELS = {"num_frames": "video frames", "processes": "processes"}


def draw(summaries, file, about, overwrite=False):
    """Draws ``summaries`` to ``file``, see plan.timeline.picture_paths; returns the Paths. ``about``: the line above. A point is a median,
    its bar goes from the least to the greatest; memory is that of the largest rank."""
    paths = picture_paths(file, overwrite)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        axes_names = _axes_names(summaries)
        figure = Figure((11, 4.6 * len(axes_names)), layout="constrained")
        figure.suptitle(about, fontsize=8)
        for name, pair in zip(axes_names, figure.subplots(len(axes_names), 2, squeeze=False)):
            _draw_against(name, *pair, summaries)
        for path in paths:
            figure.savefig(path, dpi=_DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _axes_names(summaries):
    """The numbers of a Case that time and memory are drawn against: those that differ; frames where none does."""
    differ = [name for name in _LABELS if len({getattr(summary.case, name) for summary in summaries}) > 1]
    return differ or ["num_frames"]


def _draw_against(name, time, memory, summaries):
    """``name``: a number of a Case; a curve for each strategy and each value of the other number."""
    [other] = set(_LABELS) - {name}
    for (strategy, number), (colour, mark, line) in _looks(summaries, other).items():
        mine = [s for s in summaries if (s.case.strategy, getattr(s.case, other)) == (strategy, number) and s.wall_s]
        look = dict(color=colour, marker=mark, linestyle=line, markersize=5, label=f"{strategy}, {_counted(other, number)}")
        _curve(time, name, mine, [s.wall_s for s in mine], look)
        known = [s for s in mine if s.peak_bytes]
        memory.plot([getattr(s.case, name) for s in known], [max(s.peak_bytes) / 2**20 for s in known], **look)
    for axes, title, unit in ((time, "time until the video is finished", "seconds"), (memory, "peak memory of the largest rank", "MiB")):
        axes.set(title=title, xlabel=_LABELS[name], ylabel=unit, xlim=(0, None))
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "processes":
            axes.set_xticks(sorted({summary.case.processes for summary in summaries}))  # there is no half process
        axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1e-9))
    time.legend(fontsize=8, frameon=False)


def _counted(name, number):
    return f"{number} frames" if name == "num_frames" else f"{number} process{'es' * (number > 1)}"


def _looks(summaries, other):
    """{(strategy, its number ``other``): (colour, mark, line)} of those that made a video."""
    summaries = [summary for summary in summaries if summary.wall_s]
    strategies = list(dict.fromkeys(summary.case.strategy for summary in summaries))
    numbers = sorted({getattr(summary.case, other) for summary in summaries}, reverse=True)
    return {
        (name, number): (_COLOURS[n % len(_COLOURS)], _MARKS[n % len(_MARKS)], _LINES[m % len(_LINES)])
        for n, name in enumerate(strategies) for m, number in enumerate(numbers)
    }


def _curve(axes, name, summaries, ranges, look):
    medians = [each.median for each in ranges]
    bars = [[each.median - each.least for each in ranges], [each.greatest - each.median for each in ranges]]
    axes.errorbar([getattr(summary.case, name) for summary in summaries], medians, yerr=bars, capsize=3, linewidth=1.5, **look)
