"""Brings the recordings of a pipeline's ranks together.

Knows: that every rank of a pipeline has spans, and the last one maybe the decode lane's. Must not know: how they were
measured or are drawn.
"""

import torch.distributed as dist

from ..plan.simulate import make_trace


def gather_trace(spans, pipeline_group):
    """The Trace of all ranks' ``spans`` on the last rank of ``pipeline_group`` (xDiT's), None on the others.

    Every rank of the group must call it. Clocks of several hosts are not aligned.
    """
    gathered, last = [None] * pipeline_group.world_size, pipeline_group.ranks[-1]
    if pipeline_group.world_size == 1:
        gathered = [spans]
    else:
        here = gathered if pipeline_group.rank == last else None
        dist.gather_object(spans, here, dst=last, group=pipeline_group.cpu_group)
    if pipeline_group.rank != last:
        return None
    rows = {}
    for span in (span for spans in gathered for span in spans):
        rows.setdefault(span.action.lane, []).append(span)
    return make_trace([rows[n] for n in sorted(rows)], pipeline_group.world_size)
