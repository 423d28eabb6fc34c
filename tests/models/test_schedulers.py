"""Which schedulers are driven and which are refused, and that a block resumes with each to the same bits."""

import inspect
from io import BytesIO

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from hypothesis import given, settings
from hypothesis import strategies as st

from xdualparal.engine.blocks import Denoiser
from xdualparal.engine.noise import StepNoise
from xdualparal.engine.sharding import SpatialShard
from xdualparal.models.schedulers import check_scheduler, flow_shift, fresh_scheduler, with_flow_shift
from xdualparal.plan.actions import Pass

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
UNIPC, DPM, SINGLE, EULER = (
    "UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "FlowMatchEulerDiscreteScheduler"
)
DETERMINISTIC = [
    *[(UNIPC, dict(FLOW, solver_order=order)) for order in (1, 2, 3)],
    (UNIPC, dict(FLOW, use_karras_sigmas=True)), (UNIPC, dict(FLOW, final_sigmas_type="sigma_min")),
    *[(DPM, dict(FLOW, solver_order=order)) for order in (1, 2, 3)],
    *[(SINGLE, dict(FLOW, solver_order=order)) for order in (1, 2)],
    ("DEISMultistepScheduler", FLOW), (EULER, dict(shift=3.0)), (EULER, dict(shift=8.0, use_karras_sigmas=True)),
]
STOCHASTIC = [
    *[(DPM, dict(FLOW, algorithm_type="sde-dpmsolver++", solver_order=order)) for order in (1, 2)],
    (SINGLE, dict(FLOW, algorithm_type="sde-dpmsolver++")), (EULER, dict(shift=3.0, stochastic_sampling=True)),
    ("FlowMatchLCMScheduler", dict(shift=3.0)), ("LTXEulerAncestralRFScheduler", {}),
]
REFUSED = [
    ("FlowMatchHeunDiscreteScheduler", dict(shift=3.0), "calls the model 11 times for 6 steps"),
    ("KDPM2DiscreteScheduler", {}, "calls the model 11 times"),
    (EULER, dict(use_dynamic_shifting=True), "has use_dynamic_shifting"), (UNIPC, dict(FLOW, use_dynamic_shifting=True), "use_dynamic"),
    (UNIPC, dict(FLOW, thresholding=True), "has thresholding"),
    (EULER, dict(num_train_timesteps=1), "timesteps 1000 times them"), (EULER, dict(invert_sigmas=True), "falling noise levels"),
    (UNIPC, {}, "falling noise levels"), (DPM, dict(FLOW, use_flow_sigmas=False), "falling noise levels"),
    (UNIPC, dict(FLOW, prediction_type="epsilon"), "velocities"), (DPM, dict(FLOW, prediction_type="epsilon"), "velocities"),
    (UNIPC, dict(FLOW, prediction_type="v_prediction"), "velocities"), (DPM, dict(FLOW, prediction_type="sample"), "velocities"),
    (UNIPC, dict(FLOW, predict_x0=False), "cannot be driven in 6 steps"), ("SASolverScheduler", FLOW, "velocities"),
    ("DDIMScheduler", {}, "set_begin_index"), ("PNDMScheduler", {}, "set_begin_index"), ("IPNDMScheduler", {}, "no sigmas"),
    ("LCMScheduler", {}, "no sigmas"), ("EulerDiscreteScheduler", {}, "falling noise levels"),
]
STEPS = 6


def made(case):
    """The scheduler of a case, (class name, settings)."""
    return getattr(diffusers, case[0])(**case[1])


def named(case):
    """A case as a test's name."""
    return case[0] + " ".join(f" {name}={value}" for name, value in case[1].items() if name not in FLOW or value != FLOW[name])


@pytest.mark.parametrize("case", [*DETERMINISTIC, *STOCHASTIC], ids=named)
@pytest.mark.parametrize("steps", [1, 2, STEPS, 50])
def test_drives(case, steps):
    before = torch.get_rng_state()
    assert check_scheduler(made(case), STEPS).draws_noise == (case in STOCHASTIC)
    check_scheduler(made(case), steps)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_refuses(case):
    with pytest.raises(ValueError, match=case[2]) as caught:
        check_scheduler(made(case), STEPS)
    assert case[0] in str(caught.value) and ": give a flow scheduler" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("steps", [20, 1000])
def test_many_steps_do_not_hide_a_wrong_prediction(steps):
    with pytest.raises(ValueError, match="velocities"):
        check_scheduler(made((UNIPC, dict(FLOW, prediction_type="epsilon"))), steps)


def test_the_noise_of_a_step_without_a_generator_is_refused():
    class Careless(diffusers.FlowMatchEulerDiscreteScheduler):
        def step(self, model_output, timestep, sample, return_dict=True):
            return super().step(model_output, timestep, sample, return_dict=return_dict)

    assert not check_scheduler(Careless(shift=3.0), STEPS).draws_noise
    with pytest.raises(ValueError, match="no seed fixes"):
        check_scheduler(Careless(shift=3.0, stochastic_sampling=True), STEPS)


