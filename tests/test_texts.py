"""Prompts become embeddings on one rank of a replica, and the text encoder is there only as long as it is needed."""

import logging
import re
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config

from xdualparal import DualParalConfig, DualParalPipeline
from xdualparal.texts import EncodedTexts, LiveEncoder, encode, encode_beforehand, place_in_spec
from xdualparal.xdit.demo_model import TINY_WAN_FOLDER

HOST, GPU = torch.device("cpu"), torch.device("cuda", 0)
PROMPT, NEGATIVE = "a red circle on a dark background", "a blue square"
CALL = dict(height=32, width=32, num_frames=41, num_inference_steps=2, guidance_scale=3.0, output_type="latent")


class Alone:
    """A replica of one rank."""

    decides = True

    def from_first_rank(self, function):
        """What ``function()`` gives."""
        return function()


def request(prompt=PROMPT, negative=NEGATIVE, length=512, branches=2, embeds=None):
    """What a source of texts asks of a request."""
    texts = dict(list({"prompt": prompt, "negative prompt": negative}.items())[:branches])
    return SimpleNamespace(texts=texts, max_sequence_length=length, has_embeds=embeds is not None, given_embeds=embeds)


@pytest.fixture(scope="module")
def wan():
    """The demo model, in float32."""
    return WanPipeline.from_pretrained(TINY_WAN_FOLDER)


def diffusers_own(wan, length=512):
    """(2, length, dim): the pipeline's own embeddings of PROMPT and NEGATIVE."""
    with torch.no_grad():
        return torch.cat(wan.encode_prompt(PROMPT, NEGATIVE, max_sequence_length=length, device="cpu"))


@pytest.mark.parametrize("length", [512, 5])
@pytest.mark.parametrize("source", ["live", "beforehand"])
def test_embeddings_are_diffusers_own(wan, source, length):
    if source == "live":
        texts = LiveEncoder(wan, Alone(), HOST, "device")
    else:
        texts = encode_beforehand(lambda: wan, [PROMPT, NEGATIVE, "more"], length, Alone(), None)
    expected = diffusers_own(wan, length)
    assert torch.equal(texts.of(request(length=length), torch.float32), expected)
    assert torch.equal(texts.of(request(length=length, branches=1), torch.bfloat16), expected[:1].to(torch.bfloat16))
    given = [torch.ones(1, 3, 64), torch.zeros(1, 3, 64)]
    assert torch.equal(texts.of(request(embeds=given), torch.float32), torch.cat(given))
    with pytest.raises(FloatingPointError, match="the text encoder made a NaN or an infinity of the prompt"):
        texts.of(request(embeds=[given[0] / 0]), torch.float32)


def test_each_text_is_encoded_once_and_the_encoder_is_gone():
    asked, gone = [], []

    class Pipe:
        text_encoder, tokenizer = torch.nn.Linear(2, 2), None

    def load():
        pipe = Pipe()
        pipe.text_encoder.config, pipe.tokenizer = {}, Words()
        pipe.encode_prompt = lambda text, **_: (asked.append(text) or torch.ones(1, 512, 4), None)
        gone.append(weakref.ref(pipe))
        return pipe

    texts = encode_beforehand(load, ["a", "b", ""], 512, Alone(), None)
    assert asked == ["a", "b", ""] and gone[0]() is None
    assert texts.parts == {} and list(texts.sums) == ["text_encoder"] and not texts.shares_device
    assert texts.of(request("a", ""), torch.float32).shape == (2, 512, 4)
    with pytest.raises(AssertionError, match="encoded for 512 tokens, not 226"):
        texts.of(request("a", "", length=226), torch.float32)


class Words:
    """A tokenizer, a token a word."""

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return type("Tokens", (), dict(input_ids=text.split()))

    def decode(self, tokens):
        """The words again."""
        return " ".join(tokens)


