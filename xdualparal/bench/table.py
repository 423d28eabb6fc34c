"""A bench's figures as text.

Knows: Summaries and Growths. Must not know: how they were measured.
"""

_HEAD = ("strategy", "processes", "frames", "video s", "ratio", "first frames s", "forward s", "s a frame", "steady", "peak MiB of each rank")


def as_text(summaries, frames_growth, processes_growth):
    """The tables: a line for each Case, then growth. What has no video has its reason below the table."""
    parts = [_aligned([_HEAD, *map(_row, summaries)])]
    failed = [f"no video: {summary.case}: {summary.failed}" for summary in summaries if summary.failed]
    parts += ["\n".join(failed)] * bool(failed)
    if frames_growth:
        parts.append("\n".join(["Growth with frames:", *map(_frames_line, frames_growth)]))
    if processes_growth:
        parts.append("\n".join(["Growth with processes:", *map(_processes_line, processes_growth)]))
    return "\n\n".join(parts)


def _row(summary):
    case = summary.case
    a_frame = f"{summary.wall_s.median / case.num_frames:.4f}" if summary.wall_s else "-"
    peaks = " ".join(f"{peak / 2**20:.0f}" for peak in summary.peak_bytes or ()) or "-"
    return (
        case.strategy, str(case.processes), str(case.num_frames), _range(summary.wall_s, 2), _range(summary.ratio, 2),
        _range(summary.first_s, 2), _range(summary.pass_s, 4), a_frame, _range(summary.steady_s_per_frame, 4), peaks,
    )


def _range(figure, digits):
    """``median (least-greatest)``, the median alone where all are one."""
    if figure is None:
        return "-"
    median, least, greatest = (f"{number:.{digits}f}" for number in (figure.median, figure.least, figure.greatest))
    return median if least == greatest else f"{median} ({least}-{greatest})"


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows)


def _frames_line(growth):
    first, last = growth.first, growth.last
    line = (
        f"  {first.strategy}, {first.processes} process{'es' * (first.processes > 1)}: {last.num_frames / first.num_frames:.2f} times the frames ({first.num_frames} to "
        f"{last.num_frames}) take {_range(growth.time, 2)} times the time (frames to the power of {growth.exponent:.2f})"
    )
    if growth.steady_per_frame is not None:
        line += f", a frame {_range(growth.steady_per_frame, 2)} times without fill and drain"
    return line + _memory(growth)


def _processes_line(growth):
    first, last = growth.first, growth.last
    return (
        f"  {first.strategy}, {first.num_frames} frames: {last.processes} processes are {1 / growth.time.median:.2f} times as fast as "
        f"{first.processes}{_memory(growth)}"
    )


def _memory(growth):
    return "" if growth.memory is None else f", {growth.memory:.2f} times the memory on the largest rank"
