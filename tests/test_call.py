"""The arguments of a call: diffusers' own, supported or refused by name."""

import inspect

import pytest
import torch
from diffusers import (
    SkyReelsV2DiffusionForcingImageToVideoPipeline, SkyReelsV2DiffusionForcingPipeline, SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline, WanImageToVideoPipeline, WanPipeline,
)
from dualparal_testing.small_wan import small_pipeline, texts

from xdualparal.call import ONLY_AS, OWN, TAKEN, check_stream_options, known_options
from xdualparal.pipeline import DualParalPipeline
from xdualparal.request import Request

POSITIVE, NEGATIVE = texts()
PARAMETERS = {
    name: one for kind in (SkyReelsV2DiffusionForcingVideoToVideoPipeline, SkyReelsV2DiffusionForcingPipeline, WanPipeline) for name, one in inspect.signature(kind.__call__).parameters.items()
}


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def request(pipe, **options):
    """A request as a call makes it, of a small frame."""
    return Request(pipe, **dict(height=32, width=48) | known_options(options))


def test_every_argument_of_diffusers_is_known_once():
    names = set(PARAMETERS) - {"self"}
    assert names == set(TAKEN) | set(ONLY_AS) and not set(TAKEN) & set(ONLY_AS)


@pytest.mark.parametrize("kind", [WanImageToVideoPipeline, SkyReelsV2ImageToVideoPipeline, SkyReelsV2DiffusionForcingImageToVideoPipeline])
def test_every_argument_of_image_to_video_is_known(kind):
    names = set(inspect.signature(kind.__call__).parameters) - {"self"}
    assert names - set(TAKEN) - set(ONLY_AS) == {"image", "last_image", "image_embeds"} and names <= {*TAKEN, *OWN, *ONLY_AS}


def test_what_is_taken_is_what_a_request_takes():
    """But images, of which a request has the latents, see images.with_encoded_images."""
    assert {*TAKEN, *OWN} - {"image", "last_image"} == set(inspect.signature(Request.__init__).parameters) - {"self", "pipe", "family"}


@pytest.mark.parametrize("name", ONLY_AS)
def test_diffusers_own_default_is_accepted(name):
    default = PARAMETERS[name].default
    default = None if default is inspect.Parameter.empty else default  # the video of video-to-video
    assert known_options({name: default, "height": 32}) == {"height": 32}


@pytest.mark.parametrize("options, words", [
    (dict(latents=torch.zeros(1, 16, 3, 4, 4)), "latents is .* not supported with DualParal: noise is drawn block by block: give a generator"),
    (dict(num_videos_per_prompt=2), "num_videos_per_prompt is 2 and is not supported .*: give the prompt as often in a list"),
    (dict(callback_on_step_end=print), "callback_on_step_end is .*: .* iterate over stream"),
    (dict(callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]), "callback_on_step_end_tensor_inputs is"),
    (dict(attention_kwargs={"scale": 0.5}), "attention_kwargs is {'scale': 0.5} and is not supported"),
    (dict(ar_step=5), "ar_step is 5 and is not supported with DualParal: it is the stagger of the DualParalConfig"),
    (dict(return_dict=False), "return_dict is False and is not supported"),
    (dict(num_frame=9), "num_frame is no argument of this call: did you mean num_frames. it takes prompt, negative_prompt"),
    (dict(seed=3), "seed is no argument of this call: .*generator"),
])
def test_what_has_no_meaning_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words) as error:
        known_options(options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept, spec, words", [
    (-1, None, "blocks_kept is -1: give a whole number"), ("1", None, "blocks_kept is '1'"), (None, None, "blocks_kept is None"),
    (True, None, "blocks_kept is True"), (0, 5, "file_spec is 5: give a dict of quality and fps"), (0, dict(foo=3), "file_spec is {'foo': 3}"),
])
def test_what_a_stream_does_not_take_is_refused_by_name(kept, spec, words):
    check_stream_options(3, dict(quality=18, fps=16))
    with pytest.raises(ValueError, match=words):
        check_stream_options(kept, spec)


GOOD = dict(prompt_embeds=POSITIVE, negative_prompt_embeds=NEGATIVE)


