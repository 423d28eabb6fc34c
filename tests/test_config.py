"""DualParalConfig: limits and arithmetic."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from xdualparal import DualParalConfig


def test_sizes():
    config = DualParalConfig(block_latents=8, context_latents=4)
    assert (config.window_latents, config.seen_latents) == (12, 16)
    assert [config.own_latents(block) for block in (0, 1, 7)] == [12, 8, 8]


@pytest.mark.parametrize("latent_frames, blocks", [(1, 1), (12, 1), (13, 2), (20, 2), (21, 3), (65, 8)])
def test_blocks_hold_all_latent_frames(latent_frames, blocks):
    config = DualParalConfig(block_latents=8, context_latents=4)
    assert config.num_blocks(latent_frames) == blocks
    assert sum(map(config.own_latents, range(blocks))) >= latent_frames


@pytest.mark.parametrize("bad, part", [
    (dict(block_latents=0), "block_latents is 0"),
    (dict(block_latents=2.5), "block_latents is 2.5"),
    (dict(context_latents=-1), "context_latents is -1"),
    (dict(block_latents=4, context_latents=5), "0 to 4"),
    (dict(stage_layers=(4, 0)), "stage_layers is 0"),
    (dict(end_costs=(0, -1)), "end_costs is .0, -1.: give two numbers of 0 or more"),
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
