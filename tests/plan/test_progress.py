"""A plan as it is carried out."""

from xdualparal import build_schedule
from xdualparal.plan.progress import Course
from xdualparal.plan.schedule import Plan


def test_a_course_is_the_plan():
    schedule = build_schedule(4, 3, 2, stagger=2, decode="thread")
    course = Course(schedule)
    assert [tuple(course.actions(row)) for row in range(3)] == list(schedule.rows)
    assert list(Course(schedule, first_wave=4).actions(0)) == [a for a in schedule.stages[0] if schedule.wave_of(a.block, a.step) >= 4]


def test_a_course_that_is_stopped_on_the_way():
    """It does the same until then, and sends nothing round that nobody will read."""
    plan = Plan(None, 3, 2, stagger=2)
    course, done = Course(plan), []
    for wave in course.waves():
        done.append(wave)
        if wave == 5:
            course.stop_after(7)
    assert done == list(range(8)) and course.was_stopped
    needed = {n for wave in range(8) for a in plan.wave_actions(0, wave) for n in plan.needs(a) if n.kind == "S"}
    steps = [a for a in course.actions(1) if a.kind == "S"]
    assert {a for a in steps if course.goes_round(a)} == needed == set(course.round_trips())
