"""Whether a video stands still, or shows again what it has shown.

Knows: thumbnails and one figure a frame. Must not know: scenes, files.
"""

import numpy as np

FROZEN_SHARE = 0.001  # of pixels that change: fewer, and the frame is the one before
WINDOW = 8  # anchors: with 4 frames from one to the next, 2 seconds at 16 frames a second, must repeat
NEAR = 0.6  # of the step from an anchor to the next: half a step is what a repetition can be off the anchors' grid


def frozen_share(series):
    """The share of frames, but the first, that are the one before them, 0 to 1; None for a single frame."""
    changed = series.of("changed_share")[1:]
    return float((changed < FROZEN_SHARE).mean()) if len(changed) else None


def loop_metrics(anchors, stride):
    """``loop_share``: of the stretches of WINDOW anchors that move, the share that repeats an earlier stretch, 0 to 1;
    ``loop_lag_frames``: how long before, the most frequent lag (None: nothing repeats).

    anchors: (n, rows, columns, 3) float32. A stretch repeats one at least WINDOW anchors earlier when its mean distance from
    it, anchor by anchor, is at most NEAR of its own mean step. Camera and objects that only pass the same place once more
    do not count, a return with the same motion does. Both None where there are fewer than 2 WINDOW anchors.
    """
    count = len(anchors)
    if count < 2 * WINDOW:
        return dict(loop_share=None, loop_lag_frames=None)
    flat = anchors.reshape(count, -1)
    step = _window_means(np.abs(np.diff(flat, axis=0, prepend=flat[:1])).mean(axis=1))
    best, lags = np.full(len(step), np.inf), np.zeros(len(step), int)
    for lag in range(WINDOW, count - WINDOW + 1):
        distance = _window_means(np.abs(flat[lag:] - flat[:-lag]).mean(axis=1))
        nearer = distance < best[lag:]
        best[lag:][nearer], lags[lag:][nearer] = distance[nearer], lag
    moves = step > FROZEN_SHARE  # mean change of a colour, 0 to 1
    repeats = moves & (best <= NEAR * step)
    found = np.bincount(lags[repeats])
    share = repeats.sum() / moves.sum() if moves.any() else 0.0
    return dict(loop_share=float(share), loop_lag_frames=int(found.argmax()) * stride if len(found) else None)


def _window_means(values):
    """The mean of each WINDOW successive values."""
    sums = np.cumsum(np.insert(values.astype(np.float64), 0, 0))
    return (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