@pytest.mark.parametrize("prompt, negative, length, branches, said", [
    ("a b c", "d", 4, 2, []),
    ("a b c d", "e", 4, 2, ["the prompt is longer than 4 tokens and its end is left out: 'd'"]),
    ("a b c", "e f", 2, 2, ["the prompt .*: 'b c'", "the negative prompt is longer than 2 tokens .*: 'f'"]),
    ("a", "e f", 2, 1, []),
])
def test_what_is_left_out_of_a_prompt_is_said_once(caplog, prompt, negative, length, branches, said):
    pipe = SimpleNamespace(tokenizer=Words(), encode_prompt=lambda *_, **options: (torch.ones(1, options["max_sequence_length"], 4), None))
    table = {text: encode(pipe, text, length) for text in (prompt, negative)}
    for decides in (True, False):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            EncodedTexts(table, length, {}, None, decides).of(request(prompt, negative, length, branches), torch.float32)
        assert len(caplog.messages) == len(said) * decides
        for message, pattern in zip(caplog.messages, said):
            assert re.fullmatch(pattern, message)


@pytest.mark.parametrize("device, place, in_spec, shares", [
    (HOST, "device", None, False), (HOST, "cpu", None, False), (GPU, "device", None, True), (GPU, "cpu", "cpu", False),
])
def test_where_prompts_are_encoded(monkeypatch, device, place, in_spec, shares):
    """On the CPU both places are one. With "cpu" nothing of the encoder comes on the device, and the transformer stays there."""
    moved = []
    pipe = SimpleNamespace(**{name: Part(name, moved) for name in ("transformer", "text_encoder")}, tokenizer=Words())
    pipe.encode_prompt = lambda *_, **options: moved.append("encoded") or (torch.ones(1, options["max_sequence_length"], 4), None)
    texts = LiveEncoder(pipe, Alone(), device, place)
    assert (texts.place, texts.shares_device, place_in_spec(device, place)) == (in_spec, shares, in_spec)
    texts.of(request(branches=1), torch.float32)
    around = ["transformer to cpu", "text_encoder to cuda"], ["text_encoder to cpu"]
    before, after = around if shares else ([], [])
    assert moved == [*before, "encoded", *after, f"transformer to {device.type}"]


class Part:
    """Says where it is moved."""

    def __init__(self, name, log):
        self._name, self._log = name, log

    def to(self, device):
        """Is moved."""
        self._log.append(f"{self._name} to {device.type}")


def encoded_by_ranks(rank, degrees, place):
    """(how many texts this rank encoded, whether it has an encoder afterwards, its latents of the prompt and of the embeddings
    that diffusers' own pipeline makes of it)."""
    wan, count = WanPipeline.from_pretrained(TINY_WAN_FOLDER), []
    positive, negative = diffusers_own(wan).split(1)
    wan.text_encoder.register_forward_hook(lambda *_: count.append(1))
    pipeline = DualParalPipeline(wan, engine_config(**degrees), DualParalConfig(4, 2, text_encoder=place))
    texts = dict(prompt=PROMPT, negative_prompt=NEGATIVE), dict(prompt_embeds=positive, negative_prompt_embeds=negative)
    made = [pipeline(**CALL, **text, generator=torch.Generator().manual_seed(3)) for text in texts]
    return len(count), wan.text_encoder is not None, [one and one.frames.numpy() for one in made]


@pytest.mark.processes
@pytest.mark.parametrize("place, degrees, ranks", [
    ("device", dict(stages=1), 1), ("cpu", dict(stages=2, ulysses_degree=2), 4), ("device", dict(stages=2, use_cfg_parallel=True), 4),
])
def test_one_rank_of_a_replica_encodes(place, degrees, ranks):
    results = run_ranks(encoded_by_ranks, ranks, degrees, place)
    assert [count for count, *_ in results] == [2] + [0] * (ranks - 1)
    assert [has for _, has, _ in results] == [True] + [False] * (ranks - 1)
    of_prompt, of_embeds = results[-1][2]
    assert np.array_equal(of_prompt, of_embeds)
