"""Models that the family would compute wrongly are refused, from Python and by their configs."""

from pathlib import Path

import pytest
from diffusers import FirstBlockCacheConfig, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel, WanVACETransformer3DModel
from dualparal_testing.small_wan import SCHEDULERS, small_image_encoder, small_image_pipeline, small_pipeline, small_transformer, small_vae

import xdualparal
from xdualparal.models import Wan21I2VFamily, Wan22Family, Wan22I2VFamily, WanFamily, WanI2VFamily, WanTI2VFamily, family_of
from xdualparal.models.weights import read_configs

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"


def pipeline_of(cls=WanPipeline, **other):
    """A small pipeline with ``other`` parts or settings."""
    parts = dict(tokenizer=None, text_encoder=None, vae=small_vae(), scheduler=SCHEDULERS["unipc"](), transformer=small_transformer())
    return cls(**parts | other)


class WithOwnLoop(WanPipeline):
    """Denoises in its own way."""

    def __call__(self, *args, **options):
        """Does something else."""


class WithOwnPrompts(WanPipeline):
    """Changes nothing that DualParal replaces."""


SMALL = dict(num_attention_heads=4, attention_head_dim=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2)


@pytest.mark.parametrize("make", [small_pipeline, lambda: pipeline_of(WithOwnPrompts), lambda: pipeline_of(vae=None)])
def test_supported(make):
    assert isinstance(family_of(make()), WanFamily)


@pytest.mark.parametrize("make, named", [
    (lambda: pipeline_of(transformer_2=small_transformer()), "boundary_ratio is None, not a number between 0 and 1"),
    (lambda: pipeline_of(transformer_2=small_transformer(), boundary_ratio=1.0), "boundary_ratio is 1.0, not a number between"),
    (lambda: pipeline_of(boundary_ratio=0.875), "transformer_2 is None, not WanTransformer3DModel"),
    (lambda: pipeline_of(transformer=None, transformer_2=small_transformer()), "transformer is None, not WanTransformer3DModel"),
    (lambda: pipeline_of(transformer_2=small_transformer(num_layers=3), boundary_ratio=0.875), "transformer_2's num_layers is 3, not 4"),
    (lambda: pipeline_of(transformer_2=small_transformer(image_dim=8), boundary_ratio=0.875), "transformer_2's image_dim is 8, not None"),
    (lambda: pipeline_of(expand_timesteps=True, transformer_2=small_transformer(), boundary_ratio=0.875), "boundary_ratio is 0.875, not None"),
    (lambda: pipeline_of(transformer=small_transformer(in_channels=36)), "out_channels is 16, not 36"),
    (lambda: pipeline_of(transformer=small_transformer(in_channels=48, out_channels=48)), "out_channels is 48, not 16"),
    (lambda: pipeline_of(transformer=small_transformer(image_dim=8)), "image_dim is 8, not None"),
    (lambda: pipeline_of(transformer=small_transformer(added_kv_proj_dim=8)), "added_kv_proj_dim is 8, not None"),
    (lambda: pipeline_of(transformer=small_transformer(pos_embed_seq_len=8)), "pos_embed_seq_len is 8, not None"),
    (lambda: pipeline_of(transformer=small_transformer(patch_size=(2, 2, 2))), r"patch_size is \(2, 2, 2\), not \(1, 2, 2\)"),
    (lambda: pipeline_of(transformer=WanVACETransformer3DModel(**SMALL, vace_layers=[0])), "transformer is WanVACETransformer3DModel"),
    (lambda: pipeline_of(WithOwnLoop), "the pipeline is WithOwnLoop, not WanPipeline"),
])
def test_refused_from_python(make, named):
    with pytest.raises(ValueError, match=named + ".*and DualParal supports no other yet: give one, for example Wan-AI/") as error:
        family_of(make())
    assert "\n" not in str(error.value)


def test_two_experts_are_another_family():
    pipeline = pipeline_of(transformer_2=small_transformer(), boundary_ratio=0.875)
    assert type(family_of(pipeline)) is Wan22Family
    pipeline.transformer_2.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="a step cache is enabled.*call transformer_2.disable_cache"):
        family_of(pipeline)


def test_frames_with_timesteps_of_their_own_are_another_family():
    assert type(family_of(pipeline_of(expand_timesteps=True))) is WanTI2VFamily


@pytest.mark.parametrize("options, family", [({}, WanI2VFamily), (dict(boundary_ratio=0.9), Wan22I2VFamily), (dict(sees_images=True), Wan21I2VFamily)])
def test_image_to_video_is_three_families(options, family):
    assert type(family_of(small_image_pipeline(**options))) is family


IMAGES = dict(in_channels=36, image_dim=24, added_kv_proj_dim=48)


