"""Layers over stages.

Knows: numbers of layers, what the ends cost and what they hold. Must not know: what a layer is.
"""

from dataclasses import dataclass
from math import floor

from ..limits import LAYERS, check_whole, how_given
from .settings import Settings, setting

# What the first and the last stage hold besides their layers, in layers' memory. Wan 14B in bfloat16 at 480 x 832 (plan/memory.py): a
# layer 0.70 GB; the embedding next to nothing; the VAE 0.5 GB, its memory 3.8 GB and what it holds while it decodes 5 GB. A constant,
# since the split must be the same on all ranks and for all videos of a pipeline; the last stage is the fuller one with any model.
END_MEMORY = (0.001, 13.0)
_ROUNDING = 1e-9  # of sums of costs, in layers


@dataclass(frozen=True)
class PartitionSettings(Settings):
    """How the transformer's layers are split over the stages."""

    stage_layers: tuple[int, ...] | None = setting(
        None, "layers for each stage, for example 7,8,8,7; by default balanced, see end_costs"
    )
    # Measured with the shape of Wan2.1-T2V-1.3B, embedding and head (one CPU thread, 240 tokens a frame).
    end_costs: tuple[float, float] = setting(
        (0.003, 0.005), "what the first and the last stage do in a pass besides their layers, in layers' time, for "
        "example 0,2.5; the layers are split so that the longest stage is as short as can be"
    )

    expert_offload: bool = setting(
        False, "of a model with two transformers (Wan2.2-T2V-A14B) keep one at a time on the device and the other in host memory: "
        "half the weights, for a copy of them twice a wave"
    )

    def check(self):
        """Raises ValueError for a stage without layers, or a negative cost."""
        if self.stage_layers is not None:
            if not isinstance(self.stage_layers, (tuple, list)):
                raise ValueError(f"stage_layers is {self.stage_layers!r}: give a list of whole numbers, one for each stage")
            for layers in self.stage_layers:
                check_whole("stage_layers", layers, at_least=1)
        if not isinstance(self.end_costs, (tuple, list)) or len(self.end_costs) != 2:
            raise ValueError(f"end_costs {how_given(self.end_costs)}: give two numbers of 0 or more")
        for cost in self.end_costs:
            LAYERS.of("end_costs", cost)


def layer_ranges(num_layers, settings, num_stages, end_memory=END_MEMORY):
    """A range of layers per stage: as ``settings.stage_layers`` (PartitionSettings) says, or so that the longest stage is as
    short as can be when the ends have ``settings.end_costs`` besides their layers, and of such splits one whose fullest stage is
    as empty as can be when the ends hold ``end_memory`` besides, in layers' memory.

    Raises ValueError when the layers do not suit the stages.
    """
    if num_stages > num_layers:
        raise ValueError(
            f"{num_stages} stages for {num_layers} layers: every stage needs a layer, give 1 to {num_layers}"
        )
    counts = settings.stage_layers or _balanced_counts(num_layers, num_stages, settings.end_costs, end_memory)
    if len(counts) != num_stages or sum(counts) != num_layers:
        raise ValueError(
            f"stage_layers is {','.join(map(str, counts))}: give {num_stages} numbers, one for each stage, that add "
            f"up to the model's {num_layers} layers"
        )
    starts = [sum(counts[:stage]) for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(starts, starts[1:])]


def _balanced_counts(num_layers, num_stages, end_costs, end_memory):
    """First as many layers as a stage may have without a longer longest stage, then the layers by memory."""
    costs, held = _at_the_ends(num_stages, end_costs), _at_the_ends(num_stages, end_memory)
    fastest = _filled(num_layers, costs, [num_layers] * num_stages)
    longest = max(map(sum, zip(fastest, costs)))
    return _filled(num_layers, held, [floor(longest - cost + _ROUNDING) for cost in costs])


def _at_the_ends(num_stages, ends):
    amounts = [0.0] * num_stages
    amounts[0] += ends[0]
    amounts[-1] += ends[1]
    return amounts


def _filled(num_layers, amounts, most):
    """A layer for each stage, then layer after layer to the stage with the least (``amounts`` besides its layers, in layers) of
    those with fewer than ``most``. Layers are alike, so no other split has a smaller largest sum."""
    counts = [1] * len(amounts)
    for _ in range(num_layers - len(amounts)):
        able = [stage for stage, count in enumerate(counts) if count < most[stage]]
        counts[min(able, key=lambda stage: counts[stage] + amounts[stage])] += 1
    return counts
