"""Adds SEND and RECV to a plan's actions, wave by wave, so that an endless plan has them too.

Knows: who needs what of another lane, and when a receive must be posted. Must not know: how a message travels.

A *slot* is a FORWARD of a lane, with the LOAD before it and what follows it. Where a RECV stands (DESIGN section 4): in the slot before the message is
expected. For hidden states that is the slot before their use. For latents that go back to the first stage it is N - 1 slots
after that stage did the pass, or the slot before their use, whichever is earlier. Never later than a message that the
sender sends after it. Then a sender has at most one message pending, and no lanes wait for each other, as the simulation of
these lists shows (plan/check.py, tests/plan/test_messages.py).

A RECV can be posted as late as the end of the FORWARD behind it, unless that needs its message: no FORWARD needs a message
that is expected after its own (same tests). The executor posts it when half of the FORWARD is done: a posted receive occupies
a GPU until its peer sends, and half a pass is time enough for most transfers (DESIGN section 5).
"""

from itertools import accumulate

from .actions import FORWARD, LOAD, RECV, SEND, STEP, Action
from .progress import Progress
from .schedule import STAGES, THREAD, whole_schedule

MAX_PENDING_SENDS = 2  # one is made or used while the next one travels; more would only add memory


class Messages:
    """The actions of a plan's lanes with their messages, in the waves of ``progress`` (Progress).

    Of a wave only the next one is looked at: a run may be stopped after the wave that follows the one under way.
    """

    def __init__(self, plan, progress):
        self._plan, self._progress = plan, progress
        self._last = plan.num_stages - 1

    def actions(self, lane, wave):
        """What ``lane`` does in ``wave``, in order."""
        actions = self._plan.actions(lane, wave)
        if lane > self._last:
            return [one for decode in actions for one in (self._recv(lane, decode.one, "", self._last), decode)]
        return self._with_sends(lane, wave, self._with_receives(lane, wave, actions))

    # Sends follow what they send.

    def _with_sends(self, lane, wave, actions):
        feeds_back = self.feeds_back(wave) if lane == self._last > 0 else {}
        return [one for action in actions for one in (action, *self._sends_after(action, lane, feeds_back))]

    def _sends_after(self, action, lane, feeds_back):
        if action.kind == FORWARD and lane < self._last:
            yield Action(lane, SEND, action.one, action.branch, lane + 1)
        if action.kind == STEP and action.one in feeds_back:
            yield Action(lane, SEND, action.one, peer=0)
        if action.kind == STEP and self._plan.decode == THREAD and self._plan.is_last_step(action.one):
            yield Action(lane, SEND, action.one, peer=lane + 1)

    def feeds_back(self, wave):
        """{pass of ``wave`` whose latents the first stage needs: the pass that reads them first}, in the next wave or never."""
        if not self._progress.has(wave) or not self._progress.has(wave + 1):
            return {}
        readers = self._plan.first_readers(wave + 1)
        return {one: readers[one] for one in self._plan.passes(wave) if one in readers}

    # Receives stand before the slot in which they are posted.

    def _with_receives(self, lane, wave, actions):
        if not self._last:
            return actions
        receives = self._hidden_receives(lane, wave) if lane else self._latents_receives(wave)
        slots = _slots(actions)
        return [action for number, slot in enumerate(slots) for action in (*receives.get(number, ()), *slot)]

    def _forwards(self, wave):
        """(pass, branch) of the slots of ``wave``."""
        if not self._progress.has(wave):
            return []
        return [(one, branch) for one in self._plan.passes(wave) for branch in self._plan.branches_of(one)]

    def _hidden_receives(self, lane, wave):
        """{slot of ``wave``: the RECVs posted in it}: those of the next slot, and at the start that of the first."""
        own = self._forwards(wave)
        used = own + self._forwards(wave + 1)[:1]
        receives = {slot: [self._recv(lane, *after, lane - 1)] for slot, after in enumerate(used[1:])}
        if wave == self._progress.first:
            receives[0] = [self._recv(lane, *own[0], lane - 1), *receives.get(0, [])]
        return receives

    def _latents_receives(self, wave):
        """As above, on the first stage for latents of this wave and the one before."""
        receives, start = {}, len(self._forwards(wave - 1))
        for made, offset in ((wave - 1, 0), (wave, start)):
            for one, slot in self._posting_slots(made, offset):
                receives.setdefault(slot - start, []).append(self._recv(0, one, "", self._last))
        return receives

    def _posting_slots(self, wave, offset):
        """[(pass of ``wave`` that feeds back, the slot in which its RECV stands)], in the sender's order. The first slot of
        ``wave`` has the number ``offset``."""
        feeds_back = self.feeds_back(wave)
        made, used = _last_slots(self._forwards(wave), offset), _first_slots(
            self._forwards(wave + 1), offset + len(self._forwards(wave))
        )
        slots = [min(made[one] + self._last, used[reader] - 1) for one, reader in feeds_back.items()]
        earliest_after = list(accumulate(reversed(slots), min))[::-1]
        return list(zip(feeds_back, earliest_after))

    def _recv(self, lane, one, branch, peer):
        return Action(lane, RECV, one, branch, peer)


def _slots(actions):
    """``actions`` cut before each FORWARD, or the LOAD before it."""
    slots, is_loaded = [], False
    for action in actions:
        if action.kind == LOAD or (action.kind == FORWARD and not is_loaded):
            slots.append([])
        slots[-1].append(action)
        is_loaded = action.kind == LOAD
    return slots


def _first_slots(forwards, offset):
    slots = {}
    for number, (one, _) in enumerate(forwards, offset):
        slots.setdefault(one, number)
    return slots


def _last_slots(forwards, offset):
    return {one: number for number, (one, _) in enumerate(forwards, offset)}


class NoMessages:
    """As Messages, of a plan whose lanes tell each other all within a FORWARD, see PipelinePlan.lanes_are."""

    def __init__(self, plan, progress):
        self._plan, self._progress = plan, progress
        self.actions = plan.actions

    def feeds_back(self, wave):
        """{pass of ``wave``: the one that reads its latents}: each lane's own."""
        return self._plan.first_readers(wave + 1) if self._progress.has(wave + 1) else {}


def messages_of(plan, progress):
    """The Messages, or NoMessages, of ``plan`` in the waves of ``progress``."""
    return (Messages if plan.lanes_are == STAGES else NoMessages)(plan, progress)


def schedule_with_messages(plan, progress=None):
    """The Schedule of all actions of ``plan``, in the waves of ``progress`` where that is given, with messages."""
    progress = progress or Progress(plan)
    return whole_schedule(plan, progress, messages_of(plan, progress).actions)
