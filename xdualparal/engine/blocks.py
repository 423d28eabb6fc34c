"""The latents of the blocks in flight.

Knows: latents by the pass after which they stand, and each block's scheduler state. Must not know: the transformer, other
stages, how latents travel, or which ones a window is made of (its PassSpec says so).
"""

import torch

from ..models import schedulers
from ..plan.actions import Pass


class BlockStore:
    """The first stage's latents: it makes the windows.

    ``noises``: for each video what yields the initial latents, (1, channels, frames, height, width), of its blocks that start
    from now on.
    ``live``: {Pass: latents after it}, what Plan.live names where a run is resumed. ``given``: {video: given.GivenFrames}, of the
    videos that begin with given frames. ``context_noise``: {video: context_noise.ContextNoise}, where finished blocks are shown with some. ``conditions``: {video: see
    base.Family.image_condition}, where channels stand beside the latents.
    """

    def __init__(self, noises, device, live=(), given={}, context_noise={}, conditions={}):
        self._noises, self._device, self._given, self._context_noise, self._conditions = noises, device, given, context_noise, conditions
        self._latents = {one: latents.to(device) for one, latents in dict(live).items()}

    def has(self, one):
        """Whether the latents are here as they stand after the pass ``one``."""
        return one in self._latents

    def put(self, one, latents):
        """The block's own latents after the pass ``one``, (1, channels, own frames, height, width)."""
        self._latents[one] = latents

    def window(self, spec):
        """The window of a PassSpec, (1, channels, window frames, height, width), with the channels that stand beside it. A block's noise is drawn when it
        starts."""
        parts = [self._after(frames.one)[:, :, frames.first:frames.first + frames.count] for frames in spec.window]
        window, video = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2), spec.window[-1].one.video
        window = self._given[video].in_window(window, spec.steps) if spec.given else window
        if video in self._context_noise:
            window = self._context_noise[video].in_window(window, spec)
        if video not in self._conditions:
            return window
        return torch.cat([window, self._conditions[video].of(spec.position, spec.window_latents).to(window)], dim=1)

    def free(self, passes):
        """The latents after ``passes`` are needed no more."""
        for one in passes:
            del self._latents[one]

    def _after(self, one):
        if one.step < 0 and one not in self._latents:
            self._latents[one] = next(self._noises[one.video]).to(self._device)
        return self._latents[one]


