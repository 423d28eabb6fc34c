"""How a run is ended on the way, by all ranks after the same wave.

Knows: torch.distributed's store. Must not know: what a wave computes, or who asks for the end.
"""

import logging

from torch.distributed import DistNetworkError

logger = logging.getLogger(__name__)


# Before which wave it was decided, ranks of the replica may be up to two waves further, and may have posted receives of the
# wave after that: where no pass reads a latent frame of the block before (context 0) and a block starts when the one before it
# ends (stagger as many as steps), the first stage of the other guidance branch waits for nothing in two waves of three.
_LEAD_WAVES = 3


def waves_to_finish(num_steps, num_stages):
    """How many waves of a run follow the one before which its end was decided: what is finished in a tenth of the steps
    is nearly done. And as many as other ranks may be ahead: with one step a wave is one pass, of which each stage can have
    one under way and two sent (MAX_PENDING_SENDS)."""
    ahead = 3 * num_stages if num_steps == 1 else 0
    return max(_LEAD_WAVES, -(-num_steps // 10), ahead)


class StopSign:
    """Ends a run early.

    ``store``: torch.distributed's. ``name``: the run's, the same on its ranks and no other's. ``decides``: whether this rank
    says which wave is the last: one does, on the first stage, which is never behind another one. ``waves``: how many waves
    follow the one before which it was decided. ``keeps_store``: whether the process that keeps the store is one of the
    run's: then the run ends with it.
    """

    def __init__(self, store, name, decides, waves, keeps_store=True):
        self._store, self._decides, self._waves_to_finish, self._keeps_store = store, decides, waves, keeps_store
        self._asked, self._waves = f"{name}/asked", f"{name}/waves"
        self.is_asked, self._is_said, self._is_reachable = False, False, True

    def ask(self):
        """The run should end soon. May be called from any thread of any rank."""
        self.is_asked = True

    def last_wave(self, wave):
        """Called by every rank before each ``wave``. The last wave of the run, where that is decided, or None.

        Raises DistNetworkError when a process of the run is gone, rank 0, which keeps the store.
        """
        try:
            return self._decided(wave) if self._is_reachable else None
        except DistNetworkError:
            if self._keeps_store:
                raise
            self._is_reachable = False  # another replica's videos are made, or it failed
            logger.warning("the process that keeps the store has ended: this run can no longer be stopped early")
            return None

    def _decided(self, wave):
        # Counters only: the store's ``check`` keeps Python's lock while it waits, so that no watchdog could find it hanging
        # (seen with torch 2.13 when rank 0 was stopped); ``add`` does not.
        if self.is_asked and not self._is_said:
            self._store.add(self._asked, 1)
            self._is_said = True
        waves = self._store.add(self._waves, 0)
        if not waves and self._decides and self._store.add(self._asked, 0):
            waves = self._store.add(self._waves, wave + self._waves_to_finish + 1)
        return waves - 1 if waves else None
