"""From which wave to which a plan is carried out.

Knows: numbers of waves. Must not know: what a wave does, or why a run ends early.
"""

from itertools import count


class Progress:
    """The waves of a run, from ``first`` (by default the one with which the plan's first video begins) to before ``end`` (None:
    without end).

    The end may come nearer on the way: see ``stop_after``.
    """

    def __init__(self, plan, first=None):
        self.first = min(map(plan.first_wave, range(plan.videos))) if first is None else first
        self.end = plan.num_waves
        self._planned_end = plan.num_waves

    def stop_after(self, wave):
        """There will be no wave after ``wave``. Every lane must be told before it plans the wave before ``wave``."""
        self.end = min(wave + 1, self.end) if self.end is not None else wave + 1

    @property
    def was_stopped(self):
        """Whether the run ends before the plan does."""
        return self.end != self._planned_end

    def has(self, wave):
        """Whether ``wave`` is one of the run's, as far as is known."""
        return self.first <= wave and (self.end is None or wave < self.end)

    def waves(self):
        """Yields the waves in order; the end is looked at before each."""
        for wave in count(self.first):
            if not self.has(wave):
                return
            yield wave


def pass_costs(plan, first=None):
    """Yields what each pass from wave ``first`` on takes, in passes: a wave with fewer blocks than stages takes as long as
    one pass through all stages, so that filling and emptying the pipeline count."""
    for wave in Progress(plan, first).waves():
        blocks = len(plan.passes_of_rank(wave))
        yield from [max(blocks, plan.num_stages) / blocks] * blocks
