"""All metrics of one video.

Knows: which metrics there are. Must not know: files, flags.
"""

from .drift import drift_metrics
from .facts import VideoFacts
from .reference import reference_loop_share
from .repetition import frozen_share, loop_metrics
from .seams import seam_metrics
from .series import Series
from .worlds import world_of


def measure_video(frames, facts=VideoFacts(), scene=None, watch=()):
    """Computes a dict of metrics, floats or None (not known), each as the module that computes it says.

    frames: an iterable of (height, width, 3) uint8 arrays, or one array of them; read once, none is kept. ``facts``: where blocks meet
    (without the sizes of blocks there are no metrics of seams). ``scene``: of a demo world, for those of its videos.
    ``watch``: objects with ``add(frame)``, which are given each frame, too. Raises ValueError for no frames, and for frames that are
    not as these metrics need them.
    """
    return metrics_of(*watch_video(frames, facts, scene, watch), facts)


def watch_video(frames, facts, scene=None, watch=()):
    """(Series, the scene's track or None) of ``frames``; see measure_video and World.track."""
    series, track = Series(facts.frames_per_latent), None if scene is None else world_of(scene).track(scene)
    watchers = [*watch, series] if track is None else [*watch, series, track]
    for frame in frames:
        for watcher in watchers:
            watcher.add(frame)
    if not len(series):
        raise ValueError("the video has no frame: give one that has")
    return series, track


def metrics_of(series, track, facts):
    """The metrics of what ``watch_video`` saw."""
    loops = loop_metrics(series.anchors, series.anchor_stride)
    metrics = dict(frames=len(series)) | seam_metrics(series, facts) | drift_metrics(series)
    metrics |= dict(frozen_share=frozen_share(series)) | loops
    if track is not None:
        expected = reference_loop_share(track.scene, len(series.anchors), series.anchor_stride)
        excess = None if expected is None else loops["loop_share"] - expected
        metrics |= dict(loop_excess=excess) | track.metrics(facts)
    return metrics