class Denoiser:
    """The last stage's latents, with each block's own scheduler: it takes the steps.

    ``make_scheduler``: returns a fresh scheduler with its timesteps set (UniPC and DPM++ keep history, so every block needs
    its own). ``noises``: as for BlockStore. ``in_flight``: what ``state`` gave, where a run is resumed. ``step_noises``, for each
    video a noise.StepNoise or None, and ``shard`` (sharding.SpatialShard): where the scheduler adds noise in its steps, which is
    drawn for the whole block.
    """

    def __init__(self, make_scheduler, timesteps, noises, device, in_flight=(), step_noises={}, shard=None):
        self.timesteps, self._device = timesteps, device
        self._step_noises, self._shard = step_noises, shard
        self._make_scheduler, self._noises = make_scheduler, noises
        self._blocks = {}  # latents and scheduler, by the pass after which they stand
        for one, (latents, remembered) in dict(in_flight).items():
            scheduler = make_scheduler()
            vars(scheduler).update(map_tensors(remembered, lambda tensor: tensor.to(device)))
            self._blocks[Pass(*one)] = latents.to(device), scheduler

    def advance(self, one, prediction):
        """The own latents after the pass ``one``, float32; they are remembered until the last step.

        ``prediction``: (1, channels, own frames, height, width), guidance already applied. Schedulers compute in float32:
        FlowMatchEulerDiscreteScheduler would give latents in the prediction's dtype.
        """
        latents, scheduler = self._before(one)
        latents = self._step(scheduler, one, prediction.to(latents.dtype), latents)
        # A receive of other bytes than are sent is no error to gloo: half of its memory stays what it was.
        assert latents.dtype == torch.float32, f"{type(scheduler).__name__} made {latents.dtype}, and messages of latents are float32"
        if one.step < len(self.timesteps) - 1:
            self._blocks[one] = latents, scheduler
        return latents

    def blended(self, one, latents, layout):
        """What the video has of the block that the pass ``one`` has finished, of its own ``latents``: where it overlaps the block before
        (Layout.overlap_latents), both, and not what the next one has, too, which is remembered for that.

        The first of V common frames is V / (V + 1) of the block before and 1 / (V + 1) of this one, the last one the reverse.
        """
        overlap, given = layout.overlap_latents, layout.given_latents(one.block)
        if not overlap:
            return latents
        if given < latents.shape[2]:
            self._blocks[one] = latents[:, :, given:].clone(), self._make_scheduler()
        if not one.block:
            return latents[:, :, :given].contiguous()
        before, _ = self._blocks.pop(one._replace(block=one.block - 1))
        share = (torch.arange(1, overlap + 1, device=latents.device) / (overlap + 1)).view(-1, 1, 1)
        return torch.cat([(1 - share) * before + share * latents[:, :, :overlap], latents[:, :, overlap:given]], dim=2)

    def _step(self, scheduler, one, prediction, latents):
        timestep, step_noise = self.timesteps[one.step], self._step_noises.get(one.video)
        if step_noise is None:
            return schedulers.step(scheduler, prediction, timestep, latents)
        # Schedulers draw noise of their sample's shape and treat number by number: so the whole block, zeros at the other
        # ranks' places.
        _change_latents(scheduler, self._shard.spread)
        prediction, latents = self._shard.spread(prediction), self._shard.spread(latents)
        latents = schedulers.step(scheduler, prediction, timestep, latents, step_noise.generator(one))
        _change_latents(scheduler, self._shard.take)
        return self._shard.take(latents)

    def _before(self, one):
        if one.step == 0:
            return next(self._noises[one.video]).to(self._device), self._make_scheduler()
        return self._blocks.pop(one._replace(step=one.step - 1))

    def state(self):
        """{(video, block, last step done): (latents, what the scheduler remembers)} of the blocks in flight, as plain values
        and tensors."""
        fresh = self._make_scheduler() if self._blocks else None
        return {tuple(one): (latents, _remembered(scheduler, fresh)) for one, (latents, scheduler) in self._blocks.items()}


def _remembered(scheduler, fresh):
    """What a diffusers scheduler knows of its block's past; its tables and configuration a ``fresh`` one has, too."""
    before = vars(fresh)
    return {
        name: value for name, value in vars(scheduler).items()
        if isinstance(value, _KEPT) and not (isinstance(value, torch.Tensor) and _is_same(value, before.get(name)))
    }


_KEPT = (type(None), bool, int, float, str, list, tuple, torch.Tensor)


def _is_same(tensor, other):
    return isinstance(other, torch.Tensor) and tensor.shape == other.shape and torch.equal(tensor, other)


def _change_latents(scheduler, function):
    """Applies ``function`` to all latents that ``scheduler`` remembers."""
    for name, value in vars(scheduler).items():
        if isinstance(value, (list, tuple, torch.Tensor)):
            setattr(scheduler, name, map_tensors(value, lambda one: function(one) if _is_latents(one) else one))


def _is_latents(value):
    return isinstance(value, torch.Tensor) and value.dim() == 5


def map_tensors(value, function):
    """``value``, made of dicts, lists, tuples and plain values, with ``function`` applied to every tensor in it."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: map_tensors(one, function) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(one, function) for one in value)
    return value


def apply_guidance(prediction, scale):
    """Classifier-free guidance over the branches of a prediction, (branches, channels, frames, height, width).

    Branch 0 follows the prompt, branch 1, where there is one, the negative prompt; returns one branch.
    """
    if prediction.shape[0] == 1:
        return prediction
    conditional, unconditional = prediction.chunk(2)
    return unconditional + scale * (conditional - unconditional)
