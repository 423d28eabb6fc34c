"""A stop of a command with several prompts: what it says of those that were not begun, and that none is begun after it."""

import signal
from types import SimpleNamespace

import pytest
from dualparal_testing.commands import Run, kill

from xdualparal.engine.video import Outcome
from xdualparal.xdit.models import DualParalWanModel
from xdualparal.xdit.prompts import NumberedPrompt, not_begun_line
from xdualparal.xdit.screen import end_text

PROMPTS = [f"a {colour} circle on a dark background" for colour in ("red", "blue", "green", "yellow")]
NUMBERED = [NumberedPrompt(prompt, number, "") for number, prompt in enumerate(PROMPTS)]


@pytest.mark.processes
def test_two_replicas_say_once_what_was_not_begun(tmp_path):
    """And of all four videos once that their passes are long."""
    flags = [
        "--model", "tiny-wan", "--dualparal_degree", 1, "--data_parallel_degree", 2, "--long_video_strategy", "full", "--num_frames", 97,
        "--num_inference_steps", 200, "--output_directory", tmp_path / "out",
    ]
    with Run([*flags, "--prompt", *PROMPTS], tmp_path / "log") as run:
        run.wait_until(lambda: f'"{PROMPTS[0]}": 97' in run.output() and f'"{PROMPTS[1]}": 97' in run.output() and "written" in run.output())
        kill(run.launcher.pid, signal.SIGINT)
        assert run.ended() == 130, run.output()
    lines = run.output().splitlines()
    assert [line for line in lines if "not begun" in line] == [
        "stopped: 2 prompts were not begun: 'a green circle on a dark background', 'a yellow circle on a dark background'"
    ]
    ends = [f'stopped before a block of "{prompt}" was finished: nothing is saved' for prompt in sorted(PROMPTS[:2])]
    assert sorted(line for line in lines if line.startswith("stopped before")) == ends
    assert sum("a pass sees 25 latent frames and the model was trained on 21" in line for line in lines) == 1, run.output()
    assert not list((tmp_path / "out").iterdir())


class Interrupted(DualParalWanModel):
    """On one rank. Makes no videos, but notes their prompts; a stop is asked for when the first one is finished: it came too late for it."""

    def __init__(self):
        self.begun = []
        self.dualparal_config = SimpleNamespace(videos_in_flight=1)
        self.dualparal = SimpleNamespace(
            stage=SimpleNamespace(is_last=True), mesh=SimpleNamespace(share_object=lambda value: value)
        )
        self.watchdog = SimpleNamespace(stop_is_asked=False)

    def _file_of(self, prompt, input_args):
        return SimpleNamespace(path=prompt, video=SimpleNamespace(is_to_make=True, blocks_finished=1))

    def _make_videos(self, files, input_args):
        self.begun += [file.path for file in files]
        self.watchdog.stop_is_asked = True


@pytest.mark.parametrize("prompts, was_stopped", [(NUMBERED, True), (NUMBERED[:1], False)])
def test_after_a_stop_no_other_prompt_is_begun(prompts, was_stopped):
    """Of one prompt nothing is left to stop: the command ends well."""
    model = Interrupted()
    assert model._run_pipe(dict(prompt=prompts)).videos == PROMPTS[:1]
    assert model.begun == PROMPTS[:1] and model.was_stopped is was_stopped


@pytest.mark.parametrize("begun, line", [
    (set(range(4)), ""), ({0, 1, 3}, "stopped: 1 prompt was not begun: 'a green circle on a dark background'"),
    (set(), "stopped: 4 prompts were not begun: " + ", ".join(map(repr, PROMPTS))),
])
def test_what_was_not_begun_is_said(begun, line):
    assert not_begun_line(NUMBERED, begun) == line


@pytest.mark.parametrize("checkpoint, said", [
    (None, "nothing is saved"), ("folder", "the state of its blocks is saved (the same command resumes)"),
])
def test_a_stop_before_a_block_is_finished_says_what_is_saved(checkpoint, said):
    request, config = SimpleNamespace(num_frames=97, prompt="a ship"), SimpleNamespace(checkpoint=checkpoint)
    video = SimpleNamespace(outcome=Outcome.STOPPED, request=request, config=config)
    assert end_text("a.mp4", video, 0) == f'stopped before a block of "a ship" was finished: {said}'
