"""LoRAs that are loaded from Python, into the pipeline that DualParal is made of."""

import numpy as np
import pytest
import torch
from dualparal_testing.loras import ALPHA, original_format, pairs, write
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import Case, engine_config
from dualparal_testing.small_wan import small_pipeline

from xdualparal import DualParalPipeline

pytestmark = pytest.mark.processes
BAR = 1e-5  # relative, float32; the issue's


def difference(a, b):
    """The largest difference relative to the largest value."""
    return np.abs(a - b).max() / np.abs(b).max()


def with_lora(rank):
    """[(ours, diffusers') latents] of a transformer with a LoRA beside its weights, and fused; and without one."""
    from peft import LoraConfig

    def pipeline(fuse):
        wan = small_pipeline()
        torch.manual_seed(0)
        wan.transformer.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v", "ffn.net.2"], init_lora_weights=False), "a")
        if fuse:
            wan.transformer.fuse_lora()
            wan.transformer.unload_lora()
        return wan

    case, engine = Case("one block", num_frames=21, num_steps=3), engine_config()
    expected = pipeline(False)(**case.arguments()).frames.numpy()
    ours = [DualParalPipeline(pipeline(fuse), engine, case.config())(**case.arguments()).frames.numpy() for fuse in (False, True)]
    return ours, expected, small_pipeline()(**case.arguments()).frames.numpy()


def with_two_loras(rank, paths):
    """[(ours, diffusers') latents] of two LoRAs' files, beside the weights and fused; and with their weights the other way round."""
    case, engine = Case("one block", num_frames=21, num_steps=3), engine_config()

    def pipeline(fuse, weights=(0.5, -1.5)):
        wan = small_pipeline()
        for name, path in zip("ab", paths):
            wan.load_lora_weights(path, adapter_name=name)
        wan.set_adapters(["a", "b"], list(weights))
        if fuse:
            wan.fuse_lora()
            wan.unload_lora_weights()
        return wan

    def digest(wan):
        made = DualParalPipeline(wan, engine, case.config())
        return made.run_spec(**case.arguments()).transformer, made(**case.arguments()).frames.numpy()

    expected = pipeline(False)(**case.arguments()).frames.numpy()
    return [digest(pipeline(fuse)) for fuse in (False, True)], expected, digest(pipeline(False, (-1.5, 0.5)))


def test_two_loras_with_their_weights_count(tmp_path):
    paths = [write(tmp_path / f"{seed}.safetensors", original_format(pairs(small_pipeline().transformer, seed=seed), alpha=ALPHA)) for seed in (1, 2)]
    [(ours, expected, swapped)] = run_ranks(with_two_loras, 1, paths)
    assert all(difference(latents, expected) <= BAR for _, latents in ours) and difference(swapped[1], expected) > 100 * BAR
    assert len({ours[0][0], ours[1][0], swapped[0]}) == 3  # by its digest each is another run


def test_a_lora_counts():
    [(ours, expected, without)] = run_ranks(with_lora, 1)
    assert all(difference(one, expected) <= BAR for one in ours) and difference(without, expected) > 100 * BAR
