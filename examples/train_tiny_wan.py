"""Trains the demo model `tiny-wan` from nothing: a whole WanPipeline checkpoint of moving circles and squares.

    python examples/train_tiny_wan.py --work-dir tiny-wan-training --output xdualparal/demo/tiny-wan

Three stages, each resumable (run the same command again) and seeded: every step draws its data from a generator
seeded with the step's own number, so an interrupted run sees what an uninterrupted one would have seen.
A GPU is used where there is one; on 2 CPU cores it takes about an hour and a half: the VAE 40 minutes, its latents 2,
the transformer 45. Colour, shape and background follow the prompt after 2,750 of its steps; the motion was still
becoming steadier at the end.

The shipped checkpoint has these step counts, but this plan was found on the way: its VAE began with a latent noise of
0.1, objects of 12 pixels and no weight on the rim, and its transformer saw 1,200 clips and the lower noise levels
(0.4, 1.2) from step 1500 to 3000.

    python examples/train_tiny_wan.py --experts xdualparal/demo/tiny-wan --work-dir two-experts-training --output two-experts

makes a checkpoint with two experts, as Wan2.2-T2V-A14B has, of one with one: each is fine-tuned on its own noise levels.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders import autoencoder_kl_wan
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from xdualparal.demo import scenes as demo

logger = logging.getLogger("train_tiny_wan")
LATENT_CHANNELS = 8
SEED = 20252107


# ---------------------------------------------------------------------------------------------- what all stages use


def step_generator(stage: str, step: int) -> torch.Generator:
    """The random numbers of one step, whatever ran before it."""
    offset = sum(stage.encode()) * 1_000_003
    return torch.Generator().manual_seed(SEED + offset + step)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100, decay_share: float = 0.4) -> float:
    """Linear warm-up, a plateau, and a cosine fall to 2 % over the last `decay_share` of the steps."""
    decay_start = steps * (1 - decay_share)
    if step < decay_start:
        return peak * min(1.0, (step + 1) / warmup)
    done = (step - decay_start) / (steps - decay_start)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def save_state(path: Path, **state) -> None:
    """Written aside and moved, so that an interruption leaves the previous state whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    torch.save(state, aside)
    aside.replace(path)


def load_state(path: Path) -> dict | None:
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


class Progress:
    """Logs the mean of each reported loss every `every` steps."""

    def __init__(self, stage: str, steps: int, every: int = 50):
        self.stage, self.steps, self.every = stage, steps, every
        self.sums, self.count, self.start_s = {}, 0, time.time()

    def report(self, step: int, **losses: float) -> None:
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        if (step + 1) % self.every == 0:
            means = "  ".join(f"{name} {total / self.count:.4f}" for name, total in self.sums.items())
            seconds = (time.time() - self.start_s) / self.count
            logger.info("%s %d/%d  %s  %.2f s/step", self.stage, step + 1, self.steps, means, seconds)
            self.sums, self.count, self.start_s = {}, 0, time.time()


# ------------------------------------------------------------------------------------------------------------ the VAE


@dataclass(frozen=True)
class VaePhase:
    """`steps` steps at a learning `rate`; a clip's length is drawn from `frames`, and `batch` has its batch size."""

    steps: int
    rate: float
    batch: tuple[int, ...]
    frames: tuple[int, ...]


# Single frames teach colour and shape in a minute, short clips motion; the long ones are needed because the causal
# VAE looks back further than a short clip: trained on 17 frames only, it loses the object's colour after them.
VAE_PHASES = (
    VaePhase(steps=600, rate=1.5e-3, batch=(24,), frames=(1,)),
    VaePhase(steps=1200, rate=1.5e-3, batch=(12, 8, 6), frames=(5, 9, 17)),
    VaePhase(steps=1850, rate=6e-4, batch=(6, 4, 3, 3, 2, 2), frames=(17, 17, 33, 33, 49, 65)),
    VaePhase(steps=1400, rate=6e-4, batch=(10, 6, 6, 3, 2), frames=(9, 17, 17, 33, 49)),
)
LATENT_NOISE = 0.03  # in units of the latents' own deviation: the decoder must forgive what a transformer gets wrong


def new_vae() -> AutoencoderKLWan:
    """Wan's VAE, 0.64 M parameters: 4x in time, 4x in space, 8 channels."""
    return AutoencoderKLWan(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    )


