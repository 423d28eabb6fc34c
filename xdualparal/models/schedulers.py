"""Which schedulers a flow model's blocks can be driven with.

Knows: the interface of diffusers' schedulers, as WanPipeline uses it. Must not know: blocks, stages, processes, files.

A scheduler is judged by what it does, not by its name. Wan predicts the velocity v = noise - video, so for a "model" that knows
the one video x0 there is v = (x - x0) / sigma, and every right sampler goes from any noise to x0. One that expects another
prediction or other noise levels ends elsewhere. Facts are from diffusers 0.42.1, pipelines/wan/pipeline_wan.py.
"""

import inspect
from dataclasses import dataclass

import torch

SHIFT_NAMES = ("flow_shift", "shift")  # as UniPC and DPM++, and as diffusers' flow matching schedulers call it
TRAINED_STEPS = 1000  # Wan's timesteps are noise levels of 0 to 1 times this (diffusers' num_train_timesteps)
_SAMPLE = (1, 2, 3, 2, 2)  # a small block's latents: (1, channels, frames, height, width)
# Largest difference of a timestep and its noise level, in timesteps: UniPC and DPM++ round timesteps down to whole numbers,
# after taking at most 1 from noise levels of 1.
_TIMESTEP_BAR = 2.0
_END_BAR = 0.02  # largest error at the end, of noise with deviation 1; measured in 4 steps: right ones 2e-4 at most, wrong ones 0.3
_FEW_STEPS = 4  # with many steps the last ones are so short that wrong samplers end right, too
_INSTEAD = (
    "give a flow scheduler with one model call a step, for example UniPCMultistepScheduler(prediction_type="
    "'flow_prediction', use_flow_sigmas=True, flow_shift=3.0) or FlowMatchEulerDiscreteScheduler(shift=3.0)"
)


@dataclass(frozen=True)
class SchedulerFacts:
    """What a run must know of its scheduler. ``draws_noise``: whether its steps add noise, from the generator given to them."""

    draws_noise: bool


def check_scheduler(scheduler, num_steps):
    """Drives a fresh scheduler of the kind of ``scheduler`` through ``num_steps`` steps; returns its SchedulerFacts.

    ``scheduler`` and torch's random numbers stay as they are. Raises ValueError, with the scheduler's name and what to give
    instead, for one that would make another video than asked for, or noise.
    """
    name = type(scheduler).__name__
    reason = _reason_in_config(scheduler)
    if reason is None:
        with torch.random.fork_rng(devices=[]):
            reason, draws_noise = _tried(scheduler, num_steps)
    if reason is not None:
        raise ValueError(f"the scheduler {name} {reason}: {_INSTEAD}")
    return SchedulerFacts(draws_noise)


def fresh_scheduler(scheduler, num_steps, device="cpu"):
    """A scheduler of the same kind and settings, a changed shift too, with its timesteps set."""
    fresh = type(scheduler).from_config(scheduler.config)
    if hasattr(scheduler, "set_shift"):  # changes the shift of an instance, not its configuration
        fresh.set_shift(scheduler.shift)
    fresh.set_timesteps(num_steps, device=device)
    fresh.set_begin_index(0)
    return fresh


def step(scheduler, prediction, timestep, latents, generator=None):
    """The latents, (1, channels, frames, height, width), after one step. ``generator``: draws the noise that the step adds."""
    takes = {} if generator is None or not _takes_generator(scheduler) else dict(generator=generator)
    return scheduler.step(prediction, timestep, latents, return_dict=False, **takes)[0]


def flow_shift(scheduler):
    """The shift of the noise levels that is used, whatever its name; None for a scheduler without one."""
    if hasattr(scheduler, "set_shift"):
        return float(scheduler.shift)
    values = [scheduler.config[name] for name in SHIFT_NAMES if scheduler.config.get(name) is not None]
    return float(values[0]) if values else None


