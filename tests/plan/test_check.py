"""Schedules that cannot be carried out are refused, with the place."""

import pytest

from xdualparal import build_schedule
from xdualparal.plan.check import check_schedule
from xdualparal.strategies.dualparal import parse_schedule


def changed(old, new):
    """A small schedule with ``old`` in its text replaced."""
    text = str(build_schedule(2, 2, 2))
    assert old in text
    return parse_schedule(text.replace(old, new))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 7, 2), (9, 2, 4), (20, 20, 8), (3, 7, 8, True), (5, 4, 3, True, 3, "thread")])
def test_accepts_what_is_built(sizes):
    schedule = build_schedule(*sizes)
    assert check_schedule(schedule) is schedule


def refusal(schedule):
    """The lines of the message."""
    with pytest.raises(ValueError) as caught:
        check_schedule(schedule)
    return str(caught.value).splitlines()


def test_unmet_need():
    why, *grid = refusal(changed("0F1.0 ", ""))
    assert why == "unmet need: 0F0.1 needs 0F1.0, which no stage does"
    assert grid[0].startswith("stage 0 | 0F0.0   >0F0.1<")


def test_deadlock():
    why, *grid = refusal(changed("1F1.0 1S1.0 1F0.1 1S0.1", "1F0.1 1S0.1 1F1.0 1S1.0"))
    assert why == "deadlock: 0F1.1 waits for 1S1.0, 1F0.1 waits for 1F1.0"
    assert ">0F1.1<" in grid[0] and ">1F0.1<" in grid[1]


def test_twice_and_on_another_stage():
    assert "1F0.0 is there twice" in refusal(changed("1F0.0 1S0.0", "1F0.0 1F0.0"))[0]
    assert "1F0.0 stands in the list of stage 0" in refusal(changed("0F0.0", "1F0.0"))[0]