def fast_rms_norm(self, x: torch.Tensor) -> torch.Tensor:
    """Wan's norm without `vector_norm`, which takes a quarter of a CPU step over a strided dimension."""
    inverse = (x.square().sum(1 if self.channel_first else -1, keepdim=True) + 1e-12).rsqrt()
    return x * inverse * self.scale * self.gamma + self.bias


def vae_phase(step: int) -> VaePhase:
    for phase in VAE_PHASES:
        if step < phase.steps:
            return phase
        step -= phase.steps
    raise AssertionError("step beyond the plan")


def vae_batch(step: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips and object coverage as `demo.make_clips` returns them; the held-out scenes are only kept from words."""
    generator, phase = step_generator("vae", step), vae_phase(step)
    pick = int(torch.randint(len(phase.frames), (1,), generator=generator))
    scenes = demo.random_scenes(phase.batch[pick], generator, demo.all_scenes())
    clips, coverage = demo.make_clips(scenes, phase.frames[pick], generator)
    return clips.to(device), coverage.to(device)


def random_cut(step: int, num_latents: int) -> int:
    """The latent frame that decoding starts from: two times in three 0, else any.

    The encoder makes latent 0 from one frame and the others from four. A window of a long video starts with one of
    the others, and a transformer that learned such windows may start any video with one: the decoder must cope.
    """
    generator = step_generator("cut", step)
    if num_latents < 3 or torch.rand((), generator=generator) < 2 / 3:
        return 0
    return int(torch.randint(1, num_latents - 1, (), generator=generator))


def object_weight(coverage: torch.Tensor) -> torch.Tensor:
    """1 on the object, 2 on its rim, which alone tells a circle from a square of the same area; 0 elsewhere."""
    grown = F.max_pool3d(coverage, (1, 3, 3), stride=1, padding=(0, 1, 1))
    shrunk = -F.max_pool3d(-coverage, (1, 3, 3), stride=1, padding=(0, 1, 1))
    return grown + (grown - shrunk)


def noisy(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents with LATENT_NOISE, and the noise's deviation a channel."""
    deviation = LATENT_NOISE * (latents.detach().std(dim=(0, 2, 3, 4), keepdim=True) + 1e-3)
    return latents + deviation * torch.randn_like(latents), deviation


def decoded_errors(vae, latents: torch.Tensor, clips: torch.Tensor, coverage: torch.Tensor, step: int) -> tuple:
    """What is decoded of `latents` minus the clips, from a random latent frame on, and the weight of each pixel there as an object's."""
    cut = random_cut(step, latents.shape[2])  # latent k > 0 holds frames 4k-3..4k; its last one is decoded alone
    return vae.decode(latents[:, :, cut:]).sample - clips[:, :, 4 * cut :], object_weight(coverage[:, :, 4 * cut :])


def vae_loss(vae, clips: torch.Tensor, coverage: torch.Tensor, step: int) -> tuple[torch.Tensor, dict]:
    """L1 + MSE + twice the L1 on the object and its rim, through the VAE's own encode and decode."""
    posterior = vae.encode(clips).latent_dist
    latents, noise = noisy(posterior.mean)
    error, weight = decoded_errors(vae, latents, clips, coverage, step)
    on_object = (error.abs() * weight).sum() / (3 * weight.sum())
    pixels = error.abs().mean() + error.square().mean() + 2 * on_object
    # The posterior should report the noise it was trained with; the mean stays near unit size by a weak pull.
    honest = (posterior.logvar - 2 * noise.log()).square().mean()
    size = posterior.mean.square().mean()
    losses = {"l1": error.abs().mean().item(), "object": on_object.item(), "mse": error.square().mean().item()}
    return pixels + 1e-3 * honest + 1e-4 * size, losses


def train_vae(work_dir: Path, device: str) -> AutoencoderKLWan:
    """Runs or resumes VAE_PHASES; the state is work_dir/vae.pt."""
    torch.manual_seed(SEED)
    vae = new_vae().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_PHASES[0].rate, betas=(0.9, 0.98), weight_decay=1e-4)
    steps, first = sum(phase.steps for phase in VAE_PHASES), 0
    if state := load_state(work_dir / "vae.pt"):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    original_norm = autoencoder_kl_wan.WanRMS_norm.forward
    autoencoder_kl_wan.WanRMS_norm.forward = fast_rms_norm
    progress = Progress("vae", steps)
    for step in range(first, steps):
        torch.manual_seed(SEED + step)
        loss, losses = vae_loss(vae, *vae_batch(step, device), step)
        take_step(optimizer, loss, learning_rate(step, steps, vae_phase(step).rate, decay_share=0.2))
        progress.report(step, **losses)
        if (step + 1) % 50 == 0 or step + 1 == steps:
            save_state(work_dir / "vae.pt", model=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1)
    autoencoder_kl_wan.WanRMS_norm.forward = original_norm
    return vae.eval().requires_grad_(False)


