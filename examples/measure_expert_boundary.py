"""What a block should see of the next one where the two are on different experts.

    python examples/measure_expert_boundary.py --checkpoint two-experts --steps 4 --guidance 1.5 --prompts 30 --seeds 3

In one wave a block's next neighbour is D steps noisier; in D passes of a block it is still on the other expert, whose K/V do
not mean the same. Compared on a demo model with two experts (examples/train_tiny_wan.py --experts):

    none    such a pass sees no next context
    window  the next block's first C latent frames, as they stand at the wave's start, are at the end of its window
    mixed   it reads the other expert's K/V, as the paper's reference does
    never   no pass sees a next context, for comparison

Measured: means with the 95 % interval of the mean of what a variant has more than `none` in pairs of the same prompt and
noise, 129 frames, B = 8, C = 4, guidance 1.5; the experts' K/V are .16 to .24 apart, where unrelated ones are 1.4 apart.

    4 steps, boundary after 2, 60 videos     all right            error at seams, px
        none                                 .78 (.68 to .88)     .206 (.194 to .219)
        window - none                        -.02 (-.05 to .00)   -.006 (-.014 to .004)
        mixed - none                         -.02 (-.08 to .05)   -.013 (-.021 to -.005)
        mixed with --roll-heads - none       -.02 (-.08 to .05)   +.002 (-.001 to .005)
        never - none                         -.10 (-.20 to -.02)  +.034 (.025 to .044)
    the same without guidance
        none                                 .70 (.58 to .82)     .210 (.198 to .223)
        window - none                        -.03 (-.12 to .05)   +.004 (-.013 to .027)
        mixed - none                         .00 (-.08 to .08)    -.010 (-.018 to -.001)
        never - none                         -.08 (-.17 to .00)   +.027 (.017 to .036)
    4 steps, one expert as both, 90 videos
        none                                 .61 (.51 to .71)     .213 (.203 to .223)
        window - none                        +.04 (.00 to .10)    -.007 (-.014 to .004)
        mixed - none                         +.04 (-.01 to .11)   -.013 (-.019 to -.006)
        never - none                         -.18 (-.28 to -.09)  +.043 (.033 to .053)
    8 steps, 30 videos
        none                                                      .213
        window - none                                             -.005 (-.008 to -.001)
        mixed - none                                              -.006 (-.010 to -.002)
        never - none                                              +.056 (.035 to .077)
    8 steps, 90 videos
        none                                                      .202
        window - none                        +.03 (-.01 to .09)   -.005 (-.007 to -.003)
    25 steps, boundary after 12, 30 videos
        none                                 .87 (.73 to .97)     .213 (.202 to .226)
        window - none                        .00                  -.000 (-.004 to .006)
        mixed - none                         .00                  -.002 (-.007 to .006)

So `none` and `window` cannot be told apart at 4 and 25 steps; at 8 `window` is better by .005 px, a tenth of what a next context
is worth, which does not pay for a third more tokens in that pass and a second shape of windows. `none` it is.

With a checkpoint of one expert, that one is both: then `mixed` is the method as it is without a boundary.
A plain sequential program on diffusers' stock modules; all prompts are one batch, and all variants have the same noise.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UniPCMultistepScheduler, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from train_tiny_wan import BOUNDARY_RATIO, FoldedPaddingProcessor, embed_prompts

from xdualparal import initial_noise
from xdualparal.demo import quality
from xdualparal.demo import scenes as demo

BLOCK, CONTEXT = 8, 4
VARIANTS = ("none", "window", "mixed", "never")
SEAM_FRAMES = 4  # steps this near to a block's first frame, on both sides, count as at a seam: one latent frame
MEASURES = ("one_object", "all_right", "speed_error_px", "longest_step_px", "seam_error_px", "elsewhere_error_px")


# ------------------------------------------------------------------------------------------------- one pass of a block


class ContextAttention(WanAttnProcessor):
    """Self-attention that also sees `extra` (K, V), and leaves its own, after norm and rotary embedding, in `seen`."""

    def __init__(self):
        super().__init__()
        self.extra = self.seen = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        query, key, value = (x.unflatten(2, (attn.heads, -1)) for x in (query, key, attn.to_v(hidden_states)))
        query, key = rotated(query, *rotary_emb), rotated(key, *rotary_emb)
        self.seen = key, value
        if self.extra is not None:
            key, value = (torch.cat(pair, dim=1) for pair in zip(self.seen, self.extra))
        out = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, key, value)))
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`x` (batch, tokens, heads, head dim), whose pairs of neighbours are turned."""
    even, odd, c, s = x[..., 0::2], x[..., 1::2], cos[..., 0::2], sin[..., 0::2]
    return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)


