"""What each setting of the method does to the demo model's videos: a table and a figure.

    python examples/ablations.py FOLDER [--model tiny-wan] [--prompts 50] [--seeds 1] [--num_frames 129] [--jobs 2] [--only context-8,...]

Every setting is one `xdit-dualparal quality --model ...` with the same prompts and seeds; its figures are FOLDER/NAME.json, which
grows: the same command goes on where it was ended. Then the table, FOLDER/ablations.md: means, and of each difference from the first
setting of its group the 95 % interval over pairs of the same prompt and seed, bold where it is not about 0; FOLDER/summary.md, the
means of some of them, a row for each setting; and FOLDER/ablations.png.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xdualparal.quality.results import read_results
from xdualparal.quality.statistics import estimate, paired, with_sizes

COMMON = ["--num_inference_steps", "25", "--guidance_scale", "1.5"]  # as DESIGN section 2's table
CONTEXT_8 = ["--dualparal_context_latents", "8"]
CACHED, FEW = ["--dualparal_context", "cached"], ["--num_inference_steps", "8"]
GROUPS = {  # {what is asked: {setting: its flags}}; the first setting of a group is what the others are compared with
    "context": {f"context-{c}": ["--dualparal_context_latents", str(c)] for c in (4, 0, 2, 8)},
    "cached, C = 4": {"context-4": ["--dualparal_context_latents", "4"], "cached-4": CACHED, "cached-4-float8": [*CACHED, "--dualparal_context_dtype", "float8"]},
    "cached, C = 8": {"context-8": CONTEXT_8, "cached-8": [*CONTEXT_8, *CACHED]},
    "cached, 8 steps": {"steps-8": FEW, "cached-4-steps-8": [*CACHED, *FEW]},
    "timestep of the context": {"context-4": ["--dualparal_context_latents", "4"], "true-timestep": ["--dualparal_context_timestep", "true"]},
    "noise": {"context-4": ["--dualparal_context_latents", "4"], **{
        f"fresh-noise-{share}": ["--dualparal_fresh_noise", str(share)] for share in (0.1, 0.3, 1.0)
    }},
    "stagger": {"context-4": ["--dualparal_context_latents", "4"], **{f"stagger-{d}": ["--dualparal_stagger", str(d)] for d in (2, 5)}},
    "steps": {"context-4": ["--dualparal_context_latents", "4"], "steps-8": FEW, "steps-50": ["--num_inference_steps", "50"]},
    "strategy": {
        "context-4": ["--dualparal_context_latents", "4"],
        "video-infinity": ["--dualparal_strategy", "video_infinity", "--dualparal_degree", "2"],
        "chunks": ["--dualparal_strategy", "chunks"],
        "chunks-overlap-5": ["--dualparal_strategy", "chunks", "--dualparal_chunk_overlap_latents", "5"],
        "fifo": ["--dualparal_strategy", "fifo"],
        "fifo-no-lookahead": ["--dualparal_strategy", "fifo", "--dualparal_fifo_lookahead_latents", "0"],
        "full": ["--dualparal_strategy", "full"],
    },
}
METRICS = (  # those of one world only are left out of the other's table
    "prompt", "one_object", "all_right", "longest_jump_px", "seam_jump_px", "seam_first_ratio", "seam_pan_error_px", "pan_error_px", "fade_error", "identity",
    "in_front", "|colour_drift|", "|area_drift|", "|saturation_drift|", "loop_excess", "frozen_share",
)
SUMMARISED = (  # in the figure and the short table
    "prompt", "one_object", "longest_jump_px", "seam_jump_px", "seam_first_ratio", "identity", "|colour_drift|",
)


def main(argv=None):
    """Makes what is missing, then the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, default in (("prompts", 50), ("seeds", 1), ("num_frames", 129), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--model", default="tiny-wan", help="default: tiny-wan")
    parser.add_argument("--only", help="some settings, by name")
    arguments = parser.parse_args(argv)
    settings = {name: flags for group in GROUPS.values() for name, flags in group.items()}
    chosen = list(settings) if arguments.only is None else arguments.only.split(",")
    if unknown := set(chosen) - set(settings):
        parser.error(f"--only {', '.join(sorted(unknown))} is no setting: give some of {', '.join(settings)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(lambda name: measure(name, settings[name], arguments), chosen))
    videos = {name: read_results(arguments.folder / f"{name}.json")["videos"] for name in chosen}
    text = as_markdown(videos)
    (arguments.folder / "ablations.md").write_text(text)
    (arguments.folder / "summary.md").write_text(as_summary(videos))
    draw(videos, arguments.folder / "ablations.png")
    print(text)


def measure(name, flags, arguments):
    """One setting's file."""
    given = [flag for flag in flags if flag.startswith("--")]
    common = [part for flag, value in zip(COMMON[::2], COMMON[1::2]) if flag not in given for part in (flag, value)]
    command = [
        sys.executable, "-m", "xdualparal.xdit.cli", "quality", "--model", arguments.model, "--json", str(arguments.folder / f"{name}.json"),
        *(part for one in ("prompts", "seeds", "num_frames") for part in (f"--{one}", str(getattr(arguments, one)))),
        "--", *common, *flags,
    ]
    with open(arguments.folder / f"{name}.log", "w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env=os.environ | dict(OMP_NUM_THREADS="1"))


# The table and the figure.

def groups_of(videos):
    """{what is asked: the settings that were measured}, of groups with something to compare."""
    measured = {what: [name for name in group if name in videos] for what, group in GROUPS.items()}
    return {what: names for what, names in measured.items() if len(names) > 1 and names[0] == next(iter(GROUPS[what]))}


def metrics_in(videos):
    """The METRICS that some video has."""
    known = {name for of in videos.values() for video in of for name in with_sizes(video["metrics"])}
    return [metric for metric in METRICS if metric in known]


def as_markdown(videos):
    """A table for each group."""
    lines, metrics = [], metrics_in(videos)
    for what, names in groups_of(videos).items():
        lines += [f"| {what} | " + " | ".join(metric.replace("|", "\\|") for metric in metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(cell(videos, names[0], name, metric) for metric in metrics) + " |" for name in names]
        lines.append("")
    return "\n".join(lines)


def as_summary(videos):
    """A table with a row for each setting and its means, bold where the difference from the first one of its group is not about 0."""
    references = {name: names[0] for names in groups_of(videos).values() for name in names[1:]}
    names = [*dict.fromkeys(names[0] for names in groups_of(videos).values() if names[0] not in references), *references]
    shown = [f"{name} (to {references[name]})" if references.get(name, names[0]) != names[0] else name for name in names]
    metrics = [metric for metric in SUMMARISED if metric in metrics_in(videos)]
    lines = ["| | " + " | ".join(metric.strip("|") for metric in metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for name, words in zip(names, shown):
        cells = (cell(videos, references.get(name, name), name, metric, with_interval=False) for metric in metrics)
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def cell(videos, reference, name, metric, with_interval=True):
    """The mean, and the interval of the difference from the reference's."""
    mean = mean_of(videos[name], metric)["mean"]
    if mean is None:
        return ""
    difference = paired(videos[reference], videos[name]).get(metric)
    if name == reference or difference is None or difference["low"] is None:
        return f"{mean:.3g}"
    text = f"{mean:.3g} ({difference['low']:+.2g} to {difference['high']:+.2g})" if with_interval else f"{mean:.3g}"
    return f"**{text}**" if difference["low"] * difference["high"] > 0 else text


def mean_of(videos, metric):
    """The estimate of a metric's mean."""
    values = [(video["prompt"], with_sizes(video["metrics"]).get(metric)) for video in videos]
    return estimate([pair for pair in values if pair[1] is not None])


def draw(videos, file):
    """For each group and the metrics of the summary: each setting's mean with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups, shown = groups_of(videos), [metric for metric in SUMMARISED if metric in metrics_in(videos)]
    if not groups:
        return
    figure, axes = pyplot.subplots(len(groups), len(shown), figsize=(3 * len(shown), 0.5 + 0.32 * sum(len(names) + 2 for names in groups.values())),
                                   squeeze=False, gridspec_kw=dict(height_ratios=[len(names) + 1 for names in groups.values()]))
    for row, (what, names) in zip(axes, groups.items()):
        for axis, metric in zip(row, shown):
            draw_one(axis, [mean_of(videos[name], metric) for name in names], names if axis is row[0] else [""] * len(names))
            axis.set_title(f"{what}: {metric}" if axis is row[0] else metric, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def draw_one(axis, estimates, names):
    """Means with intervals, one below the other."""
    for place, one in enumerate(estimates):
        if one["mean"] is not None:
            low, high = (one["mean"] if one[end] is None else one[end] for end in ("low", "high"))
            axis.plot([low, high], [place, place], color="#888888", linewidth=2)
            axis.plot(one["mean"], place, "o", color="#c03030" if place else "#3060c0", markersize=5)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
