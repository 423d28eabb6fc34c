"""How a run is ended on the way, by all ranks after the same wave.

Knows: torch.distributed's store. Must not know: what a wave computes, or who asks for the end.
"""

from torch.distributed import DistNetworkError

# A rank may be a wave ahead of the one that decides, and begins to let a wave's messages in up to two waves before.
LEAD_WAVES = 4


def waves_to_go(plan):
    """How many waves a run goes on after it was decided that it ends. What is finished in a tenth of the steps is nearly
    done; and no rank may have begun to wait for messages of waves that will not be.

    The first stage lets ``plan.messages_ahead`` in ahead of its needs: while the pipeline fills, when a wave has few
    passes, they are those of many waves.
    """
    reach, messages = 0, 0
    while messages < plan.messages_ahead and (plan.num_waves is None or reach < plan.num_waves):
        messages += len(plan.passes(reach))
        reach += 1
    return max(LEAD_WAVES, reach + 2, -(-plan.num_steps // 10))


class StopSign:
    """Ends a run early, ``waves_to_go`` after it was decided.

    ``store``: torch.distributed's. ``name``: the run's, the same on its ranks and no other's. ``decides``: whether this
    rank says which wave is the last; one of them does.
    """

    def __init__(self, store, name, decides, waves_to_go):
        self._store, self._decides = store, decides
        self._asked, self._waves = f"{name}/asked", f"{name}/waves"
        self._waves_to_go = waves_to_go
        self._is_asked_here, self._is_reachable = False, True

    def ask(self):
        """The run should end soon. May be called from any thread of any rank."""
        self._is_asked_here = True

    def last_wave(self, wave):
        """Called by every rank before each ``wave``. The last wave of the run, where that is decided, or None."""
        try:
            return self._decided(wave) if self._is_reachable else None
        except DistNetworkError:
            # Rank 0, which has the store, has ended: another replica's, or the edges of this one will break.
            self._is_reachable = False
            return None

    def _decided(self, wave):
        # Counters only: the store's ``check`` keeps Python's lock while it waits, so that no watch could find it hanging
        # (seen with torch 2.13 when rank 0 was stopped); ``add`` does not.
        if self._is_asked_here:
            self._store.add(self._asked, 1)
            self._is_asked_here = False
        waves = self._store.add(self._waves, 0)
        if not waves and self._decides and self._store.add(self._asked, 0):
            waves = self._store.add(self._waves, wave + self._waves_to_go + 1)
        return waves - 1 if waves else None
