"""One rank's slice of the transformer.

Knows: which layers are its own, and how a pass goes through them. Must not know: other ranks, the order of
passes, or where latents come from and go to.
"""

import torch
from xfuser.core.distributed import get_ulysses_parallel_world_size

from .context_store import ContextCache
from ..plan.schedule import BOTH, CONDITIONAL, UNCONDITIONAL


def layer_ranges(num_layers, config, num_stages):
    """A range of layers per stage: as ``config.stage_layers`` says, or so that the longest stage is as short as can be
    when the ends have ``config.end_costs`` besides their layers.

    Raises ValueError when the layers do not suit the stages.
    """
    if num_stages > num_layers:
        raise ValueError(
            f"{num_stages} stages for {num_layers} layers: every stage needs a layer, give 1 to {num_layers}"
        )
    counts = config.stage_layers or _balanced_counts(num_layers, num_stages, config.end_costs)
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


class Stage:
    """The layers of stage ``index`` of ``count``, split as ``layer_ranges`` says for ``config``.

    ``transformer``: whole, and then building the stage drops the other layers from it, or with the stage's own
    layers only (see xdit/weights.py).
    """

    def __init__(self, family, transformer, index, count, config):
        self.family, self.transformer = family, transformer
        self.index, self.is_first, self.is_last = index, index == 0, index == count - 1
        layers = layer_ranges(transformer.config.num_layers, config, count)[index]
        if len(transformer.blocks) == transformer.config.num_layers:
            family.keep_stage(transformer, layers, self.is_first, self.is_last)
        assert len(transformer.blocks) == len(layers), f"{len(transformer.blocks)} layers, stage {index} has {layers}"
        self._attentions = family.prepare_attention(transformer.blocks)

    def compile(self, **options):
        """Compiles each of the stage's blocks when it first runs. ``options``: torch.compile's."""
        for block in self.transformer.blocks:
            block.compile(**options)

    def begin(self, config, timesteps, text, shard):
        """Computes what all passes of a run share; returns the run, see StageRun.

        ``timesteps``: (steps,). ``text``: prompt embeddings, (branches, length, dim). ``shard``: this rank's part of
        every latent frame, a sharding.SpatialShard.
        """
        return StageRun(self, config, timesteps, text, shard)


class StageRun:
    """A stage while it makes one video. Call ``end`` when it is made."""

    def __init__(self, stage, config, timesteps, text, shard):
        self._stage, self._config, self._shard = stage, config, shard
        self._family, self._transformer = stage.family, stage.transformer
        self.branches = text.shape[0]
        self.dtype = stage.transformer.dtype  # what travels between stages has the transformer's
        self._conditioning, self._text = self._family.condition(self._transformer, timesteps, text)
        self._held_text = self._family.hold_text(self._transformer.blocks, self._text)
        self.cache = ContextCache(
            stage._attentions, config.context_latents, shard.frame_tokens, get_ulysses_parallel_world_size()
        )

    def hidden_shape(self, action):
        """The shape of what travels between stages in the FORWARD ``action``: (branches, tokens, dim)."""
        config = self._transformer.config
        tokens = self._config.window_latents * self._shard.frame_tokens
        return (len(self._branches(action)), tokens, config.num_attention_heads * config.attention_head_dim)

    def _branches(self, action):
        """The indices of the branches of the FORWARD ``action`` among those that this rank computes."""
        return range(self.branches) if action.branch == BOTH else [(CONDITIONAL, UNCONDITIONAL).index(action.branch)]

    def forward(self, action, reads, keeps, inputs):
        """One pass, or half pass, through this stage.

        ``reads`` and ``keeps``: the Actions whose next context is read and kept, or None. ``inputs``: the window's
        latents (1, channels, B + C, height, width) on the first stage, hidden states elsewhere. Returns the prediction
        for the block's own frames, (branches, channels, own frames, height, width), on the last stage, hidden states
        elsewhere.

        Branches are computed one at a time, so that a pass, two half passes and two ranks with a branch each give
        the same bits. It costs 3 % on a CPU with the demo model (whole transformer, 12 latent frames).
        """
        if self._stage.is_first:
            one_each = [self._family.embed(self._transformer, inputs.to(self.dtype))] * len(self._branches(action))
        else:
            one_each = inputs.split(1)
        conditioning, rotary = self._conditioning[action.step], self._rotary(action.block)
        results = [
            self._one_branch(action, branch, reads, keeps, one, conditioning, rotary)
            for branch, one in zip(self._branches(action), one_each)
        ]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _rotary(self, block):
        grid = (self._config.window_latents, *self._shard.whole_grid)
        return self._family.rotary(self._transformer, block * self._config.block_latents, grid, self._shard.tokens)

    def _one_branch(self, action, branch, reads, keeps, hidden, conditioning, rotary):
        self._held_text.use(branch)
        with self.cache.of_pass(reads and (reads, branch), keeps and (keeps, branch)):
            for block in self._transformer.blocks:
                hidden = block(hidden, self._text[branch:branch + 1], conditioning.blocks, rotary)
        return self._predict(action, hidden, conditioning) if self._stage.is_last else hidden

    def _predict(self, action, hidden, conditioning):
        own = self._config.own_latents(action.block)
        hidden = hidden[:, -own * self._shard.frame_tokens:]  # the previous context's predictions are dropped
        return self._family.head(self._transformer, hidden, conditioning, (own, *self._shard.grid))

    def end(self):
        """Gives the transformer back as it was before the run."""
        self._held_text.restore()
