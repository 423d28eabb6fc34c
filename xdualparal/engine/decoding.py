"""How a run's finished blocks become segments.

Knows: which decoder a run needs, and how a block's latents become what the caller asked for. Must not know: how blocks are
made, or what becomes of segments.
"""

from itertools import count

import torch

from ..output.decoders import (
    DeferredDecoder,
    InlineDecoder,
    NullDecoder,
    ParallelVaeDecoder,
    PassThrough,
    ThreadedDecoder,
)
from ..output.writer import to_uint8
from ..plan.schedule import AT_END, INLINE, THREAD


def make_decoder(run, cleanup):
    """What takes the finished blocks of ``run`` (session.VideoRun) on this rank, see output/decoders. ``cleanup``: an ExitStack
    that ends it."""
    if run.request.output_type != "latent" and run.vae_on_all_ranks:
        return ParallelVaeDecoder(lambda latents: _decode_together(run, latents))
    if not run.mesh.is_output:
        return NullDecoder()
    if run.request.output_type == "latent":
        return PassThrough()
    make = _segment_maker(run, cleanup)
    if run.plan.decode == THREAD:
        decoder = ThreadedDecoder(make, run.plan, run.meter, run.device)
        cleanup.callback(decoder.close)
        return decoder
    return {INLINE: InlineDecoder, AT_END: DeferredDecoder}[run.plan.decode](make, run.plan, run.meter)


def _segment_maker(run, cleanup):
    """The function that makes a block's latents a segment; it begins where the segments that the caller has end."""
    decoder, missing = run.stage.family.decoder(run.pipe.vae), run.request.num_frames - run.frames_given
    cleanup.callback(decoder.close)
    seen = run.snapshots.latents_before(run.segments_given) if run.segments_given else None
    blocks = count(run.segments_given)

    def make(latents):
        nonlocal missing, seen
        if seen is not None:  # here, and not before the passes: it takes as long as decoding them
            decoder.warm_up(seen.to(run.device))
            seen = None
        block = next(blocks)
        try:
            frames = decoder.decode(latents)
        except FloatingPointError as error:
            raise FloatingPointError(f"block {block} cannot be decoded: {error}") from None
        if not run.request.is_endless:
            frames = frames[:, :, :missing]
            missing -= frames.shape[2]
        return _as_asked(run, frames)

    return make


def _decode_together(run, latents):
    """All frames, on every rank of the replica; ``latents``: those of the output rank count. The segment there."""
    blocks = run.plan.finished(run.progress.end)
    if not blocks:
        return None
    if not run.mesh.is_output:
        channels, height, width = run.request.latent_shape
        latents = torch.empty(1, channels, run.plan.layout.first_latent(blocks), height, width, device=run.device)
    frames = run.stage.family.decode_at_once(run.pipe.vae, run.mesh.share_in_replica(latents))
    return _as_asked(run, frames[:, :, :run.request.num_frames]) if run.mesh.is_output else None


def _as_asked(run, frames):
    process, output_type = run.pipe.video_processor.postprocess_video, run.request.output_type
    if output_type == "uint8":
        return to_uint8(process(frames, output_type="pt")[0])
    return process(frames, output_type=output_type)[0]
