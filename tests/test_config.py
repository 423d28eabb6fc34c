"""DualParalConfig: limits and arithmetic."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from xdualparal import DualParalConfig
from xdualparal.plan.layout import Layout
from xdualparal.strategies.dualparal import DualParal
from xdualparal.strategies.table import STRATEGIES


def test_sizes():
    config = DualParalConfig(block_latents=8, context_latents=4)
    assert DualParal().layout(config, 30) == Layout(8, 4, 30)


def test_the_sizes_come_first():
    assert [field.name for field in fields(DualParalConfig)][:3] == ["block_latents", "context_latents", "stagger"]


@pytest.mark.parametrize("bad, part", [
    (dict(block_latents=0), "block_latents is 0"),
    (dict(block_latents=2.5), "block_latents is 2.5"),
    (dict(context_latents=-1), "context_latents is -1"),
    (dict(block_latents=4, context_latents=5), "0 to 4"),
    (dict(stage_layers=(4, 0)), "stage_layers is 0"),
    (dict(strategy="tiles"), f"strategy is 'tiles': give one of {', '.join(STRATEGIES)}"),
    (dict(context_timestep="false"), "context_timestep is 'false': give one of model, own, true"),
    (dict(context="kept"), "context is 'kept': give one of model, recomputed, cached"),
    (dict(context_store="disk"), "context_store is 'disk': give one of device, host"),
    (dict(context="cached", context_dtype="int8"), "context_dtype is 'int8': give one of model, float8"),
    (dict(context_dtype="float8", context="recomputed"), "context_dtype is float8 and context is recomputed, which keeps nothing: leave it out"),
    (dict(context_latents=0, context="cached"), "context is cached and context_latents is 0, so there is no context: leave one"),
    (dict(anchor_latents=-1), "anchor_latents is -1: give"), (dict(anchor_latents=9), "anchor_latents is 9 and block_latents is 8: .* give 0 to 8"),
    (dict(context_dtype="float8", context="recomputed"), "context_dtype is float8 and context is recomputed, which keeps nothing"),
    (dict(context_noise=1000), "context_noise is 1000: give a whole number from 0 to 999"), (dict(context_noise=-1), "context_noise is -1: give"),
    (dict(context_noise=20, context="cached"), "context_noise is 20 and context is cached, .*: leave one of them out"),
    (dict(context_noise=20, context_timestep="own"), "context_noise is 20 and context_timestep is own, .*: leave one of them out"),
    (dict(given_noise=1.5), "given_noise is 1.5: give a number from 0 to 1"),
    (dict(given_noise=0.5, context_timestep="true"), "given_noise is 0.5 and context_timestep is true, .*: leave one of them out"),
    (dict(context_noise=20, context_latents=0), "context_noise is 20 and context_latents is 0, so there is no context"),
    (dict(context_latents=0, context_timestep="true"), "context_timestep is true and context_latents is 0"),
    (dict(strategy="video_infinity", global_latents=0, scope_bias=2.0), "scope_bias is 2.0 and global_latents is 0"),
    (dict(strategy="video_infinity", global_latents=0, global_steps=0.5), "global_steps is 0.5 and global_latents is 0"),
    *((dict(fresh_noise=bad), f"fresh_noise is {bad}: give a number from 0 to 1") for bad in (-0.1, 1.1, float("nan"))),
    (dict(stagger=0), "stagger is 0"), (dict(checkpoint_waves=True), "checkpoint_waves is True"),
    (dict(decode="here"), "decode is 'here': give one of thread, inline, end"),
    (dict(end_costs=(0, -1)), "end_costs is -1: give a number from 0 to 1000"),
    *((dict([(name, bad)]), f"{name} is .*: give a path, or leave it out")
      for name in ("latents_out", "trace", "checkpoint") for bad in (3, True, b"a", ["a"], "", " ", "a\0b")),
    *((dict([(name, bad)]), f"{name} is .*, a folder: give a file's name") for name in ("latents_out", "trace") for bad in ("a/", "/", "a/..")),
    (dict(latents_out="a", trace="./a"), "latents_out a and trace ./a are one file"),
    (dict(overwrite="no"), "overwrite is 'no': give True or False"), (dict(overwrite=1), "overwrite is 1: give"),
    (dict(vae_precision="float8"), "vae_precision is 'float8': give one of float32, bfloat16, float16"),
])
def test_refuses(bad, part):
    with pytest.raises(ValueError, match=part):
        DualParalConfig(**bad)


def test_is_frozen_and_documented():
    with pytest.raises(FrozenInstanceError):
        DualParalConfig().block_latents = 3
    assert all(field.metadata["help"] for field in fields(DualParalConfig))


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, xdualparal; xdualparal.DualParalConfig; print([m for m in ('torch', 'xfuser') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.processes
def test_the_platform_can_be_enabled_after_all_public_names_are_imported():
    code = (
        "from xdualparal import DualParalConfig, DualParalPipeline, build_schedule, initial_noise, enable_host_platform\n"
        "import sys; assert 'xfuser' not in sys.modules; enable_host_platform(); enable_host_platform(); import xfuser"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
