"""What a run is made of on its rank: stage, text, noise, edges, and the executor of it all.

Knows: which parts each kind of rank has, and what a part needs of the others. Must not know: when something is done, or how a
run ends.
"""

import logging
from collections import deque
from contextlib import nullcontext
from itertools import islice

import torch

from ..plan.messages import Messages
from .blocks import BlockStore, Denoiser, apply_guidance
from .executor import Edges, Executor, Work
from .noise import StepNoise, noise_blocks
from .p2p import Receiver, Sender
from .placement import encoding, ready_for_passes
from .stage import StageRun

logger = logging.getLogger(__name__)


def make_executor(run, cleanup):
    """The Executor of ``run`` (session.VideoRun). ``cleanup``: an ExitStack that gives the transformer back as it was."""
    timesteps = run.request.make_scheduler(run.device).timesteps
    text = _text(run)
    ready_for_passes(run.pipe, run.device)
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
    """Prompt embeddings (branches, length, dim), encoded on the first stage and sent to the others."""
    request, dtype = run.request, run.stage.dtype
    if request.has_embeds or run.stage.is_first:
        _warn_of_cut_texts(run)
        with nullcontext() if request.has_embeds else encoding(run.pipe, run.device):
            text = request.encode(run.device, dtype).contiguous()
    else:
        text = torch.empty(request.text_shape, dtype=dtype, device=run.device)
    if not request.has_embeds:
        run.mesh.share_along_pipeline(text)
    branch, ranks = run.mesh.branch
    return text if ranks == 1 else text[branch:branch + 1]


def _warn_of_cut_texts(run):
    if run.request.has_embeds or not run.mesh.decides:
        return
    for what, rest in run.request.cut_texts().items():
        logger.warning(
            "the %s is longer than %d tokens and its end is left out: %r", what,
            run.request.max_sequence_length, rest if len(rest) <= 400 else rest[:300] + " ... " + rest[-80:],
        )


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
