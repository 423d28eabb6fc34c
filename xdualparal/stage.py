"""One rank's slice of the transformer.

Knows: which layers are its own, and how a pass goes through them. Must not know: other ranks, the order of
passes, or where latents come from and go to.
"""

from xfuser.core.distributed import get_ulysses_parallel_world_size

from .feature_cache import ContextCache


def layer_ranges(num_layers, num_stages):
    """A range of layers per stage, as even as can be; the first stages take the rest."""
    if num_stages > num_layers:
        raise ValueError(
            f"{num_stages} stages for {num_layers} layers: every stage needs a layer, give 1 to {num_layers}"
        )
    size, rest = divmod(num_layers, num_stages)
    starts = [n * size + min(n, rest) for n in range(num_stages + 1)]
    return [range(a, b) for a, b in zip(starts, starts[1:])]


class Stage:
    """The layers of stage ``index`` of ``count``.

    ``transformer``: whole, and then building the stage drops the other layers from it, or with the stage's own
    layers only (see xdit/weights.py).
    """

    def __init__(self, family, transformer, index, count):
        self.family, self.transformer = family, transformer
        self.index, self.is_first, self.is_last = index, index == 0, index == count - 1
        layers = layer_ranges(transformer.config.num_layers, count)[index]
        if len(transformer.blocks) == transformer.config.num_layers:
            family.keep_stage(transformer, layers, self.is_first, self.is_last)
        assert len(transformer.blocks) == len(layers), f"{len(transformer.blocks)} layers, stage {index} has {layers}"
        self._attentions = family.prepare_attention(transformer.blocks)

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
        self._conditioning, self._text = self._family.condition(self._transformer, timesteps, text)
        self._let_go_of_text = self._family.hold_text(self._transformer.blocks, self._text)
        self.cache = ContextCache(
            stage._attentions, config.context_latents, shard.frame_tokens, get_ulysses_parallel_world_size()
        )

    @property
    def dtype(self):
        """The dtype of what travels between stages: the transformer's."""
        return self._transformer.dtype

    @property
    def hidden_shape(self):
        """The shape of what travels between stages: (branches, tokens, dim). It is the same in every pass."""
        config = self._transformer.config
        tokens = self._config.window_latents * self._shard.frame_tokens
        return (self.branches, tokens, config.num_attention_heads * config.attention_head_dim)

    def forward(self, action, reads, keeps, inputs):
        """One pass through this stage.

        ``reads`` and ``keeps``: see ContextCache.of_pass. ``inputs``: the window's latents (1, channels, B + C,
        height, width) on the first stage, hidden states elsewhere. Returns the prediction for the block's own
        frames, (branches, channels, own frames, height, width), on the last stage, hidden states elsewhere.
        """
        grid, start = (self._config.window_latents, *self._shard.whole_grid), action.block * self._config.block_latents
        conditioning = self._conditioning[action.step]
        rotary = self._family.rotary(self._transformer, start, grid, self._shard.tokens)
        hidden = self._embed(inputs) if self._stage.is_first else inputs
        with self.cache.of_pass(reads, keeps):
            for block in self._transformer.blocks:
                hidden = block(hidden, self._text, conditioning.blocks, rotary)
        return self._predict(action, hidden, conditioning) if self._stage.is_last else hidden

    def _embed(self, latents):
        tokens = self._family.embed(self._transformer, latents.to(self.dtype))
        return tokens.expand(self.branches, -1, -1)

    def _predict(self, action, hidden, conditioning):
        own = self._config.own_latents(action.block)
        hidden = hidden[:, -own * self._shard.frame_tokens:]  # the previous context's predictions are dropped
        return self._family.head(self._transformer, hidden, conditioning, (own, *self._shard.grid))

    def end(self):
        """Gives the transformer back as it was before the run."""
        self._let_go_of_text()
