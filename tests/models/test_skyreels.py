"""What the SkyReels-V2-DF family answers, against diffusers' own modules and its own schedule."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline, SkyReelsV2Pipeline,
)
from dualparal_testing.checkpoints import SKYREELS, write_checkpoint
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config
from dualparal_testing.small_skyreels import small_df_pipeline, small_df_transformer
from dualparal_testing.small_wan import SEES_IMAGES, texts

from xdualparal import DualParalPipeline
from xdualparal.models import SkyReelsDFFamily, family_of, family_of_folder
from xdualparal.models.folder import check_folder
from xdualparal.models.weights import load_stage
from xdualparal.plan.layout import Layout
from xdualparal.strategies.dualparal import DualParalPlan

GRID = (5, 2, 2)
SETTINGS = {"with the frames a second": {}, "without": dict(inject_sample_info=False)}
TIMESTEPS = {"one": [700] * 5, "one a frame": [0, 0, 700, 700, 999]}


@pytest.mark.parametrize("cls", [SkyReelsV2DiffusionForcingPipeline, SkyReelsV2DiffusionForcingImageToVideoPipeline, SkyReelsV2DiffusionForcingVideoToVideoPipeline])
def test_family_of(tmp_path, cls):
    """Of all three, which have the same parts, and of a folder that any of them wrote."""
    assert type(family_of(small_df_pipeline(cls=cls))) is SkyReelsDFFamily
    folder = write_checkpoint(tmp_path / "model", "SkyReels-V2-DF-1.3B")
    index = json.loads((folder / "model_index.json").read_text()) | dict(_class_name=cls.__name__)
    (folder / "model_index.json").write_text(json.dumps(index))
    family = family_of_folder(folder)
    check_folder(family, folder)
    assert type(family) is SkyReelsDFFamily
    assert type(load_stage(family, folder, 0, 1, range(5), torch.float32, with_vae=False)) is SkyReelsV2DiffusionForcingPipeline


class WithOwnCall(SkyReelsV2DiffusionForcingImageToVideoPipeline):
    """Does something else."""

    def __call__(self):
        """Does something else."""


OF_IMAGES = partial(SkyReelsV2ImageToVideoPipeline, image_encoder=None, image_processor=None)


@pytest.mark.parametrize("cls, settings, named", [
    (SkyReelsV2DiffusionForcingPipeline, dict(num_frame_per_block=5), "num_frame_per_block is 5, not 1"),
    (SkyReelsV2DiffusionForcingPipeline, dict(image_dim=8), "image_dim is 8, not None"),
    (OF_IMAGES, SEES_IMAGES | dict(in_channels=36, inject_sample_info=True), "SkyReels-V2 image-to-video model .inject_sample_info is True, not False"),
    (OF_IMAGES, dict(in_channels=36), "image_dim is None, not a number"),
    (WithOwnCall, {}, "the pipeline is WithOwnCall, not SkyReelsV2DiffusionForcingPipeline"),
    (SkyReelsV2Pipeline, {}, "SkyReelsV2Pipeline has no DualParal support: give one of SkyReelsV2DiffusionForcingPipeline, SkyReelsV2ImageToVideoPipeline, WanImageToVideoPipeline, WanPipeline"),
])
def test_what_it_would_compute_wrongly_is_refused(cls, settings, named):
    with pytest.raises(ValueError, match=named) as error:
        family_of(small_df_pipeline(cls=cls, **settings))
    assert "\n" not in str(error.value)


def test_rotary_at_the_start_is_the_models_own():
    transformer = small_df_transformer()
    own = transformer.rope(torch.zeros(1, 16, 6, 8, 12))
    assert all(map(torch.equal, SkyReelsDFFamily().rotary(transformer, 0, (6, 4, 6)), own))


@torch.no_grad()
def parts_and_whole(transformer, timesteps):
    """(the parts' prediction, the whole forward's) of a window whose frames have ``timesteps``."""
    family, (text, _) = SkyReelsDFFamily(), texts()
    latents = torch.randn(1, 16, 5, 4, 4, generator=torch.Generator().manual_seed(3))
    whole = transformer(latents, torch.tensor([timesteps]), text, enable_diffusion_forcing=True, fps=[1], return_dict=False)[0]
    steps, projected = family.condition(transformer, torch.tensor(timesteps), text)
    conditioning = steps[0] if len(set(timesteps)) == 1 else family.by_frame(steps, 4)
    text_kv = family.project_text(transformer.blocks, projected)
    hidden, rotary = family.embed(transformer, latents), family.rotary(transformer, 0, GRID)
    for block in transformer.blocks:
        hidden = family.layer(block, hidden, projected, conditioning, rotary)
    last = [
        family.head(transformer, hidden[:, tokens], family.part(conditioning, tokens), (frames, 2, 2))
        for tokens, frames in ((slice(0, 8), 2), (slice(8, 20), 3))
    ]
    text_kv.restore()
    return torch.cat(last, dim=2).numpy(), whole.numpy()


@pytest.mark.parametrize("timesteps", TIMESTEPS.values(), ids=TIMESTEPS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_parts_make_the_whole_forward(settings, timesteps):
    np.testing.assert_allclose(*parts_and_whole(small_df_transformer(**settings), timesteps), atol=2e-6)


def test_the_bar_would_see_other_timesteps_and_another_rate():
    of_frames, whole = parts_and_whole(small_df_transformer(), TIMESTEPS["one a frame"])
    _, of_one = parts_and_whole(small_df_transformer(), TIMESTEPS["one"])
    transformer = small_df_transformer()
    transformer.fps_embedding.weight.data[1] = transformer.fps_embedding.weight.data[0]  # 16 frames a second
    _, of_16 = parts_and_whole(transformer, TIMESTEPS["one a frame"])
    assert np.abs(of_one - whole).max() > 1e-2 and np.abs(of_16 - whole).max() > 1e-2


def with_xdits_attention(rank):
    """``parts_and_whole`` with xDiT's attention processors."""
    DualParalPipeline(small_df_pipeline(), engine_config())  # initialises xDiT
    transformer = small_df_transformer()
    SkyReelsDFFamily().prepare_attention(transformer.blocks)
    return parts_and_whole(transformer, TIMESTEPS["one a frame"])


