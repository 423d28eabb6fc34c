"""How long stages will wait, and which degrees of the same processes wait less.

Knows: plans, and degrees as numbers. Must not know: flags, processes, devices. A pass takes equally long on every stage, and
messages, Ulysses' exchange and decoding take no time.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from .schedule import PipelinePlan

# Below this share of the time no other degrees can win a fifth; Ulysses' exchange, which is not counted, may cost as much.
WORTH_SAYING = 0.15
MOST_PASSES = 20_000  # that are simulated: half a second


class Degrees(NamedTuple):
    """``stages`` x ``shards`` (Ulysses) x ``branches`` (2: a guidance branch on each) x ``replicas`` (data parallel) are the
    processes; ``videos`` share the stages."""

    stages: int
    shards: int = 1
    branches: int = 1
    replicas: int = 1
    videos: int = 1

    @property
    def processes(self):
        """How many processes there are, but for degrees that stay as they are."""
        return self.stages * self.shards * self.branches * self.replicas


@dataclass(frozen=True)
class Job:
    """What is to be made. ``plan_of(stages, split_guidance, videos)``: the plan of ``videos`` videos side by side.

    ``prompts``: as many videos of equal length. ``guided``: whether a pass has two branches. ``most_stages``, ``most_videos``:
    limits. ``shards``: the allowed numbers of Ulysses ranks. ``allows(degrees)``: what else must hold of a proposal.
    """

    plan_of: Callable[[int, bool, int], PipelinePlan]
    prompts: int
    guided: bool
    most_stages: int
    shards: tuple[int, ...]
    most_videos: int = 1
    allows: Callable[[Degrees], bool] = lambda degrees: True

    def waiting(self, degrees):
        """The share of the stages' time, 0 to 1, in which they do nothing, until the last video of all replicas is done.

        1 where videos without end would leave some that never begin.
        """
        of_replica = -(-self.prompts // degrees.replicas)
        groups = [degrees.videos] * (of_replica // degrees.videos) + [of_replica % degrees.videos]
        plans = [self._plan(degrees, videos) for videos in groups if videos]
        if plans[0].num_blocks is None:
            return 1.0 if len(plans) > 1 else 1 - plans[0].num_steps * plans[0].videos / units_a_block(plans[0])
        passes = self.prompts * plans[0].num_blocks * plans[0].num_steps
        return 1 - passes / (degrees.replicas * sum(map(end, plans)))

    def _plan(self, degrees, videos):
        return self.plan_of(degrees.stages, self.guided and degrees.branches == 1, videos)

    def alternatives(self, given):
        """Yields all Degrees that this job allows with as many processes as ``given`` has."""
        for shards, branches, replicas in product(self.shards, (1, 2) if self.guided else (1,), range(1, self.prompts + 1)):
            stages, left = divmod(given.processes, shards * branches * replicas)
            for videos in range(1, min(self.most_videos, -(-self.prompts // replicas)) + 1):
                if not left and 1 <= stages <= self.most_stages:
                    yield Degrees(stages, shards, branches, replicas, videos)

    def better(self, given):
        """(Degrees that wait at most half as long as ``given``, how long they wait), or None where there are none.

        Of several, those with the most stages, which have the least weights on each; of equals those that wait least.
        """
        most = self.waiting(given) / 2
        judged = [(degrees, self.waiting(degrees)) for degrees in self.alternatives(given)]
        judged = [one for one in judged if one[1] <= most and self.allows(one[0])]
        return min(judged, key=lambda one: (-one[0].stages, one[1], one[0][1:]), default=None)


def end(plan):
    """When the last pass of ``plan`` ends, in passes on one stage, as ``simulate`` finds without messages.

    All blocks beyond those that are in flight together take equally long, so a long video costs no more than a short one.
    Of very many passes it is an estimate, as DESIGN section 2's: stages wait while the first ones come and the last ones leave.
    """
    in_flight, passes = _in_flight(plan), plan.num_blocks * plan.num_steps * plan.videos
    if min(passes, in_flight * plan.num_steps * plan.videos) > MOST_PASSES:
        side_by_side = min(in_flight, plan.num_blocks) * plan.videos
        return passes * max(1, plan.num_stages / side_by_side) + plan.stagger * (plan.num_stages**2 - plan.num_stages)
    if plan.num_blocks <= in_flight:
        return _end(plan)
    return _end(plan.first_blocks(in_flight)) + (plan.num_blocks - in_flight) * units_a_block(plan)


def units_a_block(plan):
    """What each further block of a long video takes, of all videos side by side, in passes on one stage."""
    in_flight = _in_flight(plan)
    passes = plan.num_steps * plan.videos
    if in_flight * passes > MOST_PASSES:
        return passes * max(1, plan.num_stages / (in_flight * plan.videos))
    return _end(plan.first_blocks(in_flight + 1)) - _end(plan.first_blocks(in_flight))


def _in_flight(plan):
    return math.ceil(plan.num_steps / plan.stagger)


@lru_cache(maxsize=64)
def _end(plan):
    free, done = [0.0] * plan.num_stages, {}
    for wave in range(plan.num_waves):
        for one in plan.passes(wave):
            ready = max(done.get(frames.one, 0.0) for frames in plan.spec(one).window)
            branches = plan.branches_of(one)
            for _ in branches:
                time = ready
                for stage in range(plan.num_stages):
                    time = free[stage] = max(time, free[stage]) + 1 / len(branches)
            done[one] = time
    return free[-1]