class ShiftedRope(torch.nn.Module):
    """The stock rotary embedding of latent frames `start` and on."""

    def __init__(self, rope):
        super().__init__()
        self.rope, self.start = rope, 0

    def forward(self, latents):
        before = latents[:, :, :1].expand(-1, -1, self.start, -1, -1)
        tokens = (latents.shape[3] // 2) * (latents.shape[4] // 2)
        return tuple(table[:, self.start * tokens :] for table in self.rope(torch.cat([before, latents], dim=2)))


class Expert:
    """A WanTransformer3DModel that reads and leaves self-attention K/V."""

    def __init__(self, transformer):
        transformer.set_attn_processor(FoldedPaddingProcessor())
        self.transformer, self.layers = transformer, [ContextAttention() for _ in transformer.blocks]
        transformer.rope = ShiftedRope(transformer.rope)
        for block, layer in zip(transformer.blocks, self.layers):
            block.attn1.processor = layer

    def predict(self, window, timestep, text, position=0, extra=None):
        """The prediction, (batch, channels, frames, height, width), and K/V by layer; `extra`: what `kv_of` gave."""
        for number, layer in enumerate(self.layers):
            layer.extra = extra[number] if extra else None
        self.transformer.rope.start = position
        prediction = self.transformer(window, timestep.expand(len(window)), text, return_dict=False)[0]
        return prediction, [layer.seen for layer in self.layers]


# ------------------------------------------------------------------------------------------------------ a whole video


@dataclass
class Run:
    """`experts`: high and low noise. `texts`: one embedding a branch. `boundary`: the first step of the low-noise expert."""

    experts: list[Expert]
    scheduler: UniPCMultistepScheduler
    steps: int
    boundary: int
    texts: list[torch.Tensor]
    guidance: float
    stagger: int

    def expert(self, step: int) -> int:
        return int(step >= self.boundary)

    def crosses(self, step: int) -> bool:
        """Whether the next block, D steps noisier, is on the other expert."""
        return self.expert(step) != self.expert(step - self.stagger)

    def fresh_scheduler(self):
        scheduler = UniPCMultistepScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(self.steps)
        return scheduler


@torch.no_grad()
def denoise(run: Run, noise: list[torch.Tensor], variant: str) -> torch.Tensor:
    """All latents (batch, channels, latent frames, height, width) of the videos with the blocks' `noise`."""
    latents, schedulers = list(noise), [run.fresh_scheduler() for _ in noise]
    for wave in range((len(noise) - 1) * run.stagger + run.steps):
        start, kept = list(latents), None
        for block in reversed(range(len(noise))):
            step = wave - block * run.stagger
            if 0 <= step < run.steps:
                sees_next = block + 1 < len(noise) and step >= run.stagger and variant != "never"
                crosses = sees_next and run.crosses(step)
                extra = kept if sees_next and (variant == "mixed" or not crosses) else None
                window, own = window_of(start, block, crosses and variant == "window")
                timestep = schedulers[block].timesteps[step]
                prediction, kept = guided(run, run.experts[run.expert(step)], window, timestep, block * BLOCK, extra)
                latents[block] = schedulers[block].step(prediction[:, :, own], timestep, start[block], return_dict=False)[0]
    return torch.cat(latents, dim=2)


def window_of(start: list[torch.Tensor], block: int, with_next: bool) -> tuple[torch.Tensor, slice]:
    """[previous C | own | next C, maybe] as they stand at the wave's start, and which frames are the block's own."""
    before = [start[block - 1][:, :, -CONTEXT:]] if block else []
    behind = [start[block + 1][:, :, :CONTEXT]] if with_next else []
    first = CONTEXT if block else 0
    return torch.cat([*before, start[block], *behind], dim=2), slice(first, first + start[block].shape[2])


def guided(run: Run, expert: Expert, window, timestep, position, extra):
    """The guided prediction, and per branch and layer the K/V of window frames C to 2C, the block's own first ones."""
    predictions, kept = [], []
    for branch, text in enumerate(run.texts):
        prediction, seen = expert.predict(window, timestep, text, position, extra[branch] if extra else None)
        frame = seen[0][0].shape[1] // window.shape[2]
        predictions.append(prediction)
        kept.append([tuple(x[:, CONTEXT * frame : 2 * CONTEXT * frame] for x in pair) for pair in seen])
    if len(predictions) == 1:
        return predictions[0], kept
    return predictions[1] + run.guidance * (predictions[0] - predictions[1]), kept


# ------------------------------------------------------------------------------------------------------- what it shows


def measures_of(video: np.ndarray, prompt: str, seams: list[int]) -> dict[str, float]:
    """The MEASURES of one video; `seams`: the first frame of each block but block 0."""
    measured = quality.measure(video, prompt)
    _, coverage = quality.largest_objects(video)
    centres = quality.centroids(coverage)
    half_size = demo.half_sizes([demo.parse_prompt(prompt)]).item()
    steps = np.abs(np.diff(centres, axis=0))
    free = np.where(quality.bounces(centres, half_size, video.shape[1]), np.nan, steps)
    error = np.abs(free - np.nanmedian(free, axis=0))
    at_seam = np.zeros(len(steps), dtype=bool)
    for seam in seams:
        at_seam[seam - 1 - SEAM_FRAMES : seam + SEAM_FRAMES] = True  # step n leads from frame n to n + 1
    values = {name: getattr(measured, name) for name in MEASURES[:4]}
    values["one_object"] = measured.one_object >= quality.ONE_OBJECT_SHARE
    return {**values, "seam_error_px": np.nanmean(error[at_seam]), "elsewhere_error_px": np.nanmean(error[~at_seam])}


@torch.no_grad()
def decoded(vae, latents: torch.Tensor, frames: int) -> list[np.ndarray]:
    """Videos (frames, height, width, 3) in 0..1, a few at a time."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    parts = [vae.decode(part * std + mean).sample for part in latents.split(10)]
    videos = (torch.cat(parts)[:, :, :frames] / 2 + 0.5).clamp(0, 1)
    return list(videos.permute(0, 2, 3, 4, 1).numpy())


def interval(values: np.ndarray, draws: int = 10_000) -> list[float]:
    """Mean and the 95 % interval of the mean, by bootstrap over the videos."""
    picks = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    return [float(np.nanmean(values)), *map(float, np.nanpercentile(np.nanmean(values[picks], axis=1), (2.5, 97.5)))]


def print_table(values: dict[str, np.ndarray]) -> None:
    """`values`: by variant (videos, MEASURES). A row a variant, then what it has more than the first, pair by pair."""
    print(f"{'':16}" + "".join(f"{name:>24}" for name in MEASURES))
    base = next(iter(values))
    rows = {**values, **{f"{name} - {base}": values[name] - values[base] for name in values if name != base}}
    for name, row in rows.items():
        cells = (interval(column) for column in row.T)
        print(f"{name:16}" + "".join(f"{'%.3f (%.3f..%.3f)' % tuple(cell):>24}" for cell in cells), flush=True)


@torch.no_grad()
def print_experts(pipeline, experts: list[Expert], clips: int = 16) -> None:
    """How unlike the experts are: the loss of each on each one's noise levels, and the distance of their K/V."""
    generator = torch.Generator().manual_seed(1)
    scenes = demo.evaluation_scenes(clips)
    truth, _ = demo.make_clips(scenes, 65, generator)
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (pipeline.vae.config.latents_mean, pipeline.vae.config.latents_std))
    clean = (pipeline.vae.encode(truth).latent_dist.mode() - mean) / std
    text = embed_prompts(pipeline.tokenizer, pipeline.text_encoder, [scene.prompt for scene in scenes])
    for level in (0.97, 0.93, 0.89, 0.84, 0.7, 0.4):
        noise = torch.randn(clean.shape, generator=generator)
        answers = [expert.predict(clean + level * (noise - clean), torch.tensor(1000 * level), text) for expert in experts]
        losses = ", ".join(f"{(prediction - (noise - clean)).square().mean():.4f}" for prediction, _ in answers)
        apart = [distance(*(seen[layer] for _, seen in answers)) for layer in range(len(experts[0].layers))]
        print(f"noise level {level}: loss of high, low: {losses}; K/V apart, mean of the layers: {np.mean(apart):.2f}, by layer:",
              *(f"{x:.2f}" for x in apart), flush=True)


