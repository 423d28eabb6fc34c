"""Trains the second demo model, `tiny-wan-2`, from the first: a WanPipeline checkpoint of the world in xdualparal/demo/world.py.

    python examples/train_tiny_wan_2.py --work-dir tiny-wan-2-training --output xdualparal/demo/tiny-wan-2

The stages of examples/train_tiny_wan.py, resumable and seeded in the same way, but each starts from tiny-wan's weights. The VAE
gets patches of 2 x 2 pixels before and after what it was, so that 64 x 64 pixels are 8 x 8 latents as 32 x 32 were; the text encoder
keeps the words that it knows. A step of the transformer then costs what tiny-wan's does. At last the VAE's decoder is trained on alone.

The one in the package (8 MB) took about 2.6 hours of 2 CPU cores: 1,500 steps of the VAE, 3,000 of its decoder alone, and 5,000 of the
transformer in three runs of the same command (--transformer-steps 3600, then 6000 up to step 3,960, then 5000; the rate follows the
number that is given). By a program that is gone: the VAE makes 28 dB, 24.3 dB on the objects, and all of 24 true clips are right when it has
decoded them. `xdit-dualparal quality --model tiny-wan-2 --prompts 16 --seeds 1 --num_frames 81 -- --num_inference_steps 25
--dualparal_strategy full`, and with 129 frames and DualParal (without the last flag): two objects in .89 and .81 of the frames, front colour .97, .97, back colour .96, .84, texture 1, 1, the right one in front .70,
.69, shapes .63 and .43, .50 and .40 (chance: .5), error of the fading .22, .24, of the pan .44, .50 px a frame
(of .5 or none), the prompt in all its parts .52, .34; no clip is right in all. So it can tell apart settings that lose or blur objects, make
them jump or show seams, and not those that would only change shapes, fading or pan.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import train_tiny_wan as first
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders import autoencoder_kl_wan
from train_tiny_wan import Progress, learning_rate, load_state, save_state, step_generator, take_step, update_average
from transformers import UMT5EncoderModel

from xdualparal.demo import world

TINY_WAN = Path(world.__file__).parent / "tiny-wan"
PATCH = 2
PROMPT_TOKENS = 18  # 17 words and the end
VAE_STEPS, VAE_RATE = 1500, 1e-3
VAE_BATCHES = ((24, 1), (8, 5), (6, 9), (3, 17), (2, 33))  # clips, frames


# ------------------------------------------------------------------------------------------------------------ the VAE


def new_vae() -> AutoencoderKLWan:
    """tiny-wan's VAE on patches of 2 x 2 pixels; at first it makes each clip as that one does at half the size."""
    old = AutoencoderKLWan.from_pretrained(TINY_WAN / "vae")
    config = {**old.config, "patch_size": PATCH, "scale_factor_spatial": old.config.scale_factor_spatial * PATCH}
    config |= {"in_channels": 3 * PATCH**2, "out_channels": 3 * PATCH**2}
    vae = AutoencoderKLWan.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    weights = old.state_dict()
    weights["encoder.conv_in.weight"] = weights["encoder.conv_in.weight"].repeat_interleave(PATCH**2, dim=1) / PATCH**2
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        weights[name] = weights[name].repeat_interleave(PATCH**2, dim=0)
    vae.load_state_dict(weights)
    return vae


