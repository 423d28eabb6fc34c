"""What a run is made of on its rank: stage, text, noise, edges, and the executor of it all.

Knows: which parts each kind of rank has, and what a part needs of the others. Must not know: when something is done, or how a
run ends.
"""

from itertools import islice

import torch

from ..plan.messages import messages_of
from ..plan.schedule import CLIPS, WINDOWS
from ..plan.waiting import FLOAT8, HOST
from .blocks import BlockStore, Denoiser, apply_guidance
from .clips import ClipLanes
from .executor import Edges, Executor, Work
from .fifo import QueueExecutor
from .kept_kv import DeviceShelf, HostShelf, exact, float8
from .kept_state import KeptState, Place
from .p2p import Receiver, Sender
from .stage import StageRun


def make_executor(run, cleanup):
    """The Executor of ``run`` (session.GroupRun). ``cleanup``: an ExitStack that gives the transformers back as they were."""
    a_request, videos = run.videos[0].request, run.videos_to_make
    timesteps = a_request.make_scheduler(run.device).timesteps
    texts = {video.number: _text(run, video.request) for video in videos}
    images = {video.number: _image(run, video.request) for video in videos if video.request.image_embeds is not None}
    lanes = ClipLanes(run) if run.plan.lanes_are == CLIPS else None
    stage_run = StageRun(
        run.stage, timesteps, run.plan.expert_starts, texts, run.videos[0].shard, _lasting(run), lanes and lanes.context,
        run.config.context_noise, images,
    )
    if run.saves:
        run.stage_run, run.kept_state = stage_run, KeptState(run.mesh, _place(run))
        _restore_kept(run)
    cleanup.callback(stage_run.end)
    cleanup.enter_context(stage_run.context.installed())
    if run.plan.lanes_are == WINDOWS:
        return _queue_executor(run, stage_run, timesteps)
    run.edges = lanes.edges if lanes else _make_edges(run)
    work = Work(stage_run, run.edges, lambda recv: _message_shape(run, stage_run, recv))
    given = _given(run)
    if run.stage.is_first:
        work.blocks = BlockStore(_noises(run), run.device, _together(video.live_latents() for video in videos), given, _context_noise(run), _conditions(run))
    if run.stage.is_last:
        work.denoiser = run.denoiser = _make_denoiser(run, timesteps, _noises(run))
        work.guide, work.decode = lambda one, prediction: _guide(run, one, prediction), run.decoder.add
        work.finish = lambda one, latents: run.finish(one, _finished(run, one, latents, given))
    if lanes:
        work.finish, work.decode = lanes.finish, lanes.decode
    messages = messages_of(run.plan, run.progress)
    return Executor(run.plan, run.progress, messages, run.stage.index, work, run.meter, run.at_wave)


def _make_denoiser(run, timesteps, noises):
    videos = run.videos_to_make
    return Denoiser(
        lambda: run.videos[0].request.make_scheduler(run.device), timesteps, noises, run.device,
        _together(video.in_flight() for video in videos), {video.number: video.step_noise() for video in videos}, run.videos[0].shard,
    )


def _finished(run, one, latents, given):
    """What the video has of the block that the pass ``one`` has finished."""
    if one.block == 0 and one.video in given:
        return given[one.video].in_block(latents)
    return run.denoiser.blended(one, latents, run.plan.layout)


def _given(run):
    """{video: GivenFrames} of the videos that begin with given frames."""
    given = {video.number: video.given_frames() for video in run.videos_to_make}
    return {number: frames for number, frames in given.items() if frames is not None}


def _conditions(run):
    """{video: the channels beside its latents} of a model that has such."""
    conditions = {video.number: video.condition() for video in run.videos_to_make}
    return {number: condition for number, condition in conditions.items() if condition is not None}


def _context_noise(run):
    """{video: ContextNoise} where finished blocks are shown with some."""
    return {video.number: video.context_noise() for video in run.videos_to_make if run.config.context_noise}


def _queue_executor(run, stage_run, timesteps):
    """Of one video, whose latent frames are blocks of one to the denoiser."""
    run.denoiser = _make_denoiser(run, timesteps, {number: _by_frame(noise) for number, noise in _noises(run).items()})
    [noise] = _noises(run).values()
    return QueueExecutor(run, stage_run, run.denoiser, lambda one, prediction: _guide(run, one, prediction), _by_frame(noise))


def _by_frame(blocks):
    return (frame for block in blocks for frame in block.split(1, dim=2))


def _lasting(run):
    """How K/V that last for waves are kept, see ContextStore."""
    format = float8(run.mesh.largest_of_ring) if run.config.context_dtype == FLOAT8 else exact()
    return format, HostShelf(run.device) if run.config.context_store == HOST else DeviceShelf()


def _place(run):
    """What this rank has of K/V, a kept_state.Place."""
    branch, ranks = run.mesh.branch
    branches = tuple(range(run.videos[0].request.branches)) if ranks == 1 else (branch,)
    return Place(len(run.stage.layers), run.videos[0].shard.frame_tokens, run.mesh.ulysses, run.mesh.ring, branches)


def _restore_kept(run):
    """Gives this rank its part of the kept K/V of videos that are resumed."""
    for video in run.videos_to_make:
        keys = video.live_keys(video.first_wave)
        run.kept_state.spread(keys, video.kept(), lambda key, number, packed: run.stage_run.restore(run.plan.spec(key.one), key, number, packed))


def _noises(run):
    """Of the blocks that this rank needs: all, or those from its own clip on."""
    first = run.stage.index if run.plan.lanes_are == CLIPS else 0
    return {video.number: islice(video.noise(), first, None) for video in run.videos_to_make}


def _together(parts):
    return {one: value for part in parts for one, value in part.items()}


def _text(run, request):
    """Prompt embeddings of the branches that this rank computes, (branches, length, dim)."""
    text, (branch, ranks) = run.texts.of(request, run.stage.dtype), run.mesh.branch
    return (text if ranks == 1 else text[branch:branch + 1]).to(run.device)


def _image(run, request):
    """What CLIP says of the image, the same for each branch, (1, tokens, dim)."""
    return request.image_embeds.to(run.device, run.stage.dtype)


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
        video = run.videos[recv.video]
        return (1, video.request.latent_shape[0], frames, *video.shard.latent_size), torch.float32
    return stage_run.hidden_shape(run.plan.spec(recv.one), recv.branch), stage_run.dtype


def _guide(run, one, prediction):
    both = run.meter.waits("for the other guidance branch", run.mesh.join_branches, prediction)
    return apply_guidance(both, run.videos[one.video].request.guidance_scales[run.plan.spec(one).expert])
