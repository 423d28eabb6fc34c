"""The files that a run leaves beside its frames: trace, latents, checkpoint.

Knows: which of them a DualParalConfig asks for, whose they may be, and which rank writes them. Must not know: what a run does.
"""

import logging
import shutil
from pathlib import Path

from .output.checkpoint import Checkpoint
from .output.files import check_place, reason_of, write_whole
from .output.latents_file import LatentsFile, facts_of
from .output.owners import check_owner, spec_in_json
from .output.trace import gather_trace
from .plan.render import chrome_trace

logger = logging.getLogger(__name__)


def checkpoint_of(config, spec):
    """The Checkpoint of the run with the identity ``spec``, or None."""
    return None if config.checkpoint is None else Checkpoint(config.checkpoint, spec)


def check_space(mesh, config, kept_bytes):
    """Says how much cached context is saved, and when. Raises ValueError on every rank of the replica, which must all call it, where
    the disk has not as much space: of two states, one of which takes the other's place, or of the one at a stop."""
    if config.checkpoint is None or not kept_bytes:
        return
    is_often = config.saves_on_the_way(kept_bytes)
    if mesh.decides:
        when = f"every {config.checkpoint_waves} waves" if is_often else "only when the run is stopped (see checkpoint_context_gb)"
        logger.info("the checkpoint saves up to %.3g GB of cached context, %s", kept_bytes / 1e9, when)
    mesh.on_output_rank(lambda: _check_space(config.checkpoint, kept_bytes * (2 if is_often else 1)))


def _check_space(folder, needed):
    there = next(place for place in (Path(folder).absolute(), *Path(folder).absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"the checkpoint saves {needed / 1e9:.3g} GB of cached context and {there} has {free / 1e9:.3g} GB free: give another folder, "
            "context_dtype float8, fewer context_latents, context recomputed, or no checkpoint"
        )


def latents_file(mesh, config, video):
    """What takes each finished block's latents of ``video``, or None. Every rank of the replica must call it, and raises
    ValueError when the file cannot be added to."""
    if config.latents_out is None:
        return None
    facts = facts_of(video.spec)
    return mesh.on_output_rank(lambda: LatentsFile(config.latents_out, facts, video.blocks_finished, config.overwrite, config.checkpoint))


def check_trace(mesh, config, spec):
    """Raises ValueError on every rank of the replica, which must all call it, for a trace's file that must not be replaced."""
    mesh.on_output_rank(lambda: _check_trace(mesh, config, spec))


def _check_trace(mesh, config, spec):
    if config.trace and mesh.is_last_of_all:  # the rank that writes it
        check_place(config.trace, "trace", config.checkpoint)
        check_owner(Path(config.trace), "trace", spec_in_json, spec.as_json(), config.overwrite)


def write_trace(mesh, config, spec, spans):
    """Writes what every stage of the last pipeline did; every rank of that must call it. ``spans``: this rank's, see meter.Meter."""
    if not config.trace or not mesh.in_last_pipeline:
        return
    trace = gather_trace(spans, mesh.pipeline)
    if trace is not None:
        try:
            write_whole(Path(config.trace), chrome_trace(trace, spec=spec.as_json()).encode())
        except OSError as error:  # the video is there
            logger.warning("the trace %s could not be written (%s), the video is there", config.trace, reason_of(error))
