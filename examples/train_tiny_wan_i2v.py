"""Trains the demo model `tiny-wan-i2v`, an image-to-video model in the form of Wan2.2-I2V, from `tiny-wan`.

    python examples/train_tiny_wan_i2v.py --work-dir tiny-wan-i2v-training --output xdualparal/demo/tiny-wan-i2v

The transformer gets twelve more input channels, as WanImageToVideoPipeline.prepare_latents fills them: a mask, and the
encoded video of the image and zeros. Their weights begin at 0, so that it begins as tiny-wan; VAE and text encoder stay
tiny-wan's. Resumable and seeded as examples/train_tiny_wan.py.

Half of the windows start where the clip does; the others show what later blocks of a long video get: mask 0, and the
condition of their own positions, which is the same for all images once the VAE's encoder has forgotten the frame.

The one in the package (7.9 MB) has 1,150 steps in four runs of the same command (--steps 1600 up to step 602, then 1000, 1250 up to
1,102, 1150; the rate follows the number that is given). Its steps took 1 to 5 s on two busy cores without bfloat16.
`python -m xdualparal.demo.image_quality` (50 prompts, 81 frames, 25 steps, guidance 1.5): all right 42 of 50, looks 49, place 47 (mean
error 0.7 px), motion 44; speed 0.59 px a frame. What fails are jumps: 3 in the first frames or off their place, 6 beyond 2 px anywhere.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import train_tiny_wan as first
from diffusers import AutoencoderKLWan, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders import autoencoder_kl_wan
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from train_tiny_wan import Progress, learning_rate, load_state, save_state, step_generator, take_step, update_average

from xdualparal.demo import scenes

TINY_WAN = Path(scenes.__file__).parent / "tiny-wan"
MASK_CHANNELS = 4  # the VAE's scale in time: one for each frame of a latent frame

# --------------------------------------------------------------------------------------------- latents and conditions

CLIP_COUNT = 1024
FORGETTING_FRAMES = 81  # the encoder's memory: later latents of an image and zeros are bit for bit those of latent 20


def encoded(vae: AutoencoderKLWan, clips: torch.Tensor) -> torch.Tensor:
    """Normalised latents (batch, 8, frames, 8, 8), as the pipeline makes them of an image and zeros."""
    mean, std = (torch.tensor(v, device=clips.device)[:, None, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
    return (vae.encode(clips).latent_dist.mode() - mean) / std


def condition_latents(vae: AutoencoderKLWan, images: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Normalised latents (batch, 8, latent frames, 8, 8) of images (batch, 3, 1, 32, 32) and zeros after them."""
    zeros = images.new_zeros(*images.shape[:2], min(num_frames, FORGETTING_FRAMES) - 1, *images.shape[3:])
    latents = encoded(vae, torch.cat([images, zeros], dim=2))
    missing = (num_frames - 1) // MASK_CHANNELS + 1 - latents.shape[2]
    return torch.cat([latents, latents[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)


def clips_batch(vae: AutoencoderKLWan, index: int, device: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Latents, condition latents and prompts of first.CLIPS_A_BATCH clips."""
    generator = step_generator("clips i2v", index)
    drawn = scenes.random_scenes(first.CLIPS_A_BATCH, generator)
    clips, _ = scenes.make_clips(drawn, first.CLIP_FRAMES, generator)
    clips = clips.to(device)
    both = encoded(vae, clips), condition_latents(vae, clips[:, :, :1], first.CLIP_FRAMES)
    return *(latents.half().cpu() for latents in both), [scene.prompt for scene in drawn]


@torch.no_grad()
def make_latents(vae: AutoencoderKLWan, work_dir: Path, device: str, clips: int) -> dict:
    """Float16 "latents" and "conditions", both (clips, 8, 33, 8, 8), and "prompts"; kept in a file."""
    path = work_dir / "latents.pt"
    if done := load_state(path):
        return done
    original_norm, autoencoder_kl_wan.WanRMS_norm.forward = autoencoder_kl_wan.WanRMS_norm.forward, first.fast_rms_norm
    progress, parts = Progress("latents", clips // first.CLIPS_A_BATCH, every=8), []
    for index in range(clips // first.CLIPS_A_BATCH):
        parts.append(clips_batch(vae, index, device))
        progress.report(index)
    autoencoder_kl_wan.WanRMS_norm.forward = original_norm
    latents, conditions, prompts = zip(*parts)
    save_state(path, latents=torch.cat(latents), conditions=torch.cat(conditions), prompts=sum(prompts, []))
    return load_state(path)


# ---------------------------------------------------------------------------------------------------- the transformer

STEPS, PEAK_RATE = 1600, 1.2e-3  # place errors were still falling at 1,150
SHORT_STEPS = 500  # of short windows: they teach where the object begins as well, for half the price
MINUTES_A_CHECKPOINT = 3


def new_like(module, **changes):
    """A module of the same class and config, but for ``changes`` and for the path that it was loaded from; its weights are random."""
    config = {name: value for name, value in module.config.items() if not name.startswith("_")}
    return type(module).from_config({**config, **changes})


def new_transformer(device: str) -> WanTransformer3DModel:
    """tiny-wan's, with weights of 0 for the mask and the condition."""
    old = WanTransformer3DModel.from_pretrained(TINY_WAN / "transformer")
    transformer = new_like(old, in_channels=MASK_CHANNELS + 2 * old.config.in_channels)
    weights = old.state_dict()
    patches = torch.zeros_like(transformer.patch_embedding.weight)
    patches[:, : old.config.in_channels] = weights["patch_embedding.weight"]
    transformer.load_state_dict({**weights, "patch_embedding.weight": patches})
    transformer.set_attn_processor(first.FoldedPaddingProcessor())
    return transformer.to(device)


def masked(conditions: torch.Tensor) -> torch.Tensor:
    """Puts the mask before condition latents (8, frames, 8, 8) that start where a clip does: (12, frames, 8, 8)."""
    mask = conditions.new_zeros(MASK_CHANNELS, *conditions.shape[1:])
    mask[:, 0] = 1
    return torch.cat([mask, conditions])


def window_batch(data: dict, step: int) -> tuple[torch.Tensor, torch.Tensor, list[str], torch.Generator]:
    """Windows (batch, 8, frames, 8, 8) and their conditions (batch, 12, frames, 8, 8), prompts, some dropped, and a generator."""
    generator = step_generator("windows i2v", step)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    lengths = first.SHORT_WINDOWS if step < SHORT_STEPS else first.LONG_WINDOWS
    length = lengths[draw(len(lengths))]
    windows, conditions, prompts = [], [], []
    for i in range(first.WINDOWS_A_STEP):
        clip, start = draw(len(data["latents"])), draw(data["latents"].shape[2] - length) + 1
        frames = slice(0, length) if i % 2 else slice(start, start + length)
        windows.append(data["latents"][clip, :, frames])
        conditions.append(masked(data["conditions"][clip])[:, frames])
        dropped = torch.rand((), generator=generator) < first.CONDITION_DROPOUT
        prompts.append("" if dropped else data["prompts"][clip])
    return torch.stack(windows).float(), torch.stack(conditions).float(), prompts, generator


def conditioned(transformer: WanTransformer3DModel, conditions: torch.Tensor):
    """The transformer as `flow_loss` calls it: with latents alone."""

    def predict(latents, *inputs, **options):
        return transformer(torch.cat([latents, conditions], dim=1), *inputs, **options)

    return predict


def train_transformer(data: dict, text_encoder, work_dir: Path, device: str, steps: int) -> None:
    """Runs or resumes up to ``steps``; the state is work_dir/transformer.pt. The rate follows ``steps``."""
    model, average, optimizer, done = first.resumed(new_transformer, PEAK_RATE, work_dir, device)
    tokenizer, progress, saved = first.new_tokenizer(), Progress("transformer", steps, every=25), time.time()
    for step in range(done, steps):
        windows, conditions, prompts, generator = window_batch(data, step)
        embeds = first.embed_prompts(tokenizer, text_encoder, prompts)
        sigma = (first.LATE_NOISE_LOGIT[0] + first.LATE_NOISE_LOGIT[1] * torch.randn(len(windows), generator=generator)).sigmoid()
        loss = first.flow_loss(conditioned(model, conditions.to(device)), embeds, windows.to(device), sigma, generator)
        take_step(optimizer, loss, learning_rate(step, steps, PEAK_RATE, warmup=50))
        update_average(average, model, step)
        progress.report(step, flow=loss.item())
        if step + 1 == steps or time.time() - saved > 60 * MINUTES_A_CHECKPOINT:
            first.save_denoiser(work_dir, step + 1, model, average, optimizer)
            saved = time.time()


# --------------------------------------------------------------------------------------------------------- the export


def export_trained(work_dir: Path, output: Path) -> None:
    """Writes tiny-wan with the averaged weights in the place of its transformer's, in float16 as the text encoder's."""
    kept = WanPipeline.from_pretrained(TINY_WAN, transformer=None, local_files_only=True)
    transformer, vae = new_transformer("cpu"), new_like(kept.vae)
    transformer.load_state_dict(load_state(work_dir / "transformer.pt")["average"])
    transformer.set_attn_processor(WanAttnProcessor())
    vae.load_state_dict(kept.vae.state_dict())
    parts = {"transformer": transformer.half().eval(), "text_encoder": kept.text_encoder.half().eval(), "vae": vae.eval()}
    first.export(WanImageToVideoPipeline(tokenizer=first.new_tokenizer(), scheduler=first.new_scheduler(), **parts), output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where training states are kept")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint directory to write")
    parser.add_argument("--clips", type=int, default=CLIP_COUNT, help="encoded for the transformer, a multiple of 16")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only-export", action="store_true", help="write the checkpoint from the state as it is")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not args.only_export:
        kept = WanPipeline.from_pretrained(TINY_WAN, transformer=None, local_files_only=True).to(device)
        data = make_latents(kept.vae, args.work_dir, device, args.clips)
        train_transformer(data, kept.text_encoder.requires_grad_(False), args.work_dir, device, args.steps)
    export_trained(args.work_dir, args.output)


if __name__ == "__main__":
    main()
