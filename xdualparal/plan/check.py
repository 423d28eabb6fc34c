"""Refuses a schedule that cannot be carried out, and shows where.

Knows: the schedule's own needs, and how to show a place. Must not know: how a schedule is executed.
"""

from .render import list_grid
from .simulate import replay


def check_schedule(schedule):
    """``schedule`` itself, when every lane can do all its actions, whatever they cost.

    Raises ValueError otherwise: an action twice, one on another lane's list, one that needs what no lane does, a message that
    is not the one that is waited for, or lanes that wait for each other. The message shows the grid with the place marked.
    """
    _check_lists(schedule)
    done = {span.action for span in replay(schedule)}
    stuck = [next((a for a in row if a not in done), None) for row in schedule.rows]
    stuck = [action for action in stuck if action is not None]
    if stuck:
        _refuse(schedule, _why_stuck(schedule, stuck, done), stuck)
    return schedule


def _check_lists(schedule):
    seen = set()
    for lane, row in enumerate(schedule.rows):
        for action in row:
            if action.lane != lane:
                _refuse(schedule, f"{action} stands in the list of stage {lane}", [action])
            if action in seen:
                _refuse(schedule, f"{action} is there twice", [action])
            seen.add(action)


def _why_stuck(schedule, stuck, done):
    all_actions = {action for row in schedule.rows for action in row}
    for action in stuck:
        for need in schedule.needs(action):
            if need not in all_actions:
                return f"unmet need: {action} needs {need}, which no stage does"
    return "deadlock: " + ", ".join(f"{action} waits for {_awaited(schedule, action, done)}" for action in stuck)


def _awaited(schedule, action, done):
    missing = [need for need in schedule.needs(action) if need not in done]
    return missing[0] if missing else "a message's other end"


def _refuse(schedule, why, places):
    raise ValueError(f"{why}\n{list_grid(schedule, places)}")
