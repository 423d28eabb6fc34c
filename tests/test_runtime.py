"""One rank's actions, with a stage and stores that only write down what is asked of them."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from xdualparal import DualParalConfig, build_schedule
from xdualparal.comm import Loop
from xdualparal.latents import WindowStore
from xdualparal.runtime import Edges, Recorder, Runtime, round_trips
from xdualparal.schedule import parse_action

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


def run_alone(blocks=2, steps=2):
    """(the stage, what the run yielded) of a run on one stage with B = 2, C = 1."""
    config, noise = DualParalConfig(2, 1), [frames(0, 10, 20), frames(30, 40), frames(50, 60)][:blocks]
    stage, loop = CountingStage(config.own_latents), Loop()
    windows = WindowStore(config, steps, iter(noise), CPU)
    edges = Edges(latents_in=loop, latents_out=loop)
    recorder = Recorder(synchronize=lambda: None)
    runtime = Runtime(build_schedule(blocks, steps, 1), 0, stage, edges, windows, AddOne(noise), lambda p: p, recorder)
    return stage, list(runtime.run()), recorder


def test_passes_see_what_the_rules_say():
    stage, _, _ = run_alone()
    assert stage.passes == [
        ("0F0.0", "None", "None", [0, 10, 20]),
        ("0F1.0", "None", "0F1.0", [21, 30, 40]),  # block 0's last frame after the same step; kept for 0F0.1
        ("0F0.1", "0F1.0", "None", [1, 11, 21]),
        ("0F1.1", "None", "None", [22, 31, 41]),
    ]


def test_half_passes_share_their_window_and_are_joined_before_the_step():
    config, noise, loop = DualParalConfig(2, 1), [frames(0, 10, 20), frames(30, 40)], Loop()
    stage, guided = CountingStage(config.own_latents), []
    windows = WindowStore(config, 2, iter(noise), CPU)
    # Three stages, so that waves of two blocks are split; this rank plays the first and the last of them.
    schedule = build_schedule(2, 2, 3, split_guidance=True)
    first, last = schedule.stages[0], schedule.stages[-1]
    alone = [a for f in first[::2] for a in last if (a.block, a.step) == (f.block, f.step)]
    alone = [a if a.kind == "S" else replace(a, stage=0) for a in alone]
    schedule = replace(schedule, stages=(tuple(alone), (), last))

    def guide(prediction):
        guided.append(prediction.shape[0])
        return prediction[:1]

    list(Runtime(schedule, 0, stage, Edges(latents_in=loop, latents_out=loop), windows, AddOne(noise), guide).run())
    assert guided == [2] * 4
    assert [name for name, *_ in stage.passes][:4] == ["0F0.0c", "0F0.0u", "0F1.0c", "0F1.0u"]
    assert stage.passes[2][1:] == ("None", "0F1.0c", [21, 30, 40]) and stage.passes[3][3] == [21, 30, 40]
    assert stage.passes[4][1] == "0F1.0c" and stage.passes[5][1] == "0F1.0u"


def test_yields_the_latents_of_every_step():
    _, yielded, _ = run_alone()
    steps = [(str(action), latents.flatten().tolist()) for action, latents in yielded if latents is not None]
    assert steps == [
        ("0S0.0", [1, 11, 21]), ("0S1.0", [31, 41]), ("0S0.1", [2, 12, 22]), ("0S1.1", [32, 42]),
    ]


def test_recorder_has_a_span_for_every_action_in_order():
    _, yielded, recorder = run_alone(blocks=3)
    assert [span.action for span in recorder.spans] == [action for action, _ in yielded]
    assert all(a.start <= a.end <= b.start for a, b in zip(recorder.spans, recorder.spans[1:]))


def test_what_goes_round_is_in_the_order_of_the_last_stage():
    assert list(round_trips(build_schedule(2, 2, 2))) == [parse_action(t) for t in ("1S0.0", "1S1.0", "1S0.1")]


def test_hidden_states_come_from_the_edge_and_go_on():
    sent, stage = [], CountingStage(lambda block: 1)
    inbox = iter([frames(n) for n in range(4)])
    edges = Edges(
        hidden_in=SimpleNamespace(receive=lambda: next(inbox)),
        hidden_out=SimpleNamespace(send=sent.append, finish=lambda: sent.append("finished")),
    )
    list(Runtime(build_schedule(2, 2, 3), 1, stage, edges).run())
    assert [name for name, *_ in stage.passes] == ["1F0.0", "1F1.0", "1F0.1", "1F1.1"]
    assert [inputs for *_, inputs in stage.passes] == [[0], [1], [2], [3]]
    assert len(sent) == 5 and sent[-1] == "finished"
