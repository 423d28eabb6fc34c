"""What a call asks for, in latents."""

import pytest
import torch
from dualparal_testing.small_wan import small_pipeline, texts

from xdualparal.request import Request, check_size


@pytest.fixture(scope="module")
def pipe():
    return small_pipeline()


def request_for(pipe, **options):
    """A request with good embeddings."""
    positive, negative = texts()
    return Request(pipe, **dict(prompt_embeds=positive, negative_prompt_embeds=negative, height=32, width=48) | options)


def test_shapes_and_branches(pipe):
    assert request_for(pipe).latent_shape == (16, 4, 6)
    assert [request_for(pipe, guidance_scale=g).branches for g in (1.0, 1.5)] == [1, 2]
    assert [rows.shape for rows in request_for(pipe).given_embeds] == [(1, 8, 32)] * 2
    assert [rows.shape for rows in request_for(pipe, guidance_scale=1).given_embeds] == [(1, 8, 32)]


def test_each_video_has_its_own_row_and_generator(pipe):
    positive, negative = texts()
    generators = [torch.Generator().manual_seed(n) for n in range(2)]
    many = request_for(pipe, prompt_embeds=torch.cat([positive, negative]),
                       negative_prompt_embeds=torch.cat([negative, positive]), generator=generators)
    first, second = many.each_video()
    assert torch.equal(first.prompt_embeds, positive) and torch.equal(second.prompt_embeds, negative)
    assert (first.generator, second.generator) == tuple(generators)


def test_each_prompt_of_a_list(pipe):
    many = Request(pipe, prompt=["a", "b"], negative_prompt=["c"], height=32, width=32)
    assert [(one.prompt, one.negative_prompt) for one in many.each_video()] == [("a", "c"), ("b", "c")]


def test_texts_are_those_of_the_branches(pipe):
    for negative, text in ((None, ""), ("b", "b")):
        common = dict(prompt="a", negative_prompt=negative, height=32, width=32)
        assert list(Request(pipe, **common).texts.items()) == [("prompt", "a"), ("negative prompt", text)]
        assert Request(pipe, **common, guidance_scale=1).texts == {"prompt": "a"}


def test_generators_are_checked(pipe):
    with pytest.raises(ValueError, match="3 generators were given for 1 videos"):
        request_for(pipe, generator=[torch.Generator()] * 3)


def test_schedulers_are_fresh(pipe):
    request = request_for(pipe, num_inference_steps=7)
    first, second = request.make_scheduler("cpu"), request.make_scheduler("cpu")
    assert first is not second and len(first.timesteps) == 7 and first.begin_index == 0


@pytest.mark.parametrize("size, nearest", [((40, 32), "height is 40.*32"), ((32, 8), "width is 8.*16")])
def test_size_names_the_nearest_that_works(size, nearest):
    with pytest.raises(ValueError, match=nearest):
        check_size(*size, (16, 16))