def test_every_scheduler_of_diffusers_is_driven_or_refused_in_one_line():
    verdicts = {}
    for name in dir(diffusers):
        kind = getattr(diffusers, name, None)
        if inspect.isclass(kind) and issubclass(kind, SchedulerMixin) and hasattr(kind, "step"):
            needs = [p for p in list(inspect.signature(kind.__init__).parameters.values())[1:] if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
            if needs:
                continue
            try:
                verdicts[name] = check_scheduler(kind(), STEPS)
            except ValueError as error:
                assert name in str(error) and "\n" not in str(error)
    # With their defaults; UniPC, DPM++ and DEIS make noise unless told that the model is a flow.
    assert set(verdicts) == {EULER, "FlowMatchLCMScheduler", "LTXEulerAncestralRFScheduler", "FlowMapEulerDiscreteScheduler"}


def denoiser(case, noise, shard, in_flight=()):
    """A Denoiser with a scheduler of ``case`` and its timesteps."""
    def make():
        return fresh_scheduler(made(case), STEPS)

    step_noises = {0: StepNoise(torch.Generator().manual_seed(3))} if case in STOCHASTIC else {}
    return Denoiser(make, make().timesteps, {0: noise}, torch.device("cpu"), in_flight, step_noises, shard)


@pytest.mark.parametrize("case", [*DETERMINISTIC, *STOCHASTIC], ids=named)
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_block_resumes_to_the_same_bits(case, stop):
    """The state goes through a file, as in a checkpoint."""
    noise, predictions = torch.randn(1, 2, 3, 4, 4), torch.randn(STEPS, 1, 2, 3, 4, 4)
    shard = SpatialShard((4, 4), (2, 2), 0, 1)
    one = denoiser(case, iter([noise]), shard)
    for step in range(stop):
        one.advance(Pass(0, 0, step), predictions[step])
    file = BytesIO()
    torch.save(one.state(), file)
    file.seek(0)
    again = denoiser(case, iter([]), shard, torch.load(file, weights_only=True))
    for step in range(stop, STEPS):
        assert torch.equal(one.advance(Pass(0, 0, step), predictions[step]), again.advance(Pass(0, 0, step), predictions[step]))


@pytest.mark.parametrize("case", [*DETERMINISTIC, *STOCHASTIC], ids=named)
def test_parts_of_a_frame_are_parts_of_the_whole(case):
    """What sequence parallelism takes for granted, the noise of steps included."""
    noise, predictions = torch.randn(1, 2, 3, 4, 4), torch.randn(STEPS, 1, 2, 3, 4, 4)
    whole = denoiser(case, iter([noise]), SpatialShard((4, 4), (2, 2), 0, 1))
    shards = [SpatialShard((4, 4), (2, 2), rank, 2) for rank in range(2)]
    parts = [denoiser(case, iter([shard.take(noise)]), shard) for shard in shards]
    for step in range(STEPS):
        expected = whole.advance(Pass(0, 0, step), predictions[step])
        for part, shard in zip(parts, shards):
            assert torch.equal(part.advance(Pass(0, 0, step), shard.take(predictions[step])), shard.take(expected))


def test_noise_differs_from_block_to_block_and_step_to_step():
    noise = StepNoise(torch.Generator().manual_seed(0))
    drawn = [torch.randn(4, generator=noise.generator(Pass(0, block, step))) for block in range(3) for step in range(3)]
    assert all(not torch.equal(one, other) for n, one in enumerate(drawn) for other in drawn[:n])


@given(shift=st.floats(0.1, 20))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("case, name", [
    ((UNIPC, FLOW), "flow_shift"), ((DPM, FLOW), "flow_shift"), ((EULER, {}), "shift"), (("FlowMatchLCMScheduler", {}), "shift"),
], ids=str)
def test_a_shift_works_under_any_name(case, name, shift):
    changed = with_flow_shift(made(case), shift)
    assert flow_shift(changed) == shift
    check_scheduler(changed, STEPS)
    expected = fresh_scheduler(made((case[0], case[1] | {name: shift})), STEPS).sigmas
    assert torch.equal(fresh_scheduler(changed, STEPS).sigmas, expected)


def test_a_shift_that_changes_nothing_is_refused():
    for case in (("IPNDMScheduler", {}), (UNIPC, dict(FLOW, use_flow_sigmas=False))):
        with pytest.raises(ValueError, match="flow_shift is 5 .*leave it out"):
            with_flow_shift(made(case), 5.0)


def test_a_shift_that_was_set_on_an_instance_stays():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_shift(7.0)
    assert flow_shift(scheduler) == 7.0
    fresh = fresh_scheduler(scheduler, 5)
    scheduler.set_timesteps(5)
    assert torch.equal(fresh.sigmas, scheduler.sigmas)
