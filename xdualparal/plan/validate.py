"""Refuses a schedule that cannot be carried out, and shows where.

Knows: the schedule's own needs, and how to show a place. Must not know: how a schedule is executed.
"""

from .render import list_grid
from .schedule import in_order


def check_schedule(schedule):
    """``schedule`` itself, when every stage can do all its actions.

    Raises ValueError otherwise: an action twice, one on another stage's list, one that needs what no stage
    does, or stages that wait for each other. The message shows the grid with the place marked.
    """
    _check_lists(schedule)
    done = set(in_order(schedule))
    stuck = [next((a for a in row if a not in done), None) for row in schedule.rows]
    stuck = [action for action in stuck if action is not None]
    if stuck:
        _refuse(schedule, _why_stuck(schedule, stuck, done), stuck)
    return schedule


def _check_lists(schedule):
    seen = set()
    for stage, row in enumerate(schedule.rows):
        for action in row:
            if action.stage != stage:
                _refuse(schedule, f"{action} stands in the list of stage {stage}", [action])
            if action in seen:
                _refuse(schedule, f"{action} is there twice", [action])
            seen.add(action)


def _why_stuck(schedule, stuck, done):
    all_actions = {action for row in schedule.rows for action in row}
    for action in stuck:
        for need in schedule.needs(action):
            if need not in all_actions:
                return f"unmet need: {action} needs {need}, which no stage does"
    waits = (f"{a} waits for {next(n for n in schedule.needs(a) if n not in done)}" for a in stuck)
    return "deadlock: " + ", ".join(waits)


def _refuse(schedule, why, places):
    raise ValueError(f"{why}\n{list_grid(schedule, places)}")