@pytest.mark.processes
def test_xdits_attention_fits():
    [(ours, whole)] = run_ranks(with_xdits_attention, 1)
    np.testing.assert_allclose(ours, whole, atol=2e-6)
    np.testing.assert_allclose(ours, parts_and_whole(small_df_transformer(), TIMESTEPS["one a frame"])[1], atol=2e-6)


@pytest.mark.parametrize("model", SKYREELS)
def test_a_folder_is_loaded_by_the_stage(tmp_path, model):
    folder = write_checkpoint(tmp_path / "model", model)
    family = family_of_folder(folder)
    check_folder(family, folder)
    whole = SkyReelsV2DiffusionForcingPipeline.from_pretrained(folder).transformer.state_dict()
    loaded = load_stage(family, folder, 1, 2, range(3, 5), torch.float32, with_vae=False).transformer.state_dict()
    outside = {name for name in loaded if not name.startswith("blocks.")}
    assert all(torch.equal(loaded[name], whole[name]) for name in outside)
    assert torch.equal(loaded["blocks.0.attn1.to_q.weight"], whole["blocks.3.attn1.to_q.weight"])
    assert any(name.startswith("fps_") for name in outside) == (model == "SkyReels-V2-DF-1.3B")


# Schedules.

@pytest.mark.parametrize("blocks, steps, stagger", [(2, 5, 2), (5, 30, 5), (4, 3, 3), (3, 6, 1), (3, 4, 4)])
def test_the_stagger_is_diffusers_ar_step(blocks, steps, stagger):
    """The same block does the same step in the same wave, and what is seen of the block before has the same timestep."""
    size, timesteps = 3, torch.arange(steps, 0, -1) * 10
    matrix, index, updated, _ = small_df_pipeline().generate_timestep_matrix(blocks * size, timesteps, blocks * size, stagger, 0, size)
    plan = DualParalPlan(blocks, steps, 1, stagger, layout=Layout(size, 2, size * blocks + 2), context_timestep="true")
    assert plan.passes(len(matrix) - 1) and not plan.passes(len(matrix))
    levels = [*timesteps.tolist(), 0]  # behind the last step a frame is clean
    for wave, (row, steps_done, changes) in enumerate(zip(matrix[:, ::size], index[:, ::size], updated[:, ::size])):
        passes = plan.passes(wave)
        assert {one.block: one.step for one in passes} == {n: int(steps_done[n]) - 1 for n in range(blocks) if changes[n]}
        for one in passes:
            spec = plan.spec(one)
            of_frames = spec.steps if len(spec.steps) > 1 else spec.steps * spec.window_latents
            expected = [row[one.block - 1]] * (2 if one.block else 0) + [row[one.block]] * plan.layout.own_latents(one.block)
            assert [levels[step] for step in of_frames] == expected