@pytest.mark.parametrize("options, words", [
    (dict(prompt=""), "a prompt is '', which says nothing"),
    (dict(prompt=" \n\t\u200b"), "says nothing"),
    (dict(prompt=["a", " "]), "a prompt is ' ', which says nothing"),
    (dict(prompt=[]), "prompt is a list of nothing: give a str, or a list of str"),
    (dict(prompt=["a", 3]), "prompt is a list of int, str: give"),
    (dict(prompt=("a", "b")), "prompt is a tuple: give a str, or a list of str"),
    (dict(prompt=b"a"), "prompt is a bytes"),
    (dict(), "the prompt is missing"),
    (dict(prompt="a\0b"), "has a NUL character"),
    (dict(prompt="a\udcff"), "bytes that are no UTF-8 text: give it in UTF-8"),
    (dict(prompt="a", negative_prompt=3), "negative_prompt is a int"),
    (dict(prompt="a", negative_prompt=["b", "c"]), "2 negative prompts are given and there are 1 prompts"),
    (dict(prompt="a", prompt_embeds=POSITIVE), "prompt and prompt_embeds are given: give one"),
    (GOOD | dict(negative_prompt="b"), "negative_prompt and negative_prompt_embeds are given"),
    (dict(prompt="a", negative_prompt_embeds=NEGATIVE), "negative_prompt_embeds come without prompt_embeds"),
    (dict(prompt_embeds=POSITIVE), "prompt_embeds come without negative_prompt_embeds"),
    (GOOD | dict(prompt_embeds=POSITIVE[0]), r"prompt_embeds has the shape \(8, 32\): give \(videos, length, 32\)"),
    (GOOD | dict(prompt_embeds=POSITIVE[..., :5]), "prompt_embeds has the shape"),
    (GOOD | dict(prompt_embeds=POSITIVE.long()), "prompt_embeds is torch.int64: give a tensor of floating-point"),
    (GOOD | dict(prompt_embeds=POSITIVE.numpy()), "prompt_embeds is a ndarray"),
    (GOOD | dict(negative_prompt_embeds=NEGATIVE * float("nan")), "negative_prompt_embeds has numbers that are not finite"),
    (GOOD | dict(negative_prompt_embeds=NEGATIVE[:, :3]), r"negative_prompt_embeds are \(1, 3, 32\) and prompt_embeds"),
    (GOOD | dict(generator=3), "generator is a int"),
    (GOOD | dict(generator=[torch.Generator(), 3]), "2 generators were given for 1 videos"),
    (GOOD | dict(generator=[3]), "generator is a int"),
    (GOOD | dict(num_frames=True), "num_frames is True: give a whole number from 0 to 10000000"),
    (GOOD | dict(num_frames="9"), "num_frames is '9'"),
    (GOOD | dict(num_frames=9.0), "num_frames is 9.0"),
    (GOOD | dict(num_inference_steps=10**9), "num_inference_steps is 1000000000: give a whole number from 1 to 1000"),
    (GOOD | dict(height=10**7), "height is 10000000: give a whole number"),
    (GOOD | dict(width="32"), "width is '32'"),
    (GOOD | dict(guidance_scale=float("nan")), "guidance_scale is nan: give a number from 0 to 100"),
    (GOOD | dict(guidance_scale=None), "guidance_scale is None"),
    (GOOD | dict(max_sequence_length=0), "max_sequence_length is 0"),
    (GOOD | dict(output_type="gif"), "output_type is 'gif': give one of np, uint8, pil, pt, latent"),
])
def test_what_cannot_work_is_refused_in_one_line(pipe, options, words):
    with pytest.raises(ValueError, match=words) as error:
        request(pipe, **options)
    assert "\n" not in str(error.value)


def test_one_negative_row_is_for_all(pipe):
    many = request(pipe, prompt_embeds=torch.cat([POSITIVE, POSITIVE + 1]), negative_prompt_embeds=NEGATIVE)
    first, second = many.each_video()
    assert torch.equal(second.prompt_embeds, POSITIVE + 1)
    assert torch.equal(first.negative_prompt_embeds, NEGATIVE) and torch.equal(second.negative_prompt_embeds, NEGATIVE)


def test_numbers_of_numpy_are_numbers(pipe):
    import numpy as np

    one = request(pipe, **GOOD, num_frames=np.int64(9), num_inference_steps=np.int32(3), guidance_scale=np.float32(2))
    assert (one.num_frames, one.num_inference_steps, one.guidance_scale) == (9, 3, 2.0)
    assert (type(one.num_frames), type(one.guidance_scale)) == (int, float)


def test_a_call_knows_return_dict():
    assert inspect.signature(DualParalPipeline.__call__).parameters["return_dict"].default is True
