"""Video-Infinity's definition (strategies/clips.py) as a plain program on diffusers' stock modules: one forward of the whole video
a step, in which self-attention alone is clip by clip. Shares no code with the engine or the plan."""

import torch
import torch.nn.functional as F

from .sequential import AbsoluteRope, ContextAttention


class ClipAttention:
    """Self-attention in which each clip's queries see the clip and its halo, and the sampled frames with a bias on their logits."""

    def __init__(self, per_frame, latent_frames, clips, halo, sampled):
        self.bias, self._per_frame = 0.0, per_frame
        edges = [clip * latent_frames // clips for clip in range(clips + 1)]
        self._own = list(zip(edges, edges[1:]))
        self._local = [(max(0, first - halo), min(latent_frames, last + halo)) for first, last in self._own]
        sampled = min(sampled, latent_frames)
        self._sampled = [n * latent_frames // sampled for n in range(sampled)]

    def _frames(self, tokens, first, last):
        return tokens[:, first * self._per_frame:last * self._per_frame]

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        q, k = (ContextAttention.rotate(x, *rotary_emb) for x in (q, k))
        outputs = []
        for own, local in zip(self._own, self._local):
            keys, values = (
                torch.cat([self._frames(x, *local), *(self._frames(x, n, n + 1) for n in self._sampled)], dim=1) for x in (k, v)
            )
            bias = torch.zeros(keys.shape[1])
            bias[(local[1] - local[0]) * self._per_frame:] = self.bias
            outputs.append(F.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in (self._frames(q, *own), keys, values)), attn_mask=bias[None, None, None]
            ))
        return attn.to_out[0](torch.cat(outputs, dim=2).transpose(1, 2).flatten(2))


@torch.no_grad()
def clips_latents(transformers, make_scheduler, num_steps, noise, texts, guidance_scale, clips, halo, sampled, bias, global_steps,
                  boundary=None):
    """All latents of the video, (1, channels, latent frames, height, width).

    ``transformers``, ``texts``, ``guidance_scale``, ``boundary``: see sequential_latents. ``noise``: of the whole video. ``bias``: is
    added to the sampled frames' logits in the first ``global_steps`` steps and taken away in the others.
    """
    per_frame = (noise.shape[3] // 2) * (noise.shape[4] // 2)
    processors = []
    for transformer in transformers:
        transformer.rope = AbsoluteRope(transformer.config.attention_head_dim)
        for layer in transformer.blocks:
            layer.attn1.processor = ClipAttention(per_frame, noise.shape[2], clips, halo, sampled)
            processors.append(layer.attn1.processor)
    scheduler, latents = make_scheduler(), noise
    scheduler.set_timesteps(num_steps)
    for step, timestep in enumerate(scheduler.timesteps):
        for processor in processors:
            processor.bias = bias if step < global_steps else -bias
        expert = 0 if boundary is None or timestep >= boundary else 1
        predictions = [transformers[expert](latents, timestep.expand(1), text, return_dict=False)[0] for text in texts]
        prediction = predictions[0]
        if len(texts) == 2:
            scale = guidance_scale if boundary is None else guidance_scale[expert]
            prediction = predictions[1] + scale * (predictions[0] - predictions[1])
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents
