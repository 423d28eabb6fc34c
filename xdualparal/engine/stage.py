"""One rank's slice of the transformer.

Knows: how a pass goes through the stage's layers. Must not know: other ranks, the order of passes, what a strategy wants, or
where latents come from and go to.
"""

from functools import partial
from itertools import count

import torch
from xfuser.core.distributed import get_ulysses_parallel_world_size

from ..models.identity import precision_name
from ..plan.actions import BOTH, CONDITIONAL, UNCONDITIONAL
from .context_store import ContextStore
from .residency import ResidentExperts, SwappedExperts


class Stage:
    """The ``layers`` (a range) of stage ``index`` of ``count``, or all layers, where lanes do not split them: then each of ``count``
    lanes is the first stage and the last.

    ``transformers``: one for each expert, all of one shape; whole, and then building the stage drops the other layers from
    them, or with the stage's own layers only (see models/weights.py). ``swaps_experts``: whether one expert's layers at a time
    are on the device, see residency.SwappedExperts.
    """

    def __init__(self, family, transformers, index, count, layers, swaps_experts=False, splits_layers=True):
        self.family, self.transformers, self.layers, self.index = family, list(transformers), layers, index
        self.is_first, self.is_last = index == 0 or not splits_layers, index == count - 1 or not splits_layers
        self.is_compiled, self.compile_options = False, ""
        self._dtype, self._quantization = None, None  # once the layers are quantized
        for transformer in self.transformers:
            if len(transformer.blocks) == transformer.config.num_layers:
                family.keep_stage(transformer, layers, self.is_first, self.is_last)
            assert len(transformer.blocks) == len(layers), f"{len(transformer.blocks)} layers, stage {index} has {layers}"
        self.attentions = family.prepare_attention(self.blocks)
        self.residency = SwappedExperts(self.transformers) if swaps_experts else ResidentExperts(self.transformers)

    @property
    def blocks(self):
        """The transformer blocks of all experts."""
        return [block for transformer in self.transformers for block in transformer.blocks]

    @property
    def config(self):
        """The transformers' configuration."""
        return self.transformers[0].config

    @property
    def dtype(self):
        """The transformers' dtype; of quantized layers, that of what they take and give."""
        return self._dtype or self.transformers[0].dtype

    @property
    def precision(self):
        """What a RunSpec says of the dtype and the layers' format."""
        return precision_name(self.dtype, self._quantization)

    def quantize(self, name, convert, device):
        """Has ``convert(layers, device)`` change the layers of each expert, a ModuleList, in place. ``name``: of the format.

        Raises ValueError where experts change places on the device, which only plain tensors can.
        """
        if isinstance(self.residency, SwappedExperts):
            raise ValueError(f"expert_offload moves layers that are plain tensors, not {name}: leave one of them out")
        self._dtype, self._quantization = self.dtype, name
        for transformer in self.transformers:
            convert(transformer.blocks, device)

    def compile(self, **options):
        """Compiles each of the stage's blocks for each window size, when it first runs. ``options``: torch.compile's."""
        self.is_compiled = True
        self.compile_options = ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if value is not None)
        # torch's default makes the second size's kernels serve all sizes from then on: other bits for the windows after it,
        # so that a resumed run would differ.
        options.setdefault("dynamic", False)
        for block in self.blocks:
            block.compile(**options)


class Expert:
    """One expert of a stage while it makes a video: what all its passes share.

    ``timesteps``: of all steps, since a frame of a window may stand at one that another expert does. ``text``: prompt embeddings,
    (rows, length, dim): of all branches of all videos. ``finished``: the timestep of a finished frame. ``images``: of each row, see
    base.Family.condition, or None.
    """

    def __init__(self, family, transformer, timesteps, text, finished=0, images=None):
        self.transformer, self._family = transformer, family
        timesteps = torch.cat([timesteps, timesteps.new_full((1,), finished)])
        self._conditioning, self._text = family.condition(transformer, timesteps, text, images)
        self._text_kv = family.project_text(transformer.blocks, self._text)

    def conditioning(self, steps, frame_tokens):
        """The Conditioning of a window whose frames, of ``frame_tokens`` tokens, stand at ``steps``: see PassSpec.steps."""
        conditionings = [self._conditioning[step] for step in steps]
        return conditionings[0] if len(steps) == 1 else self._family.by_frame(conditionings, frame_tokens)

    def text(self, row):
        """The text of ``row``, (1, length, dim), which all cross-attentions then see."""
        self._text_kv.use(row)
        return self._text[row:row + 1]

    def restore(self):
        """Gives the transformer back as it was."""
        self._text_kv.restore()


