"""The state that a run is resumed from, taken apart for the ranks and put together from them.

Knows: what Plan.live names, on which rank it is, and what a decoder looks back to. Must not know: files, or how a run goes.

Latents are saved whole, not sharded, so a run can be resumed with other degrees.
"""

import torch

from ..plan.actions import Pass
from ..plan.passes import KVKey
from .blocks import map_tensors


class Snapshots:
    """The state that a run is resumed from, and those that it leaves.

    ``checkpoint``: see output/checkpoint; None: nothing is saved, and the run begins at its beginning. ``mesh``, ``shard``,
    ``plan``: the run's. ``memory_latents``: how many latent frames its decoder looks back. ``blocks_kept``: how many blocks of
    the video so far the caller has. Every rank of the replica must build it; raises ValueError on all of them for a state that
    cannot be used.
    """

    def __init__(self, checkpoint, mesh, shard, plan, memory_latents, blocks_kept):
        self._checkpoint, self._mesh, self._shard, self._plan = checkpoint, mesh, shard, plan
        self._memory_latents = memory_latents
        self._kept = None  # of the state, on the output rank: large, so that no other rank gets more of it than its own
        self._state, self.was_finished = self._load(blocks_kept) if checkpoint is not None else (None, False)
        # block: whole latents on the CPU, of finished blocks that a resumed run may need
        self._finished = dict(self._state["finished"]) if self._state else {}

    @property
    def is_on(self):
        """Whether states are saved."""
        return self._checkpoint is not None

    @property
    def first_wave(self):
        """The wave with which the run begins; none is left of one that was finished."""
        return self._state["wave"] if self._state else self._plan.num_waves if self.was_finished else 0

    def _load(self, blocks_kept):
        """(the saved state, or None; whether the caller has the whole video of a run that was finished), on every rank."""
        return self._mesh.share_object(self._mesh.on_output_rank(lambda: self._found(blocks_kept)))

    def _found(self, blocks_kept):
        try:
            state = self._checkpoint.load()
            _check_kept(state, blocks_kept)
            self._kept = state.pop("kept") if state else None
            return state, blocks_kept == self._plan.num_blocks and self._checkpoint.is_of_a_finished_run()
        except (ValueError, OSError):
            raise
        except Exception as problem:  # of a state that is whole and holds something else
            raise ValueError(
                f"the checkpoint cannot be read ({type(problem).__name__}: {problem}): delete its folder to start anew"
            ) from None

    def lock(self):
        """Keeps other runs from the checkpoint until ``release``. Every rank of the replica must call it; all raise ValueError
        when another run has it."""
        if self.is_on:
            self._mesh.on_output_rank(self._checkpoint.lock)

    def release(self):
        """Lets other runs have the checkpoint."""
        if self.is_on:
            self._checkpoint.release()

    # What a run is resumed from.

    def in_flight(self):
        """For blocks.Denoiser: this rank's part of the blocks in flight, and what their schedulers remember."""
        return map_tensors(self._state["in_flight"], self._own_part) if self._state else {}

    def live_latents(self):
        """For blocks.BlockStore: {pass: this rank's latents after it} of what is live at the first wave."""
        if not self._state:
            return {}
        return {one: self._own_part(self._latents(one)) for one in self._plan.live(self.first_wave).latents}

    def kept(self):
        """For KeptState.spread: the kept K/V that the first wave on needs, on the output rank; once."""
        kept, self._kept = self._kept or {}, None
        return {_as_key(key): whole for key, whole in kept.items()}

    def undecoded(self, segments_given):
        """[(block, latents)] of finished blocks whose segments the caller has not got."""
        return [(block, latents) for block, latents in sorted(self._finished.items()) if block >= segments_given]

    def latents_before(self, block):
        """What a decoder must look back to before it decodes ``block``, (1, channels, frames, height, width)."""
        return torch.cat([latents for number, latents in sorted(self._finished.items()) if number < block], dim=2)

    def _latents(self, one):
        in_flight = self._state["in_flight"]
        return in_flight[tuple(one)][0] if tuple(one) in in_flight else self._finished[one.block]

    def _own_part(self, tensor):
        return self._shard.take(tensor) if _is_latents(tensor) else tensor

    # What it leaves.

    def remember(self, block, latents):
        """``block`` is finished; ``latents`` are whole. On the output rank."""
        if self.is_on:
            self._finished[block] = latents.cpu()

    def save(self, wave, in_flight, segments_given, kept=(), wait=False):
        """Saves the state before ``wave``; every rank of the last stage takes part, the output rank writes.

        ``in_flight``: Denoiser.state(). ``segments_given``: how many blocks' segments the caller has got. ``kept``: on the output
        rank {key: whole K/V} of what is live, see KeptState.gather.
        """
        live = self._plan.live(wave)
        in_flight = map_tensors(in_flight, self._whole)
        if self._mesh.is_output:
            self._forget(segments_given, live)
            missing = [one for one in live.latents if tuple(one) not in in_flight and one.block not in self._finished]
            assert not missing, f"latents that the passes from wave {wave} on need are not here: {missing}"
            state = dict(wave=wave, in_flight=in_flight, finished=dict(self._finished), segments_given=segments_given)
            assert set(dict(kept)) == set(live.keys), f"K/V {list(dict(kept))} are kept, and live are {live.keys}"
            state["kept"] = {(*key.one, key.part): whole for key, whole in dict(kept).items()}
            self._checkpoint.save(state, wave, wait)

    def end(self):
        """The video is finished: nothing is left to resume. On the output rank."""
        self._checkpoint.end()

    def _whole(self, tensor):
        return (self._shard.join(self._mesh.join_shards(tensor)) if _is_latents(tensor) else tensor).cpu()

    def _forget(self, segments_given, live):
        """Blocks that the caller has, that no pass reads, and that a decoder no longer looks back to."""
        layout, read = self._plan.layout, {one.block for one in live.latents}
        needed_from = layout.first_latent(segments_given) - self._memory_latents
        for block in [block for block in self._finished if block not in read]:
            if block < segments_given and layout.first_latent(block + 1) <= needed_from:
                del self._finished[block]


def _check_kept(state, blocks_kept):
    if state and blocks_kept < state["segments_given"]:
        raise ValueError(
            f"{state['segments_given']} blocks of the video were written before the checkpoint and only {blocks_kept} are "
            "there: put the video's file back, or delete the checkpoint to start anew"
        )


def _as_key(saved):
    *one, part = saved
    return KVKey(Pass(*one), part)


def _is_latents(tensor):
    """Whether ``tensor`` is (1, channels, frames, height, width); what else a scheduler remembers are single numbers."""
    return tensor.dim() == 5
