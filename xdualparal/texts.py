"""Where the text of a run comes from: the first rank of a replica encodes it, and gives it to the others.

Knows: how prompts become embeddings, and when the text encoder is there. Must not know: flags, files, stages.

Each text is encoded alone, as diffusers' own pipeline does with one prompt. Embeddings travel and are kept on the host, over a
group that waits as long as encoding takes; on a CPU that may be longer than the limits of torch's and xDiT's groups.

On the host, too, the encoder has the numbers that the model is loaded in: the weights, and so the run's identity, are the same, UMT5
takes 11.4 GB in bfloat16 and 22.7 in float32, and where the CPU multiplies bfloat16 (AVX-512 BF16) it is 2.4 times as fast (one core
of an AMD EPYC, 512 x 4096 by 4096 x 10240: 215 and 89 GFLOPS). Its bits do not depend on the number of threads (1 to 8 were compared).
"""

import gc
import logging
from typing import NamedTuple

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from .engine.placement import HOST, encoder_alone, give_memory_back, place_transformers
from .models.finite import is_finite
from .models.identity import part_sums
from .text_settings import CPU

logger = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """A text as embeddings, ``rows`` (tokens, dim) on the host in the encoder's dtype, without the zeros that fill them up to the
    length that was asked for; ``rest``: the end of it that was too long and left out, or ""."""

    rows: torch.Tensor
    rest: str


class LiveEncoder:
    """The pipeline's own text encoder, which encodes when a run begins.

    ``pipe``: on all ranks but the first of the ``replica`` (engine.replica.Replica) it loses its text encoder. ``device``: of the
    passes. ``place``: see text_settings; with "device" an accelerator's memory is shared: the transformer waits on the host.
    """

    def __init__(self, pipe, replica, device, place):
        self._pipe, self._replica, self._device = pipe, replica, device
        if not replica.decides:
            pipe.text_encoder = None
        self.place = place_in_spec(device, place)
        self.shares_device = pipe.text_encoder is not None and device.type != HOST.type and place != CPU

    @property
    def parts(self):
        """{name: module} of what of the pipeline is used here."""
        return {} if self._pipe.text_encoder is None else dict(text_encoder=self._pipe.text_encoder)

    sums = {}  # of parts that are gone, see EncodedTexts

    def of(self, request, dtype):
        """The embeddings of ``request``'s prompt and, with guidance, negative prompt, (branches, length, dim) in ``dtype`` on the
        host. Every rank must call it before each run. Raises FloatingPointError where they are not finite."""
        try:
            if request.has_embeds:
                return checked(request.given_embeds, dtype)
            return joined(request, self._replica.from_first_rank(lambda: self._encoded(request)), dtype, self._replica.decides)
        finally:
            place_transformers(self._pipe, self._device)

    def _encoded(self, request):
        if not self.shares_device:
            return self._encode_all(request)
        with encoder_alone(self._pipe, self._device):
            return self._encode_all(request)

    def _encode_all(self, request):
        return {text: encode(self._pipe, text, request.max_sequence_length) for text in dict.fromkeys(request.texts.values())}


class EncodedTexts:
    """Texts that were encoded before the transformer was there; the encoder is gone. See ``encode_beforehand``.

    ``table``: {text: Encoded}. ``length``: the max_sequence_length that they were encoded for. ``sums``: of the text encoder,
    see models.identity.part_sums. ``place``: see ``place_in_spec``. ``decides``: whether this rank speaks for its replica.
    """

    shares_device, parts = False, {}

    def __init__(self, table, length, sums, place, decides):
        self._table, self._length, self.sums, self.place, self._decides = table, length, sums, place, decides

    def of(self, request, dtype):
        """As LiveEncoder's, of texts that are in the table."""
        if request.has_embeds:
            return checked(request.given_embeds, dtype)
        assert request.max_sequence_length == self._length, f"encoded for {self._length} tokens, not {request.max_sequence_length}"
        return joined(request, self._table, dtype, self._decides)


def encode_beforehand(load, texts, length, replica, place):
    """EncodedTexts with every one of ``texts`` once. Every rank of the replica must call it.

    ``load``: is called on the first rank, and gives a pipeline with a text encoder and its tokenizer, which is dropped when all is
    encoded. Raises ValueError on all ranks where it does.
    """
    entries = _entries(load, texts, length) if replica.decides else None
    sums = replica.from_first_rank(lambda: next(entries))
    table = {text: replica.from_first_rank(lambda: next(entries)) for text in texts}
    if entries is not None:
        entries.close()  # with it goes the pipeline
        gc.collect()
        give_memory_back()
    return EncodedTexts(table, length, sums if replica.decides else {}, place, replica.decides)


def place_in_spec(device, place):
    """What a RunSpec says of where prompts are encoded: nothing where it is with the passes, on their device; "cpu" where the
    encoder stays on the host beside an accelerator, which rounds otherwise."""
    return CPU if place == CPU and device.type != HOST.type else None


def _entries(load, texts, length):
    """Yields the sums of the text encoder and then each text's Encoded."""
    pipe = load()
    yield part_sums(dict(text_encoder=pipe.text_encoder), 0)
    for text in texts:
        yield encode(pipe, text, length)


@torch.no_grad()
def encode(pipe, text, length):
    """The Encoded of ``text``, with at most ``length`` tokens."""
    [embeds], _ = pipe.encode_prompt(text, do_classifier_free_guidance=False, max_sequence_length=length, device=HOST)
    used = embeds.any(dim=-1).nonzero().flatten()
    return Encoded(embeds[:int(used[-1]) + 1 if len(used) else 0].clone(), _beyond_length(pipe.tokenizer, text, length))


def _beyond_length(tokenizer, text, length):
    """The end of ``text`` that is left out, as the tokenizer spells it. The last token that is kept is the one that marks the
    end."""
    return tokenizer.decode(tokenizer(prompt_clean(text), add_special_tokens=False).input_ids[length - 1:])


def joined(request, table, dtype, tells):
    """The rows of ``request``'s texts, filled up with zeros, as LiveEncoder.of gives them. ``table``: {text: Encoded}. ``tells``:
    whether this rank warns of what was left out."""
    length = request.max_sequence_length
    for what, text in request.texts.items():
        rest = table[text].rest
        if tells and rest:
            shown = rest if len(rest) <= 400 else rest[:300] + " ... " + rest[-80:]
            logger.warning("the %s is longer than %d tokens and its end is left out: %r", what, length, shown)
    rows = [table[text].rows for text in request.texts.values()]
    return checked([torch.nn.functional.pad(one, (0, 0, 0, length - len(one)))[None] for one in rows], dtype)


def checked(embeds, dtype):
    """``embeds``, one (1, length, dim) a branch, as one tensor (branches, length, dim) in ``dtype`` on the host. Raises
    FloatingPointError where they are not finite."""
    text = torch.cat([one.to(HOST, dtype) for one in embeds])
    if not is_finite(text):
        raise FloatingPointError("the text encoder made a NaN or an infinity of the prompt: use other weights, or bfloat16")
    return text