class StageRun:
    """A stage during a run: computes first what all passes share. Call ``end`` when the videos are made.

    ``timesteps``: (steps,). ``expert_starts``: for each expert the first of the steps that it does. ``texts``: by their numbers
    in PassSpec.texts, prompt embeddings (branches, length, dim), all of one shape. ``shard``: this rank's part of every latent
    frame, a sharding.SpatialShard. ``lasting``: see ContextStore. ``context``: where the K/V that a pass sees besides come from, by
    default a ContextStore. ``finished``: the timestep of finished frames. ``images``: by the texts' numbers, (1, image tokens, dim), where
    the family sees images.
    """

    def __init__(self, stage, timesteps, expert_starts, texts, shard, lasting=None, context=None, finished=0, images={}):
        self._stage, self._shard, self._family = stage, shard, stage.family
        text = torch.cat(list(texts.values()))
        image_rows = torch.cat([images[number].expand(len(rows), -1, -1) for number, rows in texts.items()]) if images else None
        self._branches, self.dtype = len(text) // len(texts), stage.dtype  # what travels between stages has the transformers'
        self._first_row = {number: n * self._branches for n, number in enumerate(texts)}
        self._residency = stage.residency
        self._device = text.device
        self._residency.begin(self._device)
        self._experts = [self._make_expert(number, timesteps, text, finished, image_rows) for number in range(len(expert_starts))]
        self._residency.narrow([one for transformer in stage.transformers for one in self._family.used_once(transformer)])
        self.context = context or ContextStore(stage.attentions, shard.frame_tokens, get_ulysses_parallel_world_size(), lasting, partial(self._family.moved, stage.transformers[0]))

    def _make_expert(self, number, timesteps, text, finished, images):
        self._residency.load(number)
        return Expert(self._family, self._stage.transformers[number], timesteps, text, finished, images)

    def restore(self, spec, key, branch, packed):
        """Keeps K/V that an earlier run's pass of ``spec`` left, see ContextStore.restore."""
        count = len(self._stage.layers)
        layers = self._stage.attentions[spec.expert * count:(spec.expert + 1) * count]
        self.context.restore(key, branch, layers, packed, self._device)

    def load(self, spec):
        """Brings the expert of a PassSpec to the device."""
        self._residency.load(spec.expert)

    def hidden_shape(self, spec, branch):
        """The shape of what travels between stages in a pass or half pass: (branches, tokens, dim)."""
        config, tokens = self._stage.config, spec.window_latents * self._shard.frame_tokens
        return (len(self._numbers(branch)), tokens, config.num_attention_heads * config.attention_head_dim)

    def _numbers(self, branch):
        """The numbers of the guidance branches of a FORWARD among those that this rank computes."""
        return range(self._branches) if branch == BOTH else [(CONDITIONAL, UNCONDITIONAL).index(branch)]

    def forward(self, action, spec, inputs, at_half=lambda: None, then=None):
        """The FORWARD ``action`` through this stage: one pass, or half pass, of a PassSpec.

        ``inputs``: the window's latents (1, channels, window frames, height, width) on the first stage, hidden states
        elsewhere. ``at_half``: is called when half of the layers are done, those of all branches counted. ``then``: the expert of the
        next pass, where it is another one. Returns on the last stage the prediction for the predicted frames, (branches, channels, frames, height,
        width), hidden states elsewhere.

        Branches are computed one at a time, so that a pass, two half passes and two ranks with a branch each give
        the same bits. It costs 3 % on a CPU with the demo model (whole transformer, 12 latent frames).
        """
        branches, expert = self._numbers(action.branch), self._experts[spec.expert]
        if self._stage.is_first:
            one_each = [self._family.embed(expert.transformer, inputs.to(self.dtype))] * len(branches)
        else:
            one_each = inputs.split(1)
        conditioning = expert.conditioning(spec.steps, self._shard.frame_tokens)
        rotary, before_layer = self._rotary(spec), _at_number(len(branches) * len(expert.transformer.blocks) // 2, at_half)
        results = [
            self._one_branch(spec, branch, one, conditioning, rotary, before_layer, then if branch == branches[-1] else None)
            for branch, one in zip(branches, one_each)
        ]
        result = results[0] if len(results) == 1 else torch.cat(results)
        # A receive of other bytes than are sent is no error to gloo: half of its memory stays what it was.
        assert self._stage.is_last or (result.shape, result.dtype) == (self.hidden_shape(spec, action.branch), self.dtype), result.shape
        return result

    def _rotary(self, spec):
        grid = (spec.window_latents, *self._shard.whole_grid)
        return self._family.rotary(self._experts[spec.expert].transformer, spec.position, grid, self._shard.tokens)

    def _one_branch(self, spec, branch, hidden, conditioning, rotary, before_layer, then):
        [text_number] = spec.texts
        expert = self._experts[spec.expert]
        text = expert.text(self._first_row[text_number] + branch)
        with self.context.during(spec, branch):
            for number, block in enumerate(expert.transformer.blocks):
                before_layer()
                self._residency.before(spec.expert, number)
                hidden = self._family.layer(block, hidden, text, conditioning, rotary)
                self._residency.after(number, then)
        return self._predict(spec, hidden, conditioning) if self._stage.is_last else hidden

    def _predict(self, spec, hidden, conditioning):
        first, last = (frame * self._shard.frame_tokens for frame in (spec.predicted.start, spec.predicted.stop))
        grid, tokens = (len(spec.predicted), *self._shard.grid), slice(first, last)
        own = self._family.part(conditioning, tokens)
        return self._family.head(self._experts[spec.expert].transformer, hidden[:, tokens], own, grid)

    def end(self):
        """Gives the transformers back as they were before the run."""
        for expert in self._experts:
            expert.restore()
        self._residency.end()


def _at_number(number, function):
    """A function that calls ``function`` when it is called for the time ``number``, counted from 0."""
    calls = count()

    def called():
        if next(calls) == number:
            function()

    return called
