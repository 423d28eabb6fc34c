"""The flags of ``xdit-dualparal decode``.

Knows: their names, limits and help. Must not know: how latents are decoded. Imports nothing heavy, for the help.
"""

import argparse

from ..launch.errors import refuse
from ..output.settings import VAE_PRECISIONS
from .settings import CommandSettings


def decode_parser():
    """The parser. A wrong flag ends the program with exit code 2, and one line."""
    parser = argparse.ArgumentParser(prog="xdit-dualparal decode", description="The video of latents that --dualparal_latents_out kept.")
    parser.error = refuse
    parser.add_argument("file", help="what --dualparal_latents_out wrote")
    parser.add_argument("--output", help="the mp4 (default: beside the file, with its name)")
    parser.add_argument("--model", help="a model with the same VAE (default: the one that made the latents)")
    parser.add_argument("--model_path", help="the folder of the model's weights (default: that of the hub)")
    parser.add_argument("--quality", type=int, default=CommandSettings.quality, help=f"H.264's constant rate factor (default: {CommandSettings.quality})")
    parser.add_argument("--fps", type=int, metavar="N", help="frames a second (default: the model's)")
    parser.add_argument("--overwrite", action="store_true", help="replace another run's video")
    parser.add_argument(
        "--vae_precision", choices=VAE_PRECISIONS, default="float32", help="the VAE's numbers (default: float32)"
    )
    parser.add_argument("--enable_tiling", action="store_true", help="decode a tile at a time, in less memory")
    return parser
