"""Layers over stages.

Knows: numbers of layers and what the ends cost. Must not know: what a layer is.
"""

from dataclasses import dataclass

from ..limits import LAYERS, check_whole
from .settings import Settings, setting


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

    def check(self):
        """Raises ValueError for a stage without layers, or a negative cost."""
        if self.stage_layers is not None:
            if not isinstance(self.stage_layers, (tuple, list)):
                raise ValueError(f"stage_layers is {self.stage_layers!r}: give a list of whole numbers, one for each stage")
            for layers in self.stage_layers:
                check_whole("stage_layers", layers, at_least=1)
        if not isinstance(self.end_costs, (tuple, list)) or len(self.end_costs) != 2:
            raise ValueError(f"end_costs is {self.end_costs!r}: give two numbers of 0 or more")
        for cost in self.end_costs:
            LAYERS.of("end_costs", cost)


def layer_ranges(num_layers, settings, num_stages):
    """A range of layers per stage: as ``settings.stage_layers`` (PartitionSettings) says, or so that the longest stage is as
    short as can be when the ends have ``settings.end_costs`` besides their layers.

    Raises ValueError when the layers do not suit the stages.
    """
    if num_stages > num_layers:
        raise ValueError(
            f"{num_stages} stages for {num_layers} layers: every stage needs a layer, give 1 to {num_layers}"
        )
    counts = settings.stage_layers or _balanced_counts(num_layers, num_stages, settings.end_costs)
    if len(counts) != num_stages or sum(counts) != num_layers:
        raise ValueError(
            f"stage_layers is {','.join(map(str, counts))}: give {num_stages} numbers, one for each stage, that add "
            f"up to the model's {num_layers} layers"
        )
    starts = [sum(counts[:stage]) for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(starts, starts[1:])]


def _balanced_counts(num_layers, num_stages, end_costs):
    """Layer after layer to the stage with the least to do; layers are alike, so no other split has a shorter longest
    stage."""
    counts, besides = [1] * num_stages, [0.0] * num_stages
    besides[0] += end_costs[0]
    besides[-1] += end_costs[1]
    for _ in range(num_layers - num_stages):
        counts[min(range(num_stages), key=lambda stage: counts[stage] + besides[stage])] += 1
    return counts
