"""DESIGN section 2 as a plain sequential program on diffusers' stock modules. Shares no code with the executor."""

import math

import numpy as np
import torch
import torch.nn.functional as F


class AbsoluteRope(torch.nn.Module):
    """Wan's rotary embedding for latent frames ``start`` and on, computed from the formula in float64."""

    def __init__(self, head_dim):
        super().__init__()
        side = 2 * (head_dim // 6)
        self.dims, self.start = (head_dim - 2 * side, side, side), 0

    def forward(self, latents):
        frames, rows, columns = latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2
        where = np.stack(np.meshgrid(
            np.arange(self.start, self.start + frames), np.arange(rows), np.arange(columns), indexing="ij"
        )).reshape(3, -1).astype(np.float64)
        angles = np.concatenate([
            np.outer(axis, 1.0 / 10000.0 ** (np.arange(0, dim, 2) / dim)) for axis, dim in zip(where, self.dims)
        ], axis=1).repeat(2, axis=1)
        return tuple(torch.tensor(f(angles), dtype=torch.float32)[None, :, None, :] for f in (np.cos, np.sin))


class ContextAttention:
    """Self-attention that also sees ``extra`` (K, V) and remembers its own in ``seen``."""

    def __init__(self):
        self.extra = self.seen = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        cos, sin = rotary_emb
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (self.rotate(x, cos, sin) for x in (q, k))
        self.seen = (k, v)
        if self.extra is not None:
            k, v = (torch.cat(pair, dim=1) for pair in zip((k, v), self.extra))
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    @staticmethod
    def rotate(x, cos, sin):
        even, odd = x[..., 0::2], x[..., 1::2]
        c, s = cos[..., 0::2], sin[..., 0::2]
        return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)


def later(keys, latents, dim):
    """(1, tokens, heads, head_dim) keys after RoPE, as if they were ``latents`` further in time, which ``dim`` numbers say."""
    angles = torch.tensor(latents / 10000.0 ** (np.arange(0, dim, 2) / dim), dtype=torch.float64).repeat_interleave(2)
    return torch.cat([ContextAttention.rotate(keys[..., :dim], angles.cos().float(), angles.sin().float()), keys[..., dim:]], dim=-1)


def as_float8(x):
    """(1, tokens, heads, dim) rounded to e4m3: each head over the power of two above its largest number's 432nd part."""
    heads = []
    for head in x.unbind(2):
        scale = 2.0 ** (math.floor(math.log2(head.abs().max().item() / 432)) + 1)
        heads.append((head / scale).to(torch.float8_e4m3fn).float() * scale)
    return torch.stack(heads, dim=2)


