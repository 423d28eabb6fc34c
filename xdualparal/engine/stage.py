"""One rank's slice of the transformer.

Knows: how a pass goes through the stage's layers. Must not know: other ranks, the order of passes, what a strategy wants, or
where latents come from and go to.
"""

from itertools import count

import torch
from xfuser.core.distributed import get_ulysses_parallel_world_size

from ..plan.actions import BOTH, CONDITIONAL, UNCONDITIONAL
from .context_store import ContextStore


class Stage:
    """The ``layers`` (a range) of stage ``index`` of ``count``.

    ``transformer``: whole, and then building the stage drops the other layers from it, or with the stage's own
    layers only (see models/weights.py).
    """

    def __init__(self, family, transformer, index, count, layers):
        self.family, self.transformer, self.layers = family, transformer, layers
        self.index, self.is_first, self.is_last = index, index == 0, index == count - 1
        self.is_compiled, self.compile_options = False, ""
        if len(transformer.blocks) == transformer.config.num_layers:
            family.keep_stage(transformer, layers, self.is_first, self.is_last)
        assert len(transformer.blocks) == len(layers), f"{len(transformer.blocks)} layers, stage {index} has {layers}"
        self.attentions = family.prepare_attention(transformer.blocks)

    def compile(self, **options):
        """Compiles each of the stage's blocks for each window size, when it first runs. ``options``: torch.compile's."""
        self.is_compiled = True
        self.compile_options = ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if value is not None)
        # torch's default makes the second size's kernels serve all sizes from then on: other bits for the windows after it,
        # so that a resumed run would differ.
        options.setdefault("dynamic", False)
        for block in self.transformer.blocks:
            block.compile(**options)


class StageRun:
    """A stage while it makes one video: computes first what all passes share. Call ``end`` when the video is made.

    ``timesteps``: (steps,). ``text``: prompt embeddings, (branches, length, dim). ``shard``: this rank's part of every latent
    frame, a sharding.SpatialShard.
    """

    def __init__(self, stage, timesteps, text, shard):
        self._stage, self._shard = stage, shard
        self._family, self._transformer = stage.family, stage.transformer
        self._branches = text.shape[0]
        self.dtype = stage.transformer.dtype  # what travels between stages has the transformer's
        self._conditioning, self._text = self._family.condition(self._transformer, timesteps, text)
        self._text_kv = self._family.project_text(self._transformer.blocks, self._text)
        self.context = ContextStore(stage.attentions, shard.frame_tokens, get_ulysses_parallel_world_size())

    def hidden_shape(self, spec, branch):
        """The shape of what travels between stages in a pass or half pass: (branches, tokens, dim)."""
        config, tokens = self._transformer.config, spec.window_latents * self._shard.frame_tokens
        return (len(self._numbers(branch)), tokens, config.num_attention_heads * config.attention_head_dim)

    def _numbers(self, branch):
        """The numbers of the guidance branches of a FORWARD among those that this rank computes."""
        return range(self._branches) if branch == BOTH else [(CONDITIONAL, UNCONDITIONAL).index(branch)]

    def forward(self, action, spec, inputs, at_half=lambda: None):
        """The FORWARD ``action`` through this stage: one pass, or half pass, of a PassSpec.

        ``inputs``: the window's latents (1, channels, window frames, height, width) on the first stage, hidden states
        elsewhere. ``at_half``: is called when half of the layers are done, those of all branches counted. Returns on the last stage the prediction for the predicted frames, (branches, channels, frames, height,
        width), hidden states elsewhere.

        Branches are computed one at a time, so that a pass, two half passes and two ranks with a branch each give
        the same bits. It costs 3 % on a CPU with the demo model (whole transformer, 12 latent frames).
        """
        branches = self._numbers(action.branch)
        if self._stage.is_first:
            one_each = [self._family.embed(self._transformer, inputs.to(self.dtype))] * len(branches)
        else:
            one_each = inputs.split(1)
        rotary, before_layer = self._rotary(spec), _at_number(len(branches) * len(self._transformer.blocks) // 2, at_half)
        results = [self._one_branch(spec, branch, one, rotary, before_layer) for branch, one in zip(branches, one_each)]
        return results[0] if len(results) == 1 else torch.cat(results)

    def _rotary(self, spec):
        grid = (spec.window_latents, *self._shard.whole_grid)
        return self._family.rotary(self._transformer, spec.position, grid, self._shard.tokens)

    def _one_branch(self, spec, branch, hidden, rotary, before_layer):
        [step] = spec.steps
        conditioning = self._conditioning[step]
        self._text_kv.use(branch)
        with self.context.during(spec, branch):
            for block in self._transformer.blocks:
                before_layer()
                hidden = self._family.layer(block, hidden, self._text[branch:branch + 1], conditioning, rotary)
        return self._predict(spec, hidden, conditioning) if self._stage.is_last else hidden

    def _predict(self, spec, hidden, conditioning):
        first, last = (frame * self._shard.frame_tokens for frame in (spec.predicted.start, spec.predicted.stop))
        grid = (len(spec.predicted), *self._shard.grid)
        return self._family.head(self._transformer, hidden[:, first:last], conditioning, grid)

    def end(self):
        """Gives the transformer back as it was before the run."""
        self._text_kv.restore()


def _at_number(number, function):
    """A function that calls ``function`` when it is called for the time ``number``, counted from 0."""
    calls = count()

    def called():
        if next(calls) == number:
            function()

    return called
