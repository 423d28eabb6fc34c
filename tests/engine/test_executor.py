"""One rank's actions, with a stage and stores that only write down what is asked of them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from xdualparal import DualParalConfig, build_schedule
from xdualparal.engine.p2p import Loop
from xdualparal.engine.blocks import WindowStore
from xdualparal.engine.meter import Meter
from xdualparal.engine.executor import Edges, Runtime
from xdualparal.plan.progress import Course
from xdualparal.plan.schedule import Plan

CPU = torch.device("cpu")


class CountingStage:
    """Predicts nothing; remembers its passes."""

    def __init__(self, own):
        self.own, self.passes = own, []

    def forward(self, action, reads, keeps, inputs):
        """A prediction for the own frames."""
        self.passes.append((str(action), str(reads), str(keeps), inputs.flatten().tolist()))
        return torch.zeros(1, 1, self.own(action.block), 1, 1)


class AddOne:
    """A denoiser that adds 1 to a block's latents each step."""

    def __init__(self, noise):
        self.latents = dict(enumerate(noise))

    def advance(self, block, step, prediction):
        """The latents after the step."""
        assert prediction.shape == self.latents[block].shape
        self.latents[block] = self.latents[block] + 1
        return self.latents[block]


def frames(*values):
    """Latents whose frames carry these numbers."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, -1, 1, 1)


def run_alone(blocks=2, steps=2, guide=None):
    """(the stage, what the run yielded) of a run on one stage with B = 2, C = 1."""
    config, noise = DualParalConfig(2, 1), [frames(0, 10, 20), frames(30, 40), frames(50, 60)][:blocks]
    stage, loop = CountingStage(config.own_latents), Loop()
    plan, meter = Plan(blocks, steps, 1), Meter(synchronize=lambda: None, keeps_spans=True)
    windows = WindowStore(config, plan, iter(noise), CPU)
    edges = Edges(latents_in=loop, latents_out=loop)
    runtime = Runtime(Course(plan), 0, stage, edges, meter, windows, AddOne(noise), guide or (lambda p: p))
    return stage, list(runtime.run()), meter


def test_passes_see_what_the_rules_say():
    stage, _, _ = run_alone()
    assert stage.passes == [
        ("0F0.0", "None", "None", [0, 10, 20]),
        ("0F1.0", "None", "0F1.0", [21, 30, 40]),  # block 0's last frame after the same step; kept for 0F0.1
        ("0F0.1", "0F1.0", "None", [1, 11, 21]),
        ("0F1.1", "None", "None", [22, 31, 41]),
    ]


class Alone(Plan):
    """One rank that plays the first and the last of three stages, so that waves of two blocks are split."""

    def wave_actions(self, stage, wave):
        """All FORWARDs of the first and all STEPs of the last stage, a pass after the other."""
        last = super().wave_actions(2, wave)
        return [replace(action, stage=0) if action.kind == "F" else action for action in last]


def test_half_passes_share_their_window_and_are_joined_before_the_step():
    config, noise, loop = DualParalConfig(2, 1), [frames(0, 10, 20), frames(30, 40)], Loop()
    stage, guided, plan = CountingStage(config.own_latents), [], Alone(2, 2, 3, split_guidance=True)
    windows = WindowStore(config, plan, iter(noise), CPU)

    def guide(prediction):
        guided.append(prediction.shape[0])
        return prediction[:1]

    edges = Edges(latents_in=loop, latents_out=loop)
    list(Runtime(Course(plan), 0, stage, edges, Meter(lambda: None), windows, AddOne(noise), guide).run())
    assert guided == [2] * 4
    assert [name for name, *_ in stage.passes][:4] == ["0F0.0c", "0F0.0u", "0F1.0c", "0F1.0u"]
    assert stage.passes[2][1:] == ("None", "0F1.0c", [21, 30, 40]) and stage.passes[3][3] == [21, 30, 40]
    assert stage.passes[4][1] == "0F1.0c" and stage.passes[5][1] == "0F1.0u"


def test_yields_the_latents_of_every_step():
    _, yielded, _ = run_alone()
    steps = [(str(action), latents.flatten().tolist()) for action, latents in yielded ]
    assert steps == [
        ("0S0.0", [1, 11, 21]), ("0S1.0", [31, 41]), ("0S0.1", [2, 12, 22]), ("0S1.1", [32, 42]),
    ]


def test_every_action_is_measured_in_order():
    _, _, meter = run_alone(blocks=3)
    assert [span.action for span in meter.spans] == list(build_schedule(3, 2, 1).stages[0])
    assert all(a.start <= a.end <= b.start for a, b in zip(meter.spans, meter.spans[1:]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_prediction_that_is_no_number_ends_the_run(bad):
    """It is the third pass's: block 0 at step 1."""
    passes = iter([0.0, 0.0, bad])
    with pytest.raises(FloatingPointError, match="the prediction of block 0 at step 1 has a NaN or an infinity"):
        run_alone(guide=lambda prediction: prediction + next(passes))


def test_hidden_states_come_from_the_edge_and_go_on():
    sent, stage = [], CountingStage(lambda block: 1)
    inbox = iter([frames(n) for n in range(4)])
    edges = Edges(
        hidden_in=SimpleNamespace(peer=0, receive=lambda: next(inbox)),
        hidden_out=SimpleNamespace(peer=2, send=sent.append, finish=lambda: sent.append("finished")),
    )
    list(Runtime(Course(Plan(2, 2, 3)), 1, stage, edges, Meter(lambda: None)).run())
    assert [name for name, *_ in stage.passes] == ["1F0.0", "1F1.0", "1F0.1", "1F1.1"]
    assert [inputs for *_, inputs in stage.passes] == [[0], [1], [2], [3]]
    assert len(sent) == 5 and sent[-1] == "finished"
