"""What a run is made of on its rank: stage, text, noise, edges, and the executor of it all.

Knows: which parts each kind of rank has, and what a part needs of the others. Must not know: when something is done, or how a
run ends.
"""

from collections import deque
from itertools import islice

import torch

from ..plan.messages import Messages
from .blocks import BlockStore, Denoiser, apply_guidance
from .executor import Edges, Executor, Work
from .noise import StepNoise, noise_blocks
from .p2p import Receiver, Sender
from .stage import StageRun


def make_executor(run, cleanup):
    """The Executor of ``run`` (session.VideoRun). ``cleanup``: an ExitStack that gives the transformer back as it was."""
    timesteps = run.request.make_scheduler(run.device).timesteps
    text = _text(run)
    stage_run = StageRun(run.stage, timesteps, run.plan.expert_starts, text, run.shard)
    cleanup.callback(stage_run.end)
    cleanup.enter_context(stage_run.context.installed())
    run.edges = _make_edges(run)
    work = Work(stage_run, run.edges, lambda recv: _message_shape(run, stage_run, recv))
    if run.stage.is_first:
        work.blocks = BlockStore(_noise(run), run.device, run.snapshots.live_latents())
    if run.stage.is_last:
        work.denoiser = run.denoiser = _make_denoiser(run, timesteps)
        work.guide, work.finish, work.decode = lambda one, prediction: _guide(run, one, prediction), run.finish, run.decoder.add
    _draw_all_noise(run)
    messages = Messages(run.plan, run.progress)
    return Executor(run.plan, run.progress, messages, run.stage.index, work, run.meter, run.at_wave)


def _make_denoiser(run, timesteps):
    step_noise = StepNoise(run.request.generator) if run.request.scheduler_facts.draws_noise else None
    return Denoiser(
        lambda: run.request.make_scheduler(run.device), timesteps, _noise(run), run.device, run.snapshots.in_flight(),
        step_noise, run.shard,
    )


def _noise(run):
    """The noise of the blocks that start from now on, drawn from a copy of the user's generator."""
    noise = _noise_of(run, run.request.generator.clone_state())
    deque(islice(noise, run.plan.started(run.progress.first)), maxlen=0)
    return noise


def _noise_of(run, generator):
    return map(run.shard.take, noise_blocks(run.plan.layout, run.request.latent_shape, generator))


def _draw_all_noise(run):
    """Leaves the user's own generator as if it had drawn the noise of all blocks, where their number is known."""
    if run.plan.num_blocks is not None:
        deque(_noise_of(run, run.request.generator), maxlen=0)


def _text(run):
    """Prompt embeddings of the branches that this rank computes, (branches, length, dim)."""
    text, (branch, ranks) = run.texts.of(run.request, run.stage.dtype), run.mesh.branch
    return (text if ranks == 1 else text[branch:branch + 1]).to(run.device)


def _make_edges(run):
    """This rank's ends of the edges of its ring, by the lane at the other end."""
    index, count = run.mesh.stage
    if count == 1:
        return Edges()
    return Edges(
        {(index - 1) % count: Receiver(*run.mesh.edge_in(), run.device)},
        {(index + 1) % count: Sender(*run.mesh.edge_out())},
    )


def _message_shape(run, stage_run, recv):
    """(shape, dtype) of what a RECV waits for: latents on the first stage, hidden states on the others."""
    if run.stage.is_first:
        frames = run.plan.layout.own_latents(recv.block)
        return (1, run.request.latent_shape[0], frames, *run.shard.latent_size), torch.float32
    return stage_run.hidden_shape(run.plan.spec(recv.one), recv.branch), stage_run.dtype


def _guide(run, one, prediction):
    both = run.meter.waits("for the other guidance branch", run.mesh.join_branches, prediction)
    return apply_guidance(both, run.request.guidance_scales[run.plan.spec(one).expert])
