"""Schedulers and shifts of a model's folder, judged before its weights are loaded."""

import json
import os
import shutil

import diffusers
import pytest

from xdualparal.models.schedulers import flow_shift
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER
from xdualparal.xdit.flags import make_parser, value_of


def folder_with(tmp_path, scheduler):
    """A copy of the demo model's folder with another scheduler."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_WAN_FOLDER, folder, copy_function=os.symlink, ignore=shutil.ignore_patterns("scheduler", "model_index.json"))
    index = json.loads((TINY_WAN_FOLDER / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def checked(tmp_path, folder, *extra, model="tiny-wan"):
    """(the model, the parsed flags) of a command with the model in ``folder``."""
    argv = ["--model", model, "--model_path", str(folder), "--prompt", "a red circle", "--dualparal_degree", "1",
            "--height", "32", "--width", "32", "--output_directory", str(tmp_path / "out"), *extra]
    args = vars(make_parser().parse_args(argv))
    return check_command(args, 1), args


@pytest.mark.parametrize("scheduler, extra, message", [
    (diffusers.FlowMatchHeunDiscreteScheduler(), [], "FlowMatchHeunDiscreteScheduler calls the model 99 times for 50 steps"),
    (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), [], "has use_dynamic_shifting"),
    (diffusers.DDIMScheduler(), [], "DDIMScheduler has no set_begin_index"),
    (diffusers.UniPCMultistepScheduler(), [], "falling noise levels"),
    (diffusers.UniPCMultistepScheduler(), ["--flow_shift", "3"], "--flow_shift 3: .* leave it out"),
    (diffusers.IPNDMScheduler(), ["--flow_shift", "3"], "--flow_shift 3: .* leave it out"),
])
def test_refuses(tmp_path, scheduler, extra, message):
    with pytest.raises(ValueError, match=message) as caught:
        checked(tmp_path, folder_with(tmp_path, scheduler), *extra)
    assert "\n" not in str(caught.value) and "/scheduler" in str(caught.value)


def test_a_folder_without_its_scheduler_is_refused(tmp_path):
    folder = folder_with(tmp_path, diffusers.FlowMatchEulerDiscreteScheduler())
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(ValueError, match="scheduler") as caught:
        checked(tmp_path, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheduler", [
    diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0), diffusers.FlowMatchLCMScheduler(shift=7.0),
    diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=7.0),
], ids=lambda scheduler: type(scheduler).__name__)
@pytest.mark.parametrize("model", ["tiny-wan", "Wan2.1-T2V-1.3B", "Wan2.1-T2V"])
def test_the_folders_own_shift_is_the_default_and_the_flag_works(tmp_path, scheduler, model):
    folder = folder_with(tmp_path, scheduler)
    for flag, expected in ([], 7.0), (["--flow_shift", "2"], 2.0):
        found, args = checked(tmp_path, folder, *flag, model=model)
        assert shift_that_is_used(found, args, scheduler) == expected


def shift_that_is_used(model_class, args, scheduler):
    """The shift with which the model makes its pipeline's scheduler."""
    return flow_shift(model_class.scheduler(scheduler, value_of(args, model_class, "flow_shift")))


@pytest.mark.parametrize("setting", [dict(solver_type="zz"), dict(num_train_timesteps="1000"), dict(solver_order=99), dict(flow_shift="3")], ids=str)
def test_a_setting_that_no_scheduler_takes_is_refused_in_one_line(tmp_path, setting):
    folder = folder_with(tmp_path, diffusers.UniPCMultistepScheduler.from_pretrained(TINY_WAN_FOLDER / "scheduler"))
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))
    with pytest.raises(ValueError, match="scheduler") as error:
        checked(tmp_path, folder)
    assert len(str(error.value).splitlines()) == 1