@torch.no_grad()
def sequential_latents(transformers, make_scheduler, num_steps, noise, texts, guidance_scale, block, context, stagger=1,
                       next_context=True, previous_context_after=True, step_generator=None, boundary=None,
                       crossing=False, true_timesteps=False, cached=False, of_step=0, in_float8=False, given=None, given_clean=None, given_noise=0.0, context_noise=(0, None),
                       image=None, image_timestep=None, its_noise=None, condition=None, image_embeds=None, anchors=0, anchors_moved=True):
    """All latents of the video, (1, channels, latent frames, height, width).

    ``transformers``: one, or two, of which the first does the steps with timesteps of ``boundary`` or more; then
    ``guidance_scale`` is one for each. ``noise``: the blocks' initial latents. ``texts``: one embedding a branch. ``next_context``, ``previous_context_after``
    and ``crossing`` break a rule of the method, for tests of the tests: no next context; the previous context one step
    noisier; a next context of the other transformer. ``true_timesteps``: the previous context gets the timestep at which it stands.
    ``cached``: the previous context is the K/V of the block before at the same step (``of_step`` breaks that: so many steps earlier), in
    float8 where ``in_float8``.
    ``given``: the clean latents of the first frames of block 0, another video's last ones; they have the share ``given_noise`` of
    each step's noise; ``its_noise``: the noise that they were made of. ``context_noise``: (the timestep of a previous context that is finished, the noise, by block and step, that it then has so
    much of); likewise what is given and clean: ``given``, where it is ``given_clean``, by default with true timesteps, or ``image``: the latents of the video's first
    frame; they are so in every pass, with ``image_timestep``, by default as a finished context's. ``condition``: channels beside the whole video's latents, (1, channels, frames, height, width), and
    ``image_embeds``: as the transformer's forward takes them. ``anchors``: so many of block 0's first latent frames are seen by all blocks as K/V
    of the same step, as if they stood just before the block's previous context; where they are not ``anchors_moved`` a rule is broken, in float8
    where ``in_float8``. ``step_generator(block, step)``: of the noise that a scheduler adds in a step.
    """
    processors = [[ContextAttention() for _ in transformer.blocks] for transformer in transformers]
    for transformer, own in zip(transformers, processors):
        transformer.rope = AbsoluteRope(transformer.config.attention_head_dim)
        for layer, processor in zip(transformer.blocks, own):
            layer.attn1.processor = processor
    given_clean = true_timesteps if given_clean is None else given_clean
    latents, schedulers = [n.clone() for n in noise], []
    history = [[n.clone()] for n in noise]
    for _ in noise:
        schedulers.append(make_scheduler())
        schedulers[-1].set_timesteps(num_steps)
    timesteps, count = schedulers[0].timesteps, len(noise)
    per_frame = (noise[0].shape[3] // 2) * (noise[0].shape[4] // 2)

    of_image = {} if image_embeds is None else dict(encoder_hidden_states_image=image_embeds)
    firsts = {}  # step: for each branch, for each layer, K and V of the video's first frames
    tails = {}  # (block, step): for each branch, for each layer, K and V of the last frames
    for wave in range((count - 1) * stagger + num_steps):
        kept, kept_by = None, None
        start = [x.clone() for x in latents]
        for i in reversed([n for n in range(count) if 0 <= wave - n * stagger < num_steps]):
            step = wave - i * stagger
            clean = image if image is not None else given if given_clean else None
            count_clean = 0 if clean is None or i else clean.shape[2]
            if i == 0 and given is not None and not count_clean:
                count_given, level = given.shape[2], given_noise * float(schedulers[0].sigmas[step])
                seen = (1 - level) * given + level * (noise[0][:, :, :count_given] if its_noise is None else its_noise)
                start[i] = torch.cat([seen, start[i][:, :, count_given:]], dim=2)
            if count_clean:
                seen = clean
                if context_noise[0]:
                    seen = (1 - context_noise[0] / 1000) * clean + context_noise[0] / 1000 * context_noise[1](0, step, count_clean)
                start[i] = torch.cat([seen, start[i][:, :, count_clean:]], dim=2)
            window = start[i]
            if i > 0 and context > 0 and not cached:
                previous = start[i - 1] if previous_context_after else history[i - 1][step]
                previous = previous[:, :, -context:]
                if context_noise[0] and step + stagger >= num_steps:
                    previous = (1 - context_noise[0] / 1000) * previous + context_noise[0] / 1000 * context_noise[1](i, step)
                window = torch.cat([previous, window], dim=2)
            expert = 0 if boundary is None or timesteps[step] >= boundary else 1
            transformer, own_processors = transformers[expert], processors[expert]
            reads = kept and next_context and context and (crossing or kept_by == expert)
            transformer.rope.start = i * block + (context if cached and i else 0)
            at = timesteps[step].expand(1)
            if true_timesteps and window.shape[2] > start[i].shape[2]:
                before = timesteps[step + stagger] if step + stagger < num_steps else torch.full_like(timesteps[0], context_noise[0])
                at = torch.stack([before] * context + [timesteps[step]] * start[i].shape[2]).repeat_interleave(per_frame)[None]
            if count_clean:
                finished = context_noise[0] if image_timestep is None else image_timestep
                at = torch.stack([torch.full_like(timesteps[0], finished)] * count_clean + [timesteps[step]] * (window.shape[2] - count_clean))
                at = at.repeat_interleave(per_frame)[None]
            predictions, keep = [], []
            for branch, text in enumerate(texts):
                for n, processor in enumerate(own_processors):
                    parts = [kept[branch][n]] if reads else []
                    if cached and i > 0 and context > 0:
                        parts.append(tails[i - 1, max(0, step - of_step)][branch][n])
                    if anchors and i > 0:
                        key, value = firsts[step][branch][n]
                        distance = i * block - anchors if anchors_moved else 0
                        parts.append((later(key, distance, transformer.rope.dims[0]), value))
                    processor.extra = [torch.cat(some, dim=1) for some in zip(*parts)] if parts else None
                seen = window if condition is None else torch.cat([window, condition[:, :, transformer.rope.start:][:, :, :window.shape[2]]], dim=1)
                predictions.append(transformer(seen, at, text, **of_image, return_dict=False)[0])
                if cached:
                    tail = [tuple(x[:, x.shape[1] - context * per_frame:].clone() for x in processor.seen) for processor in own_processors]
                    tail = [tuple(map(as_float8, pair)) for pair in tail] if in_float8 else tail
                    tails.setdefault((i, step), []).append(tail)
                if anchors and i == 0:
                    first_frames = [tuple(x[:, :anchors * per_frame].clone() for x in processor.seen) for processor in own_processors]
                    firsts.setdefault(step, []).append([tuple(map(as_float8, pair)) for pair in first_frames] if in_float8 else first_frames)
                first = 0 if cached and i else context * per_frame
                last = first + context * per_frame
                keep.append([tuple(x[:, first:last] for x in processor.seen) for processor in own_processors])
            kept, kept_by = keep, expert
            prediction = predictions[0]
            if len(texts) == 2:
                scale = guidance_scale if boundary is None else guidance_scale[expert]
                prediction = predictions[1] + scale * (predictions[0] - predictions[1])
            own = prediction[:, :, -start[i].shape[2]:]
            drawn = {} if step_generator is None else dict(generator=step_generator(i, step))
            latents[i] = schedulers[i].step(own, timesteps[step], start[i], return_dict=False, **drawn)[0]
            history[i].append(latents[i])
    if image is not None:
        latents[0] = torch.cat([image, latents[0][:, :, 1:]], dim=2)
    return torch.cat(latents, dim=2)[:, :, 0 if given is None else given.shape[2]:]
