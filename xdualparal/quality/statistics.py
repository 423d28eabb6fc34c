"""Means over videos with their 95 % intervals.

Knows: metrics of videos, each of a prompt and a seed. Must not know: files.
"""

import math

import numpy as np

RESAMPLES = 2000
NO_MEASURES = ("frames", "seams", "phases", "loop_lag_frames", "pan_px")  # what a video is, a place in it, a direction: their means say nothing
SIGNED = "_drift"  # metrics that differ in sign from video to video: their sizes are averaged, too


def summary(videos):
    """{metric: dict(mean, low, high, videos)} of ``videos``, [dict(prompt, seed, metrics)]; low to high is the 95 % interval.

    A bootstrap over prompts: videos of one prompt are alike, so whole prompts are drawn, with all their seeds, RESAMPLES times by a fixed
    generator; the interval is from the 2.5 to the 97.5 percentile of the means. With one prompt there is none (None). Of metrics
    that may go either way (``..._drift``) ``|...|`` is the mean size.
    """
    rows = [(video["prompt"], with_sizes(video["metrics"])) for video in videos]
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    return {name: estimate([(prompt, metrics[name]) for prompt, metrics in rows if is_known(metrics.get(name))]) for name in names}


def paired(before, after):
    """The same of the differences, ``after`` minus ``before``, of videos of the same prompt and seed; metrics that both have.

    Raises ValueError where no prompt and seed is in both.
    """
    first = {(video["prompt"], video["seed"]): with_sizes(video["metrics"]) for video in before}
    second = {(video["prompt"], video["seed"]): with_sizes(video["metrics"]) for video in after}
    both = [pair for pair in first if pair in second]
    if not both:
        raise ValueError("no prompt and seed is in both: compare runs with the same --prompts and --seeds")
    differences = [
        dict(prompt=pair[0], metrics={
            name: second[pair][name] - value for name, value in first[pair].items()
            if is_known(value) and is_known(second[pair].get(name))
        }) for pair in both
    ]
    names = list(dict.fromkeys(name for row in differences for name in row["metrics"]))
    return {
        name: estimate([(row["prompt"], row["metrics"][name]) for row in differences if name in row["metrics"]]) for name in names
    }


def estimate(values):
    """dict(mean, low, high, videos) of ``values``, [(prompt, number)]; None where there are too few."""
    if not values:
        return dict(mean=None, low=None, high=None, videos=0)
    by_prompt = {}
    for prompt, value in values:
        by_prompt.setdefault(prompt, []).append(value)
    sums, counts = (np.array([of(v) for v in by_prompt.values()], float) for of in (sum, len))
    low = high = None
    if len(by_prompt) > 1:
        drawn = np.random.default_rng(0).integers(len(sums), size=(RESAMPLES, len(sums)))
        low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5]).tolist()
    return dict(mean=float(sums.sum() / counts.sum()), low=low, high=high, videos=len(values))


def with_sizes(metrics):
    """The measures in ``metrics`` and, of those that are signed, the sizes."""
    metrics = {name: value for name, value in metrics.items() if name not in NO_MEASURES}
    sizes = {f"|{name}|": abs(value) for name, value in metrics.items() if SIGNED in name and is_known(value)}
    return metrics | sizes


def is_known(value):
    """Whether ``value`` is a finite number."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def table(estimates):
    """``estimates`` as text: a line for each metric, its mean, 95 % interval and number of videos."""
    rows = [("", "mean", "95 % interval", "videos")]
    for name, of in estimates.items():
        interval = "" if of["low"] is None else f"{of['low']:.4g} to {of['high']:.4g}"
        rows.append((name, "" if of["mean"] is None else f"{of['mean']:.4g}", interval, str(of["videos"])))
    return "\n".join(f"{name:<22}{mean:>12}{interval:>28}{count:>8}".rstrip() for name, mean, interval, count in rows)