def with_flow_shift(scheduler, shift):
    """A scheduler like ``scheduler`` with another shift. Raises ValueError where it would have no effect."""
    names = [name for name in SHIFT_NAMES if name in inspect.signature(type(scheduler).__init__).parameters]
    made = [type(scheduler).from_config(scheduler.config, **{names[0]: value}) for value in (shift, 2 * shift) if names]
    if not made or _same_noise_levels(*made):
        raise ValueError(
            f"flow_shift is {shift:g} and the scheduler {type(scheduler).__name__}, with its settings, has no shift that it "
            "would change: leave it out"
        )
    return made[0]


def _same_noise_levels(one, other):
    for scheduler in (one, other):
        scheduler.set_timesteps(8)  # one step has the same noise levels at any shift
    return torch.equal(torch.as_tensor(one.timesteps), torch.as_tensor(other.timesteps))


def _reason_in_config(scheduler):
    if scheduler.config.get("use_dynamic_shifting"):
        return "has use_dynamic_shifting, for which it must be told the video's size, and Wan's pipeline does not"
    if scheduler.config.get("thresholding"):
        return "has thresholding, which looks at a whole video at once, and blocks and their parts are denoised apart"
    if not hasattr(scheduler, "set_begin_index"):
        return "has no set_begin_index, which Wan's pipeline needs"
    return None


def _tried(scheduler, num_steps):
    """(what is wrong, or None; whether it draws noise)."""
    try:
        fresh = fresh_scheduler(scheduler, num_steps)
        reason = _reason_in_timesteps(fresh, num_steps)
        if reason is not None:
            return reason, False
        before = torch.get_rng_state()
        counts = (num_steps,) if scheduler.config.get("steps") else (num_steps, _FEW_STEPS)  # fixed_steps' have no others
        driven = [_driven(fresh_scheduler(scheduler, steps), seed) for steps in counts for seed in (0, 1)]
    except Exception as error:  # whatever a scheduler raises that was made for other models
        return f"cannot be driven in {num_steps} steps ({type(error).__name__}: {str(error).splitlines()[0]})", False
    if not torch.equal(before, torch.get_rng_state()):
        return "adds noise that no seed fixes, since its step takes no generator", False
    draws_noise = not torch.equal(driven[0][0], driven[1][0])
    if max(error for _, error in driven) <= _END_BAR:  # not where it is a NaN
        return None, draws_noise
    return "does not turn Wan's predictions (velocities, flow_prediction) into a video", draws_noise


def _reason_in_timesteps(scheduler, num_steps):
    timesteps, sigmas = scheduler.timesteps, getattr(scheduler, "sigmas", None)
    if len(timesteps) != num_steps:
        return f"calls the model {len(timesteps)} times for {num_steps} steps, and a step is one call here"
    if sigmas is None:
        return "has no sigmas, which Wan's pipeline needs"
    levels, times = torch.as_tensor(sigmas)[:num_steps].double(), torch.as_tensor(timesteps).double()
    apart = (times - levels * TRAINED_STEPS).abs().max().item()
    if not apart <= _TIMESTEP_BAR or (num_steps > 1 and not (levels.diff() < 0).all()):
        return "has not the falling noise levels of 1 to 0, and timesteps 1000 times them, that Wan was trained on"
    return None


def _driven(scheduler, seed):
    """(the latents after all steps, the largest error at the end), with noise of ``seed`` added."""
    noise, video = torch.randn(2, *_SAMPLE, generator=torch.Generator().manual_seed(7))
    latents, generator, seen = noise, torch.Generator().manual_seed(seed), []
    for number, timestep in enumerate(scheduler.timesteps):
        velocity = (latents - video) / scheduler.sigmas[number].float()
        latents = step(scheduler, velocity, timestep, latents, generator)
        seen.append(latents)
    left = scheduler.sigmas[-1] / scheduler.sigmas[0]  # of the noise, where the last noise level is not 0
    return torch.cat(seen), (latents - video - left * (noise - video)).abs().max().nan_to_num(nan=torch.inf).item()


def _takes_generator(scheduler):
    return "generator" in inspect.signature(scheduler.step).parameters
