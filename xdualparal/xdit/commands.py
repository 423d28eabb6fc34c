"""``xdit-dualparal decode FILE``: the video of latents that ``--dualparal_latents_out`` kept.

Knows: the file of latents, the models' VAEs, and the mp4. Must not know: how latents were made. One process does it.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from diffusers.video_processor import VideoProcessor
from tqdm.auto import tqdm

from ..launch.errors import refuse
from ..limits import RATE_FACTOR
from ..models.folder import check_vae
from ..models.wan_vae import StreamingDecoder
from ..models.weights import checkpoint_folder
from ..output.latents_file import read_latents
from ..output.mp4 import QUALITY, VideoWriter
from ..output.settings import VAE_PRECISIONS
from ..output.tags import tags_of
from ..output.writer import ThreadedWriter, to_uint8
from .registry import DUALPARAL_MODELS


def main(argv):
    """Decodes the file in ``argv``. Ends with exit code 2, and one line, when it cannot."""
    arguments = _parser().parse_args(argv)
    output = arguments.output or Path(arguments.file).with_suffix(".mp4")
    try:
        RATE_FACTOR.of("--quality", arguments.quality)
        facts, _ = next(read_latents(arguments.file))  # what is wrong shows before the VAE is loaded
        model = _model(arguments.model or facts["model"])
        folder = Path(arguments.model_path) if arguments.model_path else checkpoint_folder(model.settings.model_name)
        check_vae(model.family, folder)
        frames = decode(arguments, model, folder, facts, output)
    except (OSError, ValueError) as error:
        refuse(error)
    tqdm.write(f"{frames} frames are in {output}")


def _parser():
    parser = argparse.ArgumentParser(prog="xdit-dualparal decode", description=__doc__.splitlines()[0])
    parser.error = refuse
    parser.add_argument("file", help="what --dualparal_latents_out wrote")
    parser.add_argument("--output", help="the mp4 (default: beside the file, with its name)")
    parser.add_argument("--model", help="a model with the same VAE (default: the one that made the latents)")
    parser.add_argument("--model_path", help="the folder of the model's weights (default: that of the hub)")
    parser.add_argument("--quality", type=int, default=QUALITY, help=f"H.264's constant rate factor (default: {QUALITY})")
    parser.add_argument(
        "--vae_precision", choices=VAE_PRECISIONS, default="float32", help="the VAE's numbers (default: float32)"
    )
    parser.add_argument("--enable_tiling", action="store_true", help="decode a tile at a time, in less memory")
    return parser


def _model(name):
    if name not in DUALPARAL_MODELS:
        raise ValueError(f"model {name!r} is not known: give --model, one of {', '.join(DUALPARAL_MODELS)}")
    return DUALPARAL_MODELS[name]


@torch.no_grad()
def decode(arguments, model, folder, facts, output):
    """Decodes all whole blocks of the file; returns how many frames they made."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    dtype = getattr(torch, arguments.vae_precision)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", dtype=dtype).to(device).eval()
    if arguments.enable_tiling:
        vae.enable_tiling()
    processor = VideoProcessor(vae_scale_factor=vae.config.scale_factor_spatial)
    decoder, missing = StreamingDecoder(vae), int(facts["num_frames"]) or None
    tags = tags_of({**json.loads(facts.get("spec", "{}")), "quality": arguments.quality})
    file = VideoWriter(output, model.settings.fps, arguments.quality, label=facts.get("label", ""), tags=tags, overwrite=True)
    with ThreadedWriter(file) as writer:
        for _, latents in tqdm(read_latents(arguments.file), unit="block"):
            frames = decoder.decode(latents.to(device))
            if missing is not None:
                frames = frames[:, :, :missing]
                missing -= frames.shape[2]
            writer.write(to_uint8(processor.postprocess_video(frames, output_type="pt")[0]))
    return writer.frames_written