@pytest.mark.parametrize("parts, named", [
    (dict(transformer=small_transformer()), "in_channels is 16, not 36"),
    (dict(transformer=small_transformer(in_channels=20)), "in_channels is 20, not 36"),
    (dict(transformer=small_transformer(**IMAGES | dict(added_kv_proj_dim=12)), image_encoder=small_image_encoder()), "added_kv_proj_dim is 12, not 48"),
    (dict(transformer=small_transformer(in_channels=36, pos_embed_seq_len=10)), "pos_embed_seq_len is 10, not None"),
    (dict(transformer=small_transformer(in_channels=36), expand_timesteps=True), "expand_timesteps is True, not False"),
    (dict(transformer=small_transformer(in_channels=36), boundary_ratio=0.9), "transformer_2 is None, not WanTransformer3DModel"),
])
def test_image_to_video_that_would_be_computed_wrongly_is_refused(parts, named):
    with pytest.raises(ValueError, match=named) as error:
        family_of(pipeline_of(WanImageToVideoPipeline, **parts))
    assert "\n" not in str(error.value)


def test_another_vae_is_refused():
    pipeline = small_pipeline()
    pipeline.vae = pipeline.transformer
    with pytest.raises(ValueError, match="vae is WanTransformer3DModel, not AutoencoderKLWan"):
        family_of(pipeline)


def test_a_step_cache_is_refused():
    pipeline = small_pipeline()
    pipeline.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="a step cache is enabled.*call transformer.disable_cache"):
        family_of(pipeline)
    pipeline.transformer.disable_cache()
    family_of(pipeline)


# What stands in the configs of the models on the hub, where it is not what Wan2.1-T2V's have.
WAN = ["diffusers", "WanTransformer3DModel"]
OTHERS = {
    "Wan2.2-T2V-A14B": (dict(transformer_2=WAN, boundary_ratio=0.875), {}, {}, ["transformer_2", "boundary_ratio"]),
    "Wan2.2-TI2V-5B": (
        dict(expand_timesteps=True), dict(in_channels=48, out_channels=48), dict(z_dim=48), ["expand_timesteps"],
    ),
    "Wan2.1-I2V-14B": (
        dict(_class_name="WanImageToVideoPipeline"), dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120), {},
        ["the pipeline", "image_dim", "added_kv_proj_dim", "out_channels"],
    ),
    "Wan2.1-VACE": (
        dict(_class_name="WanVACEPipeline", transformer=["diffusers", "WanVACETransformer3DModel"]), dict(in_channels=16), {},
        ["the pipeline", "transformer"],
    ),
}


def wan21():
    """The configs of Wan2.1-T2V, as far as they are looked at."""
    index, transformer, vae = read_configs(TINY_WAN)
    return index, transformer | dict(in_channels=16, out_channels=16), vae | dict(z_dim=16, latents_mean=[0.0] * 16, latents_std=[1.0] * 16)


def check(family, index, transformer, vae, **others):
    """``check_configs`` of ``family``."""
    family.check_configs(index, dict(transformer=transformer, vae=vae, **others))


@pytest.mark.parametrize("name", OTHERS)
def test_refused_by_the_configs(name):
    *changes, named = OTHERS[name]
    with pytest.raises(ValueError) as error:
        check(WanFamily, *(config | change for config, change in zip(wan21(), changes)))
    assert [part.split(" is ")[0] for part in str(error.value).split("(")[1].split(")")[0].split("; ")][:len(named)] == named


def test_a_folder_of_something_else_is_refused():
    with pytest.raises(ValueError, match=r"the pipeline is FluxPipeline.*transformer is None"):
        check(WanFamily, dict(_class_name="FluxPipeline"), *wan21()[1:])


def test_supported_by_the_configs():
    check(WanFamily, *wan21())
    check(WanFamily, *read_configs(TINY_WAN))
    index, transformer, vae = wan21()
    check(Wan22Family, index | dict(transformer_2=WAN, boundary_ratio=0.875), transformer, vae, transformer_2=transformer)
    check(WanTI2VFamily, index | dict(expand_timesteps=True), transformer, vae)


def test_sizes():
    assert WanFamily.sizes(*read_configs(TINY_WAN)[1:]) == (8, 4, 8)
    transformer = dict(num_layers=30, num_attention_heads=12, patch_size=[1, 2, 2])
    assert WanFamily.sizes(transformer, {}) == (30, 12, 16)  # older configs of Wan's VAE have no factors
    with pytest.raises(KeyError):
        WanFamily.sizes({}, {})


class WithOwnForward(WanTransformer3DModel):
    """Computes something else."""

    def forward(self, *args, **options):
        """Does something else."""


def test_another_forward_is_refused():
    with pytest.raises(ValueError, match="transformer is WithOwnForward, not WanTransformer3DModel"):
        family_of(pipeline_of(transformer=WithOwnForward(**SMALL)))
    pipeline = small_pipeline()
    pipeline.transformer.forward = lambda *args: None  # as cache-dit does
    with pytest.raises(ValueError, match="the transformer's forward was replaced, by cache-dit or a hook"):
        family_of(pipeline)
