"""A command encodes its prompts on one rank of each replica, and the text encoder is gone before a transformer is there."""

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config
from transformers import UMT5EncoderModel

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.models import weights
from xdualparal.output.latents_file import read_latents
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER
from xdualparal.xdit.encoding import texts_needed
from xdualparal.xdit.prompts import NumberedPrompt

PROMPTS = ["a red circle on a dark background", "a blue square", "a green circle", "a red square"]
VIDEO = dict(num_frames=41, num_inference_steps=2, guidance_scale=1.5)
FLAGS = ["--model", "tiny-wan", "--seed", "3", *(f"--{name}={value}" for name, value in VIDEO.items())]


def prompts(negatives):
    """PROMPTS as the runner has them."""
    return [NumberedPrompt(text, number, negative) for number, (text, negative) in enumerate(zip(PROMPTS, negatives))]


def test_each_replica_needs_its_own_texts_once():
    args = dict(prompt=prompts(["", "", "a circle", ""]), guidance_scale=5.0)
    assert texts_needed(args, 0, 1) == [PROMPTS[0], "", *PROMPTS[1:3], "a circle", PROMPTS[3]]
    assert texts_needed(args, 0, 2) == [PROMPTS[0], "", PROMPTS[2], "a circle"]
    assert texts_needed(args, 1, 2) == [PROMPTS[1], "", PROMPTS[3]]
    assert texts_needed(args | dict(guidance_scale=1.0), 1, 2) == [PROMPTS[1], PROMPTS[3]]
    assert all(type(text) is str for text in texts_needed(args, 0, 1))


def encoders():
    """How many text encoders there are in this process."""
    gc.collect()
    return sum(isinstance(one, UMT5EncoderModel) for one in gc.get_objects())


def run_command(rank, flags):
    """What happened on this rank, in order: ("encoder", how many there were before), ("transformer", how many encoders there
    are), and each text that was encoded."""
    from xdualparal.xdit import runner

    happened = []
    with pytest.MonkeyPatch.context() as patch:
        load, encoder, forward = weights.load_transformer_stage, UMT5EncoderModel.from_pretrained, UMT5EncoderModel.forward
        patch.setattr(UMT5EncoderModel, "from_pretrained", lambda *a, **o: happened.append(("encoder", encoders())) or encoder(*a, **o))
        patch.setattr(UMT5EncoderModel, "forward", lambda self, ids, mask: happened.append("text") or forward(self, ids, mask))
        patch.setattr(weights, "load_transformer_stage", lambda *a: happened.append(("transformer", encoders())) or load(*a))
        args, model_class = runner._check(flags)
        quiet = SimpleNamespace(begin_phase=lambda phase: None, observe=lambda pipeline: None, on_abort=lambda function: None, stop_is_asked=False)
        runner._run(runner.DualParalRunner(args, model_class, quiet), args)
    return happened


@pytest.mark.processes
@pytest.mark.parametrize("flags, ranks, texts", [
    (["--dualparal_degree", "2", "--ulysses_degree", "2", "--prompt", PROMPTS[0]], 4, {0: 2}),
    (["--dualparal_degree", "2", "--use_cfg_parallel", "--prompt", PROMPTS[0], "--dualparal_text_encoder", "cpu"], 4, {0: 2}),
    (["--dualparal_degree", "2", "--data_parallel_degree", "2", "--prompt", *PROMPTS[:3]], 4, {0: 3, 2: 2}),
])
def test_one_rank_of_each_replica_encodes_and_then_the_transformer_comes(tmp_path, flags, ranks, texts):
    results = run_ranks(run_command, ranks, [*FLAGS, *flags, "--output_directory", str(tmp_path)])
    for rank, happened in enumerate(results):
        encoded = [("encoder", 0), *["text"] * texts[rank]] if rank in texts else []
        assert happened == [*encoded, ("transformer", 0)]
    assert len(list(tmp_path.glob("*.mp4"))) == max(1, 3 * flags.count("--data_parallel_degree"))


def latents_of_embeds(rank):
    """The latents of diffusers' own embeddings of PROMPTS[0], by the pipeline as it is used from Python."""
    wan = WanPipeline.from_pretrained(TINY_WAN_FOLDER)
    with torch.no_grad():
        positive, negative = wan.encode_prompt(PROMPTS[0], "", max_sequence_length=512, device="cpu")
    pipeline = DualParalPipeline(wan, engine_config(), DualParalConfig())
    return pipeline(
        prompt_embeds=positive, negative_prompt_embeds=negative, height=32, width=32, generator=torch.Generator().manual_seed(3),
        output_type="latent", **VIDEO,
    ).frames.numpy()


@pytest.mark.processes
def test_the_place_does_not_change_a_bit_on_the_cpu(tmp_path):
    [expected] = run_ranks(latents_of_embeds, 1)
    for place in ("cpu", "device"):
        file = Path(tmp_path, place)
        flags = [*FLAGS, "--prompt", PROMPTS[0], "--dualparal_degree", "1", "--dualparal_text_encoder", place, "--dualparal_latents_out", str(file)]
        run_ranks(run_command, 1, [*flags, "--output_directory", f"{file}_videos"])
        assert np.array_equal(torch.cat([latents for _, latents in read_latents(file)], dim=2).numpy(), expected)
