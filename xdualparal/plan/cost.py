"""How many operations a pass takes, counted from its spec.

Knows: a model's sizes as numbers, and what a pass sees. Must not know: torch, how fast a device is, which rank computes.

An operation is a multiplication or an addition, so that a product of matrices (a, b) and (b, c) has 2 a b c. Counted are products of
matrices and attention, as torch.utils.flop_counter does (tests/plan/test_cost.py compares them); norms, RoPE and activations, which
are a few operations a number, are not.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Operations(NamedTuple):
    """``matrix``: of products with weights. ``attention``: of scores and sums."""

    matrix: int
    attention: int

    @property
    def total(self):
        """Both."""
        return self.matrix + self.attention


@dataclass(frozen=True)
class StagePart:
    """The part of a model that a stage has: ``layers``, and whether it embeds latents and predicts."""

    layers: int
    embeds: bool
    predicts: bool


class PassShape(NamedTuple):
    """Latent frames of a pass: of its ``window``; that each self-attention has ``seen``, with K/V that it reads; that are ``predicted``; whose K/V are
    ``fetched`` from passes that run elsewhere at the same time; of K/V that last for waves, those that are ``kept_read`` and ``kept_left``."""

    window: int
    seen: int
    predicted: int
    fetched: int
    kept_read: int = 0
    kept_left: int = 0


def shape_of(plan, one):
    """The PassShape of the pass ``one``."""
    spec = plan.spec(one)
    kept = {kept.key: kept for key in spec.reads for kept in plan.spec(key.one).keeps}
    read, own = [kept[key] for key in spec.reads], range(spec.position, spec.position + spec.window_latents)
    scopes = [frame for scope in spec.scopes for frame in scope.frames]  # what is in two is seen twice, and comes once
    return PassShape(
        spec.window_latents, spec.window_latents + _frames(read) + len(scopes), len(spec.predicted), len({*scopes} - {*own}),
        kept_read=_frames(one for one in read if one.lasts), kept_left=_frames(one for one in spec.keeps if one.lasts),
    )


def _frames(kept):
    return sum(one.count for one in kept)


def forward_operations(model, part, shape, frame_tokens, text_tokens=512):
    """The Operations of one guidance branch of a pass of ``shape`` on a stage.

    ``model``: plan.memory_numbers.ModelNumbers. ``part``: a StagePart. ``frame_tokens``: of a latent frame. ``text_tokens``: of the
    prompt; its keys and values are computed once, for all passes.
    """
    tokens, seen = shape.window * frame_tokens, shape.seen * frame_tokens
    matrix, attention = (part.layers * number for number in layer_operations(model, tokens, seen, text_tokens))
    latents_a_token = (model.pixels_per_token // model.pixels_per_latent) ** 2
    if part.embeds:
        matrix += 2 * tokens * latents_a_token * (model.channels + model.condition_channels) * model.dim
    if part.predicts:
        matrix += 2 * shape.predicted * frame_tokens * latents_a_token * model.channels * model.dim
    return Operations(matrix, attention)


def layer_operations(model, tokens, seen_tokens, text_tokens):
    """The Operations of one layer on ``tokens``, whose self-attention sees ``seen_tokens``.

    Of self-attention: Q, K, V and output, dim x dim each, and scores and sums; of cross-attention: Q and output, and scores and sums over
    the text; of the feed-forward: two matrices, dim x ffn_dim (diffusers 0.42.1, WanTransformerBlock).
    """
    dim = model.dim
    matrix = (4 + 2) * 2 * tokens * dim * dim + 2 * 2 * tokens * dim * model.ffn_dim
    return Operations(matrix, attention_operations(model, tokens, seen_tokens + text_tokens))


def attention_operations(model, tokens, seen_tokens):
    """Of the scores and sums of attention of ``tokens`` over ``seen_tokens``."""
    return 2 * 2 * tokens * seen_tokens * model.dim