def take_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One clipped optimizer step; a group's `scale` multiplies the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


# ----------------------------------------------------------------------------------------------------------- the text

PROMPT_TOKENS = 8  # seven words and the end
PIPELINE_TOKENS = 512  # WanPipeline fills up to this with zeros, and nothing masks them


def new_tokenizer(vocabulary: list[str] | None = None) -> PreTrainedTokenizerFast:
    """One token per word of `vocabulary`, by default all that a prompt can have; case and punctuation do not matter."""
    words = ["<pad>", "</s>", "<unk>", *(demo.vocabulary() if vocabulary is None else vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z ]"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def new_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """A two-layer UMT5 encoder, 64 wide, trained together with the transformer."""
    config = UMT5Config(
        vocab_size=vocabulary_size, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, dropout_rate=0.0,
        is_encoder_decoder=False, use_cache=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )
    return UMT5EncoderModel(config)


def embed_prompts(tokenizer, text_encoder: UMT5EncoderModel, prompts: list[str], length: int = PROMPT_TOKENS) -> torch.Tensor:
    """(batch, length + 1, 64): what WanPipeline makes, its last rows, all zeros, folded into one."""
    tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    tokens = tokens.to(text_encoder.device)
    embeds = text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    return F.pad(embeds * tokens.attention_mask[..., None], (0, 0, 0, 1))


class FoldedPaddingProcessor(WanAttnProcessor):
    """Cross-attention to one zero token that counts for the 504 equal ones: n equal logits are one plus log n."""

    def __init__(self, prompt_tokens: int = PROMPT_TOKENS):
        super().__init__()
        self._prompt_tokens = prompt_tokens

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        if encoder_hidden_states is not None:
            attention_mask = hidden_states.new_zeros(1, 1, 1, self._prompt_tokens + 1)
            attention_mask[..., -1] = math.log(PIPELINE_TOKENS - self._prompt_tokens)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


# -------------------------------------------------------------------------------------------------------- the latents

CLIP_COUNT, CLIP_FRAMES = 3008, 129  # long clips: most windows of a long video do not start where the video does
CLIPS_A_BATCH = 16


def latents_batch(vae: AutoencoderKLWan, index: int, device: str) -> tuple[torch.Tensor, list[str]]:
    """CLIPS_A_BATCH encoded clips (batch, channels, 33, 8, 8) as float16, not normalised yet, and their prompts."""
    generator = step_generator("clips", index)
    scenes = demo.random_scenes(CLIPS_A_BATCH, generator)
    clips, _ = demo.make_clips(scenes, CLIP_FRAMES, generator)
    return vae.encode(clips.to(device)).latent_dist.mode().cpu().half(), [scene.prompt for scene in scenes]


@torch.no_grad()
def make_latents(vae: AutoencoderKLWan, work_dir: Path, device: str, clips: int = CLIP_COUNT) -> dict:
    """Normalised float16 "latents" (clips, channels, 33, 8, 8), "prompts", "mean" and "std"; kept in a file."""
    return kept_latents(lambda index: latents_batch(vae, index, device), work_dir, clips)


def kept_latents(batch, work_dir: Path, clips: int) -> dict:
    """What make_latents returns, of `batch(index)`, CLIPS_A_BATCH clips' latents and prompts as from latents_batch."""
    path = work_dir / "latents.pt"
    if done := load_state(path):
        return done
    progress, parts, prompts = Progress("latents", clips // CLIPS_A_BATCH, every=16), [], []
    for index in range(clips // CLIPS_A_BATCH):
        latents, texts = batch(index)
        parts.append(latents)
        prompts += texts
        progress.report(index)
    latents = torch.cat(parts).float()
    mean, std = latents.mean(dim=(0, 2, 3, 4)), latents.std(dim=(0, 2, 3, 4))
    normalised = (latents - mean[:, None, None, None]) / std[:, None, None, None]
    save_state(path, latents=normalised.half(), prompts=prompts, mean=mean.tolist(), std=std.tolist())
    return load_state(path)


# ---------------------------------------------------------------------------------------------------- the transformer

TRANSFORMER_STEPS = 5600
TRANSFORMER_PEAK_RATE = 1.5e-3
WINDOWS_A_STEP = 16
# At most 21 latent frames, so that a long video is a real extrapolation. Short windows first: they cost a third and
# teach the pictures and the words just as well.
SHORT_WINDOWS, LONG_WINDOWS = (5, 8, 8, 12), (8, 12, 12, 16, 21, 21)
SHORT_STEPS = 1500
FROM_THE_START = 0.5  # share of windows whose first latent frame is a clip's first
CONDITION_DROPOUT = 0.1
# Latent frames repeat each other, so that what is drawn where is decided at high noise: that comes first. Edges, and
# with them the shape, are decided later, at lower noise. Middle and spread of the logit-normal noise levels.
EARLY_NOISE_LOGIT, LATE_NOISE_LOGIT = (0.85, 1.2), (1.2, 1.3)
EMA_DECAY = 0.999


def new_transformer() -> WanTransformer3DModel:
    """Eight layers, 144 wide, four heads; 32 values a patch. 2.5 M parameters."""
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=36,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=64,
        freq_dim=128,
        ffn_dim=432,
        num_layers=8,
    )
    # The logit of a normalised q and k is at most weight_q * weight_k * sqrt(head_dim); with unit weights that is 6,
    # and 504 padding tokens (log 504 = 6.2) drown the eight words.
    for block in transformer.blocks:
        torch.nn.init.constant_(block.attn2.norm_q.weight, 2.0)
        torch.nn.init.constant_(block.attn2.norm_k.weight, 2.0)
    return transformer


def window_batch(data: dict, step: int) -> tuple[torch.Tensor, list[str], torch.Generator]:
    """Windows (WINDOWS_A_STEP, channels, frames, 8, 8) float32, their prompts, some dropped, and a generator."""
    generator = step_generator("windows", step)

    def draw(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    lengths = SHORT_WINDOWS if step < SHORT_STEPS else LONG_WINDOWS
    length = lengths[draw(len(lengths))]
    windows, prompts = [], []
    for _ in range(WINDOWS_A_STEP):
        clip, start = draw(len(data["latents"])), draw(data["latents"].shape[2] - length + 1)
        if torch.rand((), generator=generator) < FROM_THE_START:
            start = 0
        windows.append(data["latents"][clip, :, start : start + length])
        dropped = torch.rand((), generator=generator) < CONDITION_DROPOUT
        prompts.append("" if dropped else data["prompts"][clip])
    return torch.stack(windows).float(), prompts, generator


def noise_levels(step: int, generator: torch.Generator) -> torch.Tensor:
    """(WINDOWS_A_STEP,) logit-normal, in 0..1."""
    mean, std = EARLY_NOISE_LOGIT if step < SHORT_STEPS else LATE_NOISE_LOGIT
    return (mean + std * torch.randn(WINDOWS_A_STEP, generator=generator)).sigmoid()


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there: by a fifth on a CPU that has it; on one that has not, a step takes six times as long."""
    return device.type != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16", False)


def flow_loss(transformer, embeds: torch.Tensor, windows: torch.Tensor, sigma, generator) -> torch.Tensor:
    """Mean squared error of the predicted velocity, noise minus data, at the noise levels sigma (batch,)."""
    sigma = sigma.to(windows.device)
    noise = torch.randn(windows.shape, generator=generator).to(windows.device)
    mixed = windows + sigma[:, None, None, None, None] * (noise - windows)
    with torch.autocast(windows.device.type, torch.bfloat16, enabled=has_bfloat16(windows.device)):
        velocity = transformer(mixed, sigma * 1000, embeds, return_dict=False)[0]
    return (velocity.float() - (noise - windows)).square().mean()


def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Exponential moving average of the weights, with a shorter memory in the beginning."""
    decay = min(EMA_DECAY, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def new_denoiser(device: str) -> torch.nn.ModuleDict:
    """The two modules that are trained together."""
    torch.manual_seed(SEED)
    parts = {"text_encoder": new_text_encoder(len(new_tokenizer())), "transformer": new_transformer()}
    parts["transformer"].set_attn_processor(FoldedPaddingProcessor())
    return torch.nn.ModuleDict(parts).to(device)


def resumed(new_denoiser, rate: float, work_dir: Path, device: str) -> tuple:
    """Model, its average, optimizer and the first step to run; the state is work_dir/transformer.pt."""
    model, average = new_denoiser(device), new_denoiser(device).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    state = load_state(work_dir / "transformer.pt")
    if state is None:
        return model, average, optimizer, 0
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return model, average, optimizer, state["step"]


def save_denoiser(work_dir: Path, step: int, model, average, optimizer) -> None:
    """Writes the state that `resumed` reads."""
    states = dict(model=model.state_dict(), average=average.state_dict(), optimizer=optimizer.state_dict())
    save_state(work_dir / "transformer.pt", step=step, **states)


def train_transformer(data: dict, work_dir: Path, device: str, steps: int) -> None:
    """Runs or resumes up to `steps`; the state is work_dir/transformer.pt."""
    model, average, optimizer, first = resumed(new_denoiser, TRANSFORMER_PEAK_RATE, work_dir, device)
    tokenizer, progress = new_tokenizer(), Progress("transformer", steps)
    for step in range(first, steps):
        windows, prompts, generator = window_batch(data, step)
        embeds = embed_prompts(tokenizer, model["text_encoder"], prompts)
        sigma = noise_levels(step, generator)
        loss = flow_loss(model["transformer"], embeds, windows.to(device), sigma, generator)
        take_step(optimizer, loss, learning_rate(step, steps, TRANSFORMER_PEAK_RATE))
        update_average(average, model, step)
        progress.report(step, flow=loss.item())
        if (step + 1) % 250 == 0 or step + 1 == steps:
            save_denoiser(work_dir, step + 1, model, average, optimizer)


# --------------------------------------------------------------------------------------------------------- the export

FLOW_SHIFT = 6.0  # most steps at high noise, where the path of the object is decided


def new_scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT, num_train_timesteps=1000
    )


def trained_parts(work_dir: Path, trained: torch.nn.ModuleDict, vae: AutoencoderKLWan) -> dict:
    """Gives the modules of `new_denoiser` the averaged weights, and the VAE its own and its latents' statistics: parts of a pipeline."""
    trained.load_state_dict(load_state(work_dir / "transformer.pt")["average"])
    trained["transformer"].set_attn_processor(WanAttnProcessor())
    data = load_state(work_dir / "latents.pt")
    vae.load_state_dict(load_state(work_dir / "vae.pt")["model"])
    vae.register_to_config(latents_mean=data["mean"], latents_std=data["std"])
    return {"text_encoder": trained["text_encoder"].eval(), "transformer": trained["transformer"].eval(), "vae": vae.eval()}


def export_trained(work_dir: Path, output: Path) -> None:
    """Puts the averaged weights, the VAE with its latents' statistics and the scheduler together in `output`."""
    parts = trained_parts(work_dir, new_denoiser("cpu"), new_vae())
    export(WanPipeline(tokenizer=new_tokenizer(), scheduler=new_scheduler(), **parts), output)


def export(pipeline: WanPipeline, output: Path) -> None:
    """Writes the checkpoint aside and moves it to `output`."""
    aside = output.with_name(output.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside)
    # transformers 5 writes its own new name for this class; both 4 and 5 know the old one.
    for path in (aside / "model_index.json", aside / "tokenizer" / "tokenizer_config.json"):
        path.write_text(path.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    replace_directory(aside, output)


def replace_directory(aside: Path, output: Path) -> None:
    """Two renames: a reader finds the old checkpoint or the new one."""
    old = output.with_name(output.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    aside.rename(output)
    shutil.rmtree(old, ignore_errors=True)


# -------------------------------------------------------------------------------------------------------- two experts

BOUNDARY_RATIO = 0.875  # as Wan2.2-T2V-A14B's: the high-noise expert has the noise levels from here to 1, the other one the rest
EXPERT_STEPS = 200
EXPERT_PEAK_RATE = 1e-3
EXPERT_CLIPS = 1024
EXPERTS = ("transformer", "transformer_2")  # high noise, low noise: diffusers' names


def expert_noise_levels(expert: str, generator: torch.Generator) -> torch.Tensor:
    """(WINDOWS_A_STEP,) noise levels of the expert's own range, as dense as a run with FLOW_SHIFT has its steps there."""
    unshifted = BOUNDARY_RATIO / (FLOW_SHIFT - (FLOW_SHIFT - 1) * BOUNDARY_RATIO)
    first, last = (unshifted, 1.0) if expert == EXPERTS[0] else (0.0, unshifted)
    even = first + (last - first) * torch.rand(WINDOWS_A_STEP, generator=generator)
    return FLOW_SHIFT * even / (1 + (FLOW_SHIFT - 1) * even)


def train_expert(expert: str, checkpoint: Path, data: dict, work_dir: Path, device: str, steps: int) -> WanTransformer3DModel:
    """The checkpoint's transformer, fine-tuned for `steps` on one expert's noise levels; resumable, see train_transformer.

    The text encoder stays as it is: the experts share it.
    """
    text_encoder = UMT5EncoderModel.from_pretrained(checkpoint / "text_encoder").to(device).requires_grad_(False)
    model, average = (WanTransformer3DModel.from_pretrained(checkpoint / "transformer").to(device) for _ in range(2))
    model.set_attn_processor(FoldedPaddingProcessor())
    average.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=EXPERT_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    first, path = 0, work_dir / f"{expert}.pt"
    if state := load_state(path):
        for part, name in ((model, "model"), (average, "average"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        first = state["step"]
    tokenizer, progress = new_tokenizer(), Progress(expert, steps, every=20)
    for step in range(first, steps):
        windows, prompts, generator = window_batch(data, SHORT_STEPS + step)  # where the long windows begin
        embeds = embed_prompts(tokenizer, text_encoder, prompts)
        loss = flow_loss(model, embeds, windows.to(device), expert_noise_levels(expert, generator), generator)
        take_step(optimizer, loss, learning_rate(step, steps, EXPERT_PEAK_RATE, warmup=20))
        update_average(average, model, step)
        progress.report(step, flow=loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            states = dict(model=model.state_dict(), average=average.state_dict(), optimizer=optimizer.state_dict())
            save_state(path, step=step + 1, **states)
    return average.eval()


def train_experts(checkpoint: Path, work_dir: Path, output: Path, device: str, steps: int) -> None:
    """Writes `checkpoint` with two fine-tuned experts in the place of its transformer to `output`."""
    parts = dict(WanPipeline.from_pretrained(checkpoint, local_files_only=True).components)
    data = make_latents(parts["vae"].to(device), work_dir, device, EXPERT_CLIPS)
    for expert in EXPERTS:
        parts[expert] = train_expert(expert, checkpoint, data, work_dir, device, steps).cpu()
    export(WanPipeline(**{**parts, "vae": parts["vae"].cpu()}, boundary_ratio=BOUNDARY_RATIO), output)


# ----------------------------------------------------------------------------------------------------------- commands


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where training states are kept")
    parser.add_argument("--output", type=Path, required=True, help="the checkpoint directory to write")
    parser.add_argument("--transformer-steps", type=int, default=TRANSFORMER_STEPS)
    parser.add_argument("--only-export", action="store_true", help="write the checkpoint from the states as they are")
    parser.add_argument("--experts", type=Path, metavar="CHECKPOINT", help="fine-tune two experts from this checkpoint instead")
    parser.add_argument("--expert-steps", type=int, default=EXPERT_STEPS, help="of each expert")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.experts:
        train_experts(args.experts, args.work_dir, args.output, device, args.expert_steps)
        return
    if not args.only_export:
        vae = train_vae(args.work_dir, device)
        data = make_latents(vae, args.work_dir, device)
        train_transformer(data, args.work_dir, device, args.transformer_steps)
    export_trained(args.work_dir, args.output)


if __name__ == "__main__":
    main()