def vae_batch(step: int, steps: int, scenes: list[world.Scene], device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips and coverage as `world.make_clips` returns them: single frames in the first tenth, then any length."""
    generator = step_generator("vae 2", step)
    pick = 0 if step < steps // 10 else 1 + int(torch.randint(len(VAE_BATCHES) - 1, (), generator=generator))
    clips, frames = VAE_BATCHES[pick]
    drawn, coverage = world.make_clips(world.random_scenes(clips, generator, scenes), frames, generator)
    return drawn.to(device), coverage.to(device)


def train_vae(work_dir: Path, device: str, steps: int) -> AutoencoderKLWan:
    """Runs or resumes up to ``steps``; the state is work_dir/vae.pt."""
    vae, done = new_vae().to(device).requires_grad_(True), 0
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    if state := load_state(work_dir / "vae.pt"):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    original_norm, autoencoder_kl_wan.WanRMS_norm.forward = autoencoder_kl_wan.WanRMS_norm.forward, first.fast_rms_norm
    progress, scenes = Progress("vae", steps), world.all_scenes()  # the held-out scenes are only kept from words
    for step in range(done, steps):
        torch.manual_seed(first.SEED + step)
        loss, losses = first.vae_loss(vae, *vae_batch(step, steps, scenes, device), step)
        take_step(optimizer, loss, learning_rate(step, steps, VAE_RATE, warmup=20, decay_share=0.5))
        progress.report(step, **losses)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            save_state(work_dir / "vae.pt", model=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    autoencoder_kl_wan.WanRMS_norm.forward = original_norm
    return vae.eval().requires_grad_(False)


DECODER_STEPS, DECODER_RATE = 3000, 6e-4


def decoder_loss(vae: AutoencoderKLWan, clips: torch.Tensor, coverage: torch.Tensor, step: int) -> tuple[torch.Tensor, dict]:
    """The VAE's loss on pixels, and eight times the MSE on objects: by the L1 alone a colour between two becomes the nearer one."""
    with torch.no_grad():
        latents, _ = first.noisy(vae.encode(clips).latent_dist.mean)
    with torch.autocast(clips.device.type, torch.bfloat16):
        error, weight = first.decoded_errors(vae, latents, clips, coverage, step)
    absolute, square = ((size * weight).sum() / (3 * weight.sum()) for size in (error.abs(), error.square()))
    losses = {"l1": error.abs().mean().item(), "object": absolute.item(), "object mse": square.item()}
    return error.abs().mean() + error.square().mean() + 2 * absolute + 8 * square, losses


def train_decoder(work_dir: Path, device: str, steps: int) -> None:
    """Goes on with the VAE's decoder alone, so that latents and what was trained on them stay as they are; the state is
    work_dir/decoder.pt. It can run beside the transformer's training."""
    vae, done = new_vae().to(device).requires_grad_(False), 0
    state = load_state(work_dir / "decoder.pt")
    vae.load_state_dict((state or load_state(work_dir / "vae.pt"))["model"])
    own = [*vae.decoder.requires_grad_(True).parameters(), *vae.post_quant_conv.requires_grad_(True).parameters()]
    optimizer = torch.optim.AdamW(own, lr=DECODER_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    if state:
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    original_norm, autoencoder_kl_wan.WanRMS_norm.forward = autoencoder_kl_wan.WanRMS_norm.forward, first.fast_rms_norm
    progress, scenes = Progress("decoder", steps), world.all_scenes()
    for step in range(done, steps):
        torch.manual_seed(first.SEED - 1 - step)
        loss, losses = decoder_loss(vae, *vae_batch(VAE_STEPS + step, VAE_STEPS, scenes, device), step)
        take_step(optimizer, loss, learning_rate(step, steps, DECODER_RATE, warmup=20, decay_share=0.5))
        progress.report(step, **losses)
        if (step + 1) % 25 == 0 or step + 1 == steps:
            save_state(work_dir / "decoder.pt", model=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    autoencoder_kl_wan.WanRMS_norm.forward = original_norm


# --------------------------------------------------------------------------------------------- the text and the latents


def new_text_encoder(tokenizer, device: str) -> UMT5EncoderModel:
    """tiny-wan's, with rows for this world's words; those that both worlds have keep theirs."""
    old = UMT5EncoderModel.from_pretrained(TINY_WAN / "text_encoder")
    known, words = first.new_tokenizer().get_vocab(), tokenizer.get_vocab()
    torch.manual_seed(first.SEED)
    encoder = first.new_text_encoder(len(words))
    weights, table = old.state_dict(), encoder.shared.weight.detach().clone()
    for word, row in words.items():
        if word in known:
            table[row] = old.shared.weight[known[word]]
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        weights[name] = table
    encoder.load_state_dict(weights)
    return encoder.to(device)


@torch.no_grad()
def make_latents(vae: AutoencoderKLWan, work_dir: Path, device: str, clips: int) -> dict:
    """Normalised float16 "latents" (clips, channels, 33, 8, 8), "prompts", "mean" and "std"; kept in a file."""
    def batch(index):
        generator = step_generator("clips 2", index)
        scenes = world.random_scenes(first.CLIPS_A_BATCH, generator, world.training_scenes())
        drawn, _ = world.make_clips(scenes, first.CLIP_FRAMES, generator)
        return vae.encode(drawn.to(device)).latent_dist.mode().cpu().half(), [scene.prompt for scene in scenes]

    return first.kept_latents(batch, work_dir, clips)


# ---------------------------------------------------------------------------------------------------- the transformer

CLIP_COUNT = 3008
TRANSFORMER_STEPS, TRANSFORMER_RATE = 5600, 1.2e-3
MINUTES_A_CHECKPOINT = 3


def new_transformer() -> WanTransformer3DModel:
    """tiny-wan's."""
    old = WanTransformer3DModel.from_pretrained(TINY_WAN / "transformer")
    transformer = WanTransformer3DModel.from_config({k: v for k, v in old.config.items() if not k.startswith("_")})  # no path of this machine
    transformer.load_state_dict(old.state_dict())
    return transformer


def new_denoiser(device: str) -> torch.nn.ModuleDict:
    """The two modules that are trained together, as they begin."""
    parts = {
        "text_encoder": new_text_encoder(first.new_tokenizer(world.vocabulary()), device),
        "transformer": new_transformer().to(device),
    }
    parts["transformer"].set_attn_processor(first.FoldedPaddingProcessor(PROMPT_TOKENS))
    return torch.nn.ModuleDict(parts).requires_grad_(True)


def train_transformer(data: dict, work_dir: Path, device: str, steps: int) -> None:
    """Runs or resumes up to ``steps``; the state is work_dir/transformer.pt."""
    model, average, optimizer, done = first.resumed(new_denoiser, TRANSFORMER_RATE, work_dir, device)
    tokenizer, progress = first.new_tokenizer(world.vocabulary()), Progress("transformer", steps)
    saved = time.time()
    for step in range(done, steps):
        windows, prompts, generator = first.window_batch(data, step)
        embeds = first.embed_prompts(tokenizer, model["text_encoder"], prompts, PROMPT_TOKENS)
        sigma = first.noise_levels(step, generator)
        loss = first.flow_loss(model["transformer"], embeds, windows.to(device), sigma, generator)
        take_step(optimizer, loss, learning_rate(step, steps, TRANSFORMER_RATE))
        update_average(average, model, step)
        progress.report(step, flow=loss.item())
        if step + 1 == steps or time.time() - saved > 60 * MINUTES_A_CHECKPOINT:
            first.save_denoiser(work_dir, step + 1, model, average, optimizer)
            saved = time.time()


# --------------------------------------------------------------------------------------------------------- the export


def export_trained(work_dir: Path, output: Path) -> None:
    """Puts the averaged weights, the VAE with its latents' statistics and the scheduler together in `output`.

    The transformer is stored in float16: both models together have to stay below 24 MB.
    """
    parts = first.trained_parts(work_dir, new_denoiser("cpu"), new_vae())
    if state := load_state(work_dir / "decoder.pt"):
        parts["vae"].load_state_dict(state["model"])
    parts["transformer"].half()
    tokenizer = first.new_tokenizer(world.vocabulary())
    first.export(WanPipeline(tokenizer=tokenizer, scheduler=first.new_scheduler(), **parts), output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where training states are kept")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint directory to write")
    parser.add_argument("--vae-steps", type=int, default=VAE_STEPS)
    parser.add_argument("--clips", type=int, default=CLIP_COUNT, help="encoded for the transformer, a multiple of 16")
    parser.add_argument("--transformer-steps", type=int, default=TRANSFORMER_STEPS)
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS)
    parser.add_argument("--only-decoder", action="store_true", help="no other stage, which may run meanwhile; write no checkpoint")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only-export", action="store_true", help="write the checkpoint from the states as they are")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.only_decoder:
        train_decoder(args.work_dir, device, args.decoder_steps)
        return
    if not args.only_export:
        vae = train_vae(args.work_dir, device, args.vae_steps)
        data = make_latents(vae, args.work_dir, device, args.clips)
        train_transformer(data, args.work_dir, device, args.transformer_steps)
        train_decoder(args.work_dir, device, args.decoder_steps)
    export_trained(args.work_dir, args.output)


if __name__ == "__main__":
    main()
