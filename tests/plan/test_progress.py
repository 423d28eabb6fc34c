"""From which wave to which a plan is carried out."""

import pytest

from xdualparal.plan.progress import Progress, pass_costs
from xdualparal.strategies.dualparal import DualParalPlan


def test_all_waves_of_the_plan():
    progress = Progress(DualParalPlan(4, 3, 2, stagger=2))
    assert list(progress.waves()) == list(range(9)) and not progress.was_stopped
    assert list(Progress(DualParalPlan(4, 3, 2, stagger=2), first=4).waves()) == list(range(4, 9))


def test_an_endless_plan_that_is_stopped_on_the_way():
    progress, done = Progress(DualParalPlan(None, 3, 2, stagger=2)), []
    for wave in progress.waves():
        done.append(wave)
        if wave == 5:
            progress.stop_after(7)
    assert done == list(range(8)) and progress.was_stopped and not progress.has(8)


def test_a_stop_after_the_end_is_none():
    progress = Progress(DualParalPlan(1, 3, 2))
    progress.stop_after(9)
    assert progress.end == 3 and not progress.was_stopped


@pytest.mark.parametrize("stages, blocks, steps, end", [(8, 32, 50, 1663), (8, 10, 50, 563), (4, 5, 50, 265), (2, 10, 20, 203)])
def test_costs_of_passes_add_up_to_the_runs_time(stages, blocks, steps, end):
    """``end``: by enumeration, with one pass on one stage as the unit (DESIGN.md section 2)."""
    plan = DualParalPlan(blocks, steps, stages)
    costs = list(pass_costs(plan))
    assert len(costs) == blocks * steps and sum(costs) == pytest.approx(end, rel=0.02)
    assert sum(pass_costs(plan, first=plan.num_waves - 1)) == stages  # the last block's last pass
