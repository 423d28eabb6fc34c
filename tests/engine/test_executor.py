"""One rank's actions, with a stage and edges that only write down what is asked of them."""

from dataclasses import replace

import pytest
import torch

from xdualparal import build_schedule
from xdualparal.engine.blocks import BlockStore
from xdualparal.engine.executor import Edges, Executor, Work
from xdualparal.engine.meter import Meter
from xdualparal.plan.actions import Pass
from xdualparal.plan.layout import Layout
from xdualparal.plan.messages import Messages
from xdualparal.plan.progress import Progress
from xdualparal.strategies.dualparal import DualParalPlan

CPU = torch.device("cpu")
LAYOUT = Layout(2, 1)


class CountingStage:
    """Predicts nothing; remembers its passes."""

    def __init__(self, log=None):
        self.passes, self.log = [], [] if log is None else log

    def forward(self, action, spec, inputs, at_half, then=None):
        """A prediction for the predicted frames."""
        self.log.append(("begins", str(action), None))
        at_half()
        names = ["+".join(str(key.one) for key in keys) for keys in (spec.reads, [kept.key for kept in spec.keeps])]
        self.passes.append((str(action), *names, inputs.flatten().tolist()))
        return torch.zeros(1, 1, len(spec.predicted), 1, 1)


class AddOne:
    """A denoiser that adds 1 to a block's latents each step."""

    def __init__(self, noise):
        self.latents = dict(enumerate(noise))

    def advance(self, one, prediction):
        """The latents after the step."""
        assert prediction.shape == self.latents[one.block].shape
        self.latents[one.block] = self.latents[one.block] + 1
        return self.latents[one.block]


class Edge:
    """One end of an edge that writes down what is done with it; ``messages``: what comes, by (pass, branch)."""

    bytes_sent = 7

    def __init__(self, peer, messages=None):
        self.peer, self.messages, self.log = peer, messages or {}, []

    def post(self, message, shape, dtype):
        """A receive is posted."""
        self.log.append(("post", str(message[0]), shape))

    def take(self, message):
        """It must have been posted."""
        assert any(kind == "post" and one == str(message[0]) for kind, one, _ in self.log)
        return self.messages[message]

    def send(self, tensor):
        """A message leaves."""
        self.log.append(("send", tensor.flatten().tolist(), None))

    def finish(self):
        """All has left."""
        self.log.append(("finish", None, None))


def frames(*values):
    """Latents whose frames carry these numbers."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1, 1)


NOISE = [frames(0, 10, 20), frames(30, 40), frames(50, 60)]


def executor_of(plan, lane, work, meter=None, progress=None):
    """An Executor of one lane."""
    progress = progress or Progress(plan)
    return Executor(plan, progress, Messages(plan, progress), lane, work, meter or Meter(lambda: None))


def run_alone(blocks=2, steps=2, guide=None, decode="none", progress=None, denoiser=None):
    """(the stage, what the run yielded, the meter, what was decoded, the store) of a run on one stage with B = 2, C = 1."""
    stage, decoded, store = CountingStage(), [], BlockStore(iter(NOISE[:blocks]), CPU)
    plan, meter = DualParalPlan(blocks, steps, 1, decode=decode, layout=LAYOUT), Meter(synchronize=lambda: None, keeps_spans=True)
    work = Work(
        stage, Edges(), None, store, denoiser or AddOne(NOISE), guide or (lambda one, p: p), lambda one, latents: latents.sum().item(),
        lambda block, whole: decoded.append((block, whole)),
    )
    return stage, list(executor_of(plan, 0, work, meter).run()), meter, decoded, store


def test_passes_see_what_the_rules_say():
    stage, *_, store = run_alone()
    assert stage.passes == [
        ("0F0.0", "", "", [0, 10, 20]),
        ("0F1.0", "", "1.0", [21, 30, 40]),  # block 0's last frame after the same step; kept for 0F0.1
        ("0F0.1", "1.0", "", [1, 11, 21]),
        ("0F1.1", "", "", [22, 31, 41]),
    ]
    assert not store.has(Pass(0, 0, 1)) and not store.has(Pass(0, 1, 0)) and not store.has(Pass(0, 1, 1))  # nothing is left


class OneRankOfThree(DualParalPlan):
    """One rank that plays the first and the last of three stages, so that waves of two blocks are split."""

    def actions(self, lane, wave):
        """All FORWARDs of the first and all STEPs of the last stage, a pass after the other."""
        return [replace(action, lane=0) for action in super().actions(2, wave)]


def test_half_passes_share_their_window_and_are_joined_before_the_step():
    guided, stage = [], CountingStage()
    plan = OneRankOfThree(2, 2, 3, split_guidance=True, layout=LAYOUT)

    def guide(one, prediction):
        guided.append(prediction.shape[0])
        return prediction[:1]

    class Alone(Messages):
        """No message leaves."""

        def actions(self, lane, wave):
            """The plan's."""
            return plan.actions(lane, wave)

    progress = Progress(plan)
    work = Work(stage, Edges(), None, BlockStore(iter(NOISE), CPU), AddOne(NOISE), guide, lambda *_: None)
    list(Executor(plan, progress, Alone(plan, progress), 0, work, Meter(lambda: None)).run())
    assert guided == [2] * 4
    assert [name for name, *_ in stage.passes][:4] == ["0F0.0c", "0F0.0u", "0F1.0c", "0F1.0u"]
    assert stage.passes[2][1:] == ("", "1.0", [21, 30, 40]) and stage.passes[3][3] == [21, 30, 40]
    assert stage.passes[4][1] == stage.passes[5][1] == "1.0"


