"""A plan as it is carried out.

Knows: from which wave to which. Must not know: how an action is done, or why a run ends early.
"""

from itertools import count

from .schedule import STEP


class Course:
    """A plan from one wave to its end, or to a wave that is set on the way.

    ``first_wave``: above 0 where a run is resumed.
    """

    def __init__(self, plan, first_wave=0):
        self.plan, self.first_wave = plan, first_wave
        self.end = plan.num_waves  # the wave that there is none from; None where they go on without end

    def stop_after(self, wave):
        """There will be no wave after ``wave``. Every process must say so before it plans what comes after it."""
        self.end = min(wave + 1, self.end) if self.end is not None else wave + 1

    @property
    def was_stopped(self):
        """Whether the run ends before the plan does."""
        return self.end != self.plan.num_waves

    def waves(self):
        """The waves, in order."""
        for wave in count(self.first_wave):
            if self.end is not None and wave >= self.end:
                return
            yield wave

    def actions(self, stage):
        """What ``stage`` does in the waves, in order; decoding at the end is after them."""
        for wave in self.waves():
            yield from self.plan.wave_actions(stage, wave)

    def goes_round(self, step_action):
        """Whether the first stage needs the result of the STEP ``step_action``."""
        if not self.plan.goes_round(step_action):
            return False
        return self.end is None or self.plan.wave_of(step_action.block, step_action.step) + 1 < self.end

    def round_trips(self):
        """The STEPs whose latents go from the last stage back to the first, in the order in which they go."""
        last = self.plan.num_stages - 1
        return (a for a in self.actions(last) if a.kind == STEP and self.goes_round(a))