def distance(one, other) -> float:
    """Relative distance of two (K, V), the mean of K's and V's; unrelated ones are 1.4 apart."""
    return np.mean([((a - b).square().mean() / (a.square().mean() * b.square().mean()).sqrt()).sqrt().item() for a, b in zip(one, other)])


# ------------------------------------------------------------------------------------------------------------ commands


def block_noise(seeds: list[int], frames: int) -> list[torch.Tensor]:
    """The noise of each block, (videos, channels, frames of the block, 8, 8); a video has its own seed."""
    latents = 1 + (frames - 1) // 4
    count = 1 + max(0, -(-(latents - BLOCK - CONTEXT) // BLOCK))
    videos = [
        initial_noise(count, BLOCK, CONTEXT, (8, 8, 8), torch.Generator().manual_seed(seed), latents) for seed in seeds
    ]
    return [torch.cat(blocks) for blocks in zip(*videos)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    for name, default in (("steps", 4), ("guidance", 1.0), ("prompts", 30), ("seeds", 1), ("frames", 129), ("stagger", 1)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--compare-experts", action="store_true", help="also print how unlike the experts are")
    parser.add_argument("--roll-heads", action="store_true", help="make the experts' K/V unrelated: see roll_heads")
    parser.add_argument("--json", type=Path, help="also write the measures of every video to this file")
    args = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(args.checkpoint, local_files_only=True)
    if args.roll_heads:
        roll_heads(pipeline.transformer_2)
    experts = [Expert(part) for part in (pipeline.transformer, pipeline.transformer_2) if part is not None]
    experts = experts * 2 if len(experts) == 1 else experts
    if args.compare_experts:
        print_experts(pipeline, experts)
    values = measure_variants(pipeline, experts, args)
    print_table(values)
    if args.json:
        args.json.write_text(json.dumps({name: rows.tolist() for name, rows in values.items()}))


@torch.no_grad()
def roll_heads(transformer) -> None:
    """Puts each self-attention's heads in another order: the same function, with K/V that mean nothing to another expert.

    Fine-tuned experts may be more alike than others.
    """
    for attention in (block.attn1 for block in transformer.blocks):
        size = attention.to_q.weight.shape[0] // attention.heads
        for part in (attention.to_q, attention.to_k, attention.to_v, attention.norm_q, attention.norm_k):
            for parameter in part.parameters():
                parameter.copy_(parameter.roll(size, dims=0))
        attention.to_out[0].weight.copy_(attention.to_out[0].weight.roll(size, dims=1))


@torch.no_grad()
def measure_variants(pipeline, experts: list[Expert], args: argparse.Namespace) -> dict[str, np.ndarray]:
    """By variant the MEASURES of each video, (videos, MEASURES)."""
    values = {variant: [] for variant in args.variants}
    prompts = [scene.prompt for scene in demo.evaluation_scenes(args.prompts)]
    texts = [embed_prompts(pipeline.tokenizer, pipeline.text_encoder, group) for group in (prompts, [""] * len(prompts))]
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(args.steps)
    boundary = int((scheduler.timesteps >= 1000 * BOUNDARY_RATIO).sum())
    run = Run(experts, scheduler, args.steps, boundary, texts[: 2 if args.guidance > 1 else 1], args.guidance, args.stagger)
    print(f"timesteps {scheduler.timesteps.tolist()}, the second expert from step {boundary}", flush=True)
    for seed in range(args.seeds):
        noise = block_noise([1000 * seed + number for number in range(len(prompts))], args.frames)
        seams = [4 * sum(x.shape[2] for x in noise[:block]) - 3 for block in range(1, len(noise))]
        for variant in args.variants:
            start_s = time.time()
            videos = decoded(pipeline.vae, denoise(run, noise, variant), args.frames)
            rows = [measures_of(video, prompt, seams) for video, prompt in zip(videos, prompts)]
            values[variant] += [[float(row[name]) for name in MEASURES] for row in rows]
            print(f"seed {seed}, {variant}: {time.time() - start_s:.0f} s", flush=True)
    return {variant: np.array(rows) for variant, rows in values.items()}


if __name__ == "__main__":
    main()