def test_yields_the_latents_of_every_step():
    _, yielded, *_ = run_alone()
    steps = [(str(action), latents.flatten().tolist()) for action, latents in yielded]
    assert steps == [
        ("0S0.0", [1, 11, 21]), ("0S1.0", [31, 41]), ("0S0.1", [2, 12, 22]), ("0S1.1", [32, 42]),
    ]


def test_every_action_is_measured_in_order():
    _, _, meter, *_ = run_alone(blocks=3)
    assert [span.action for span in meter.spans] == list(build_schedule(3, 2, 1).stages[0])
    assert all(a.start <= a.end <= b.start for a, b in zip(meter.spans, meter.spans[1:]))


@pytest.mark.parametrize("place", ["inline", "thread"])
def test_finished_blocks_are_handed_over(place):
    """What ``finish`` made of them."""
    assert run_alone(decode=place)[3] == [(0, 2 + 12 + 22), (1, 32 + 42)]
    assert run_alone(decode="end")[3] == []  # the plan has no action for them in the waves


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prediction_that_is_no_number_ends_the_run(bad):
    """It is the third pass's: block 0 at step 1."""
    passes = iter([0.0, 0.0, bad])
    with pytest.raises(FloatingPointError, match="the prediction of block 0 at step 1 has a NaN or an infinity"):
        run_alone(guide=lambda one, prediction: prediction + next(passes))


def test_a_step_that_overflows_ends_the_run():
    class Overflowing(AddOne):
        """Infinite at the second step."""

        def advance(self, one, prediction):
            """The latents after the step."""
            return super().advance(one, prediction) / (1 - one.step)

    with pytest.raises(FloatingPointError, match="the latents of block 0 after step 1 have a NaN or an infinity, which the scheduler"):
        run_alone(denoiser=Overflowing(NOISE))


def test_a_middle_stage_posts_takes_and_sends():
    plan, stage = DualParalPlan(2, 2, 3, layout=LAYOUT), CountingStage()
    order = ["0.0", "1.0", "0.1", "1.1"]
    before = Edge(0, {(one, ""): frames(n) for n, one in enumerate(one for wave in range(3) for one in plan.passes(wave))})
    after = Edge(2)
    work = Work(stage, Edges({0: before}, {2: after}), lambda recv: ((recv.block,), torch.float32))
    assert list(executor_of(plan, 1, work).run()) == []
    assert [(name, inputs) for name, *_, inputs in stage.passes] == [(f"1F{one}", [n]) for n, one in enumerate(order)]
    assert [one for _, one, _ in before.log] == order and before.log[1] == ("post", "1.0", (1,))
    assert [kind for kind, *_ in after.log] == ["send"] * 4 + ["finish"]


def test_receives_are_posted_within_the_pass_before():
    """And before it where it needs them itself."""
    plan, before = DualParalPlan(2, 2, 3, layout=LAYOUT), Edge(0)
    before.messages = {(one, ""): frames(0) for wave in range(3) for one in plan.passes(wave)}
    work = Work(CountingStage(before.log), Edges({0: before}, {2: Edge(2)}), lambda recv: ((), torch.float32))
    list(executor_of(plan, 1, work).run())
    assert [f"{kind} {what}" for kind, what, _ in before.log] == [
        "post 0.0", "begins 1F0.0", "post 1.0", "begins 1F1.0", "post 0.1", "begins 1F0.1", "post 1.1", "begins 1F1.1",
    ]


def test_the_first_stage_takes_latents_where_a_window_needs_them():
    plan, stage = DualParalPlan(2, 2, 2, layout=LAYOUT), CountingStage()
    latents = {Pass(0, 0, 0): frames(1, 11, 21), Pass(0, 1, 0): frames(31, 41), Pass(0, 0, 1): frames(2, 12, 22)}
    back, store = Edge(1, {(one, ""): value for one, value in latents.items()}), BlockStore(iter(NOISE), CPU)
    work = Work(stage, Edges({1: back}, {1: Edge(1)}), lambda recv: ((), torch.float32), store)
    list(executor_of(plan, 0, work).run())
    assert [inputs for *_, inputs in stage.passes] == [[0, 10, 20], [21, 30, 40], [1, 11, 21], [22, 31, 41]]
    assert [one for _, one, _ in back.log] == ["0.0", "1.0", "0.1"]


def test_every_wave_is_announced():
    waves, plan = [], DualParalPlan(2, 2, 1, layout=LAYOUT)
    progress = Progress(plan)
    work = Work(CountingStage(), Edges(), None, BlockStore(iter(NOISE), CPU), AddOne(NOISE), lambda one, p: p, lambda *_: None)
    list(Executor(plan, progress, Messages(plan, progress), 0, work, Meter(lambda: None), waves.append).run())
    assert waves == [0, 1, 2]
