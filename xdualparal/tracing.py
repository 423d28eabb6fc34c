"""Brings the stages' recordings together in one file.

Knows: that every rank of a pipeline has spans. Must not know: how they were measured or are drawn.
"""

import torch.distributed as dist

from .render import chrome_trace
from .simulate import Trace


def write_trace(path, spans, pipeline_group):
    """Writes all stages' ``spans`` to ``path`` as a Chrome trace, from the last rank of ``pipeline_group`` (xDiT's).

    Every rank of the group must call it. Clocks of several hosts are not aligned.
    """
    rows, last = [None] * pipeline_group.world_size, pipeline_group.ranks[-1]
    if pipeline_group.world_size == 1:
        rows = [spans]
    else:
        here = rows if pipeline_group.rank == last else None
        dist.gather_object(spans, here, dst=last, group=pipeline_group.cpu_group)
    if pipeline_group.rank == last:
        with open(path, "w") as file:
            file.write(chrome_trace(Trace(tuple(map(tuple, rows)))))
