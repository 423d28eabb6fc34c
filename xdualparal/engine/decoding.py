"""How a run's finished blocks become segments.

Knows: which decoder a run needs, and how a block's latents become what the caller asked for. Must not know: how blocks are
made, or what becomes of segments.
"""

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
from ..plan.schedule import AT_END, INLINE, NO_DECODE, THREAD


def make_decoder(run, cleanup):
    """What takes the finished blocks of ``run`` (session.GroupRun) on this rank, see output/decoders. ``cleanup``: an ExitStack
    that ends it.

    Each video has a decoder's memory of its own: they are finished in the same waves. Decoded at the end, one is there at a time.
    """
    videos = run.videos_to_make
    if run.plan.decode != NO_DECODE and run.vae_on_all_ranks:
        return ParallelVaeDecoder(
            lambda number, latents: _decode_together(run, run.videos[number], latents), [video.number for video in videos]
        )
    if not run.mesh.is_output:
        return NullDecoder()
    if run.plan.decode == NO_DECODE:
        return PassThrough()
    makers = {video.number: SegmentMaker(run, video) for video in videos}
    for maker in makers.values():
        cleanup.callback(maker.close)

    def make(action, latents):
        return makers[action.video].make(action.block, latents)

    if run.plan.decode == THREAD:
        decoder = ThreadedDecoder(make, run.meter, run.device)
        cleanup.callback(decoder.close)
        return decoder
    if run.plan.decode == AT_END:
        return DeferredDecoder(make, run.meter, lambda number: makers[number].close())
    assert run.plan.decode == INLINE
    return InlineDecoder(make, run.meter)


class SegmentMaker:
    """Makes the segments of ``video`` (video.Video) of ``run``; it begins where the segments that the caller has end."""

    def __init__(self, run, video):
        self._run, self._request = run, video.request
        self._decoder = run.stage.family.decoder(run.pipe.vae)
        self._missing = video.request.num_frames - video.frames_given
        self._seen = video.latents_before()
        self.close = self._decoder.close

    def make(self, block, latents):
        """The segment of ``block``, the next one, of its latents."""
        if self._seen is not None:  # here, and not before the passes: it takes as long as decoding them
            self._decoder.warm_up(self._seen.to(self._run.device))
            self._seen = None
        try:
            frames = self._decoder.decode(latents)
        except FloatingPointError as error:
            raise FloatingPointError(f"block {block} cannot be decoded: {error}") from None
        if not self._request.is_endless:
            frames = frames[:, :, :self._missing]
            self._missing -= frames.shape[2]
        return _as_asked(self._run, self._request, frames)


def _decode_together(run, video, latents):
    """All frames, on every rank of the replica; ``latents``: those of the output rank count. The segment there."""
    blocks, request = run.plan.finished(run.progress.end), video.request
    if not blocks:
        return None
    if not run.mesh.is_output:
        channels, height, width = request.latent_shape
        count = run.plan.layout.first_latent(blocks) - run.plan.layout.continued_latents
        latents = torch.empty(1, channels, count, height, width, device=run.device)
    latents, seen = run.mesh.share_in_replica(latents), video.latents_before()
    if seen is not None:
        latents = torch.cat([seen.to(latents), latents], dim=2)
    frames = run.stage.family.decode_at_once(run.pipe.vae, latents)
    if seen is not None:
        frames = frames[:, :, 1 + (seen.shape[2] - 1) * run.stage.family.facts.frames_per_latent:]
    return _as_asked(run, request, frames[:, :, :request.num_frames]) if run.mesh.is_output else None


def _as_asked(run, request, frames):
    process, output_type = run.pipe.video_processor.postprocess_video, request.output_type
    if output_type == "uint8":
        return to_uint8(process(frames, output_type="pt")[0])
    return process(frames, output_type=output_type)[0]
