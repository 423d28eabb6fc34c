"""How fast passes follow each other in the steady part, without fill and drain."""

import pytest

from xdualparal import build_schedule
from xdualparal.plan.simulate import simulate
from xdualparal.plan.steady import steady_pass_s, steady_s_per_frame


@pytest.mark.parametrize("blocks, steps, stages, stagger", [(8, 10, 1, 1), (8, 10, 2, 1), (64, 10, 2, 1), (12, 6, 4, 1), (64, 50, 4, 1), (32, 10, 2, 2)])
def test_is_a_passs_time_at_any_length(blocks, steps, stages, stagger):
    """Where the bubble's share differs tenfold, passes leave a full pipeline as often as a stage can do them."""
    trace = simulate(build_schedule(blocks, steps, stages, stagger=stagger), lambda action: {"F": 0.2, "S": 0.01}[action.kind])
    assert steady_pass_s(trace, stagger) == pytest.approx(0.21, rel=0.02)


def test_waits_in_the_steady_part_count():
    """A pass of three times the time, of a block in the middle, is in the mean; the last block's is not."""
    def cost(slow):
        return lambda action: 0.0 if action.kind == "S" else 3.0 if action.block == slow else 1.0

    schedule = build_schedule(8, 10, 1)
    assert steady_pass_s(simulate(schedule, cost(slow=7))) == pytest.approx(1.0)
    assert steady_pass_s(simulate(schedule, cost(slow=4))) == pytest.approx((60 * 1.0 + 10 * 3.0) / 70, rel=0.02)


def test_none_where_the_pipeline_is_never_full():
    assert steady_pass_s(simulate(build_schedule(2, 10, 4))) is None


def test_of_a_frame():
    assert steady_s_per_frame(0.5, num_steps=10, block_latents=8) == 5 / 32
