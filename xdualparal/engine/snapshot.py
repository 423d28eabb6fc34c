"""What a run must save to be gone on with, put together and taken apart.

Knows: which latents of which blocks are needed, and on which rank. Must not know: files, or how a run goes.

Saved latents are whole, not sharded, and stages keep nothing from wave to wave, so a run can go on with other degrees.
"""

import torch

from .blocks import map_tensors


class Saving:
    """The state that a run goes on from, and those that it leaves.

    ``checkpoint``: see checkpoint.Checkpoint; None: nothing is saved, and the run begins at its beginning. ``groups``,
    ``shard``, ``plan``, ``config``: the run's. ``memory_latents``: how far its decoder looks back. ``blocks_kept``: how many
    blocks of the video so far the caller has. Every rank of the replica must build it; raises ValueError on all of them
    for a state that cannot be used. ``is_finished``: the caller has the whole video of a run that was finished.
    """

    def __init__(self, checkpoint, groups, shard, plan, config, memory_latents, blocks_kept):
        self._checkpoint, self._groups, self._shard, self._plan, self._config = checkpoint, groups, shard, plan, config
        self._memory_latents = memory_latents
        self._state, self.is_finished = self._load(blocks_kept) if checkpoint is not None else (None, False)
        self.first_wave = self._state["wave"] if self._state else plan.num_waves if self.is_finished else 0
        # block: whole latents on the CPU, of blocks that a run that goes on may need
        self._finished = dict(self._state["finished"]) if self._state else {}

    def _load(self, blocks_kept):
        found, is_finished, error = None, False, None
        if self._groups.is_output:
            try:
                found = self._checkpoint.load()
                _check_kept(found, blocks_kept)
                is_finished = blocks_kept == self._plan.num_blocks and self._checkpoint.is_of_a_finished_run()
            except (ValueError, OSError) as problem:
                error = str(problem)
        found, is_finished, error = self._groups.share_object((found, is_finished, error))
        if error is not None:
            raise ValueError(error)
        return found, is_finished

    # What a run goes on from.

    def in_flight(self):
        """For latents.DenoiseStore: this rank's part of the blocks in flight, and what their schedulers remember."""
        return map_tensors(self._state["in_flight"], self._own_part) if self._state else {}

    def standing(self):
        """For latents.WindowStore: {(block, step): this rank's latents} of what stands at the first wave."""
        if not self._state:
            return {}
        return {(block, step): self._own_part(self._latents(block)) for block, step in self._plan.standing(self.first_wave)}

    def undecoded(self, segments_given):
        """[(block, latents)] of finished blocks whose segments the caller has not got."""
        return [(block, latents) for block, latents in sorted(self._finished.items()) if block >= segments_given]

    def latents_before(self, block):
        """What a decoder must look back to before it decodes ``block``, (1, channels, frames, height, width)."""
        return torch.cat([latents for number, latents in sorted(self._finished.items()) if number < block], dim=2)

    def _latents(self, block):
        in_flight = self._state["in_flight"]
        return in_flight[block][0] if block in in_flight else self._finished[block]

    def _own_part(self, tensor):
        return self._shard.take(tensor) if _is_latents(tensor) else tensor

    # What it leaves.

    def remember(self, block, latents):
        """``block`` is finished; ``latents`` are whole. On the output rank."""
        if self._checkpoint is not None:
            self._finished[block] = latents.cpu()

    def save(self, wave, in_flight, segments_given, wait=False):
        """Saves the state before ``wave``; every rank of the last stage takes part, the output rank writes.

        ``in_flight``: DenoiseStore.state(). ``segments_given``: how many blocks' segments the caller has got.
        """
        in_flight = map_tensors(in_flight, self._whole)
        if self._groups.is_output:
            self._forget(segments_given)
            state = dict(wave=wave, in_flight=in_flight, finished=dict(self._finished), segments_given=segments_given)
            self._checkpoint.save(state, wave, wait)

    def end(self):
        """The video is finished: there is nothing to go on from. On the output rank."""
        self._checkpoint.end()

    def _whole(self, tensor):
        return (self._shard.join(self._groups.join_shards(tensor)) if _is_latents(tensor) else tensor).cpu()

    def _forget(self, segments_given):
        """Blocks that the caller has, and that a decoder no longer looks back to."""
        needed_from = self._config.first_latent(segments_given) - self._memory_latents
        for block in list(self._finished)[:-1]:  # the last one is the previous context of the next
            if self._config.first_latent(block + 1) <= needed_from:
                del self._finished[block]


def _check_kept(state, blocks_kept):
    if state and blocks_kept < state["segments_given"]:
        raise ValueError(
            f"{state['segments_given']} blocks of the video were written before the checkpoint and only {blocks_kept} are "
            "there: put the video's file back, or delete the checkpoint to start anew"
        )


def _is_latents(tensor):
    """Whether ``tensor`` is (1, channels, frames, height, width); what else a scheduler remembers are single numbers."""
    return tensor.dim() == 5
