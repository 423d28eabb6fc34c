"""The text of ``xdit-dualparal --help``, made from the parser: ``python -m xdualparal.xdit.help`` writes it to help.txt, which
the command prints, because importing torch and xfuser takes seconds.

Knows: the parser, and sizes of the models. Must not know: how a command runs.
"""

import argparse
from functools import partial
from pathlib import Path

FILE = Path(__file__).with_name("help.txt")
_HEAD = """Examples:
  xdit-dualparal --model tiny-wan --dualparal_degree 2 --num_frames 129 --prompt "a red circle on a dark background"
  xdit-dualparal --model Wan2.1-T2V-1.3B --dualparal_degree 4 --num_frames 801 --prompt "a ship in a storm"
  xdit-dualparal --model Wan2.1-T2V --dualparal_degree 4 --ulysses_degree 2 --num_frames 401 --prompt "a ship in a storm"
  xdit-dualparal --model Wan2.2-T2V --dualparal_degree 4 --lora high_noise.safetensors --lora_2 low_noise.safetensors \\
    --num_inference_steps 4 --guidance_scale 1 --flow_shift 5 --num_frames 401 --prompt "a ship in a storm"  # a pair of LoRAs for 4 steps

Models, the disk that the hub's files need (float32, with the text encoder), and the bf16 weights of the blocks on each of 1, 2, 4
and 8 stages (the first stage holds the text encoder, 11.4 GB, while it encodes; activations and the VAE come on top):
  tiny-wan             in the package (the demo model); tiny-wan-2: 64 x 64 pixels, two objects that pass; tiny-wan-i2v: of a picture
"""
_OTHERS_GB = 11.4 * 2 + 0.5  # UMT5's and the VAE's files in float32: DESIGN section 5, and 127 million parameters of the VAE
# Experts, layers, dim, ffn: DESIGN section 3; and dim x dim matrices of a block, where they are not 8: K and V of an image besides.
_MODELS = (("Wan2.1-T2V-1.3B", 1, 30, 1536, 8960), ("Wan2.1-T2V", 1, 40, 5120, 13824), ("Wan2.2-T2V", 2, 40, 5120, 13824),
           ("Wan2.1-I2V", 1, 40, 5120, 13824, 10), ("Wan2.2-I2V", 2, 40, 5120, 13824), ("Wan2.2-TI2V", 1, 30, 3072, 14336), ("SkyReels-V2-DF-1.3B", 1, 30, 1536, 8960), ("SkyReels-V2-DF-14B", 1, 40, 5120, 13824),
           ("SkyReels-V2-I2V-1.3B", 1, 30, 1536, 8960, 10))
_DISTILLED = "  Wan2.2-Distilled-T2V, Wan2.2-Distilled-I2V: Wan2.2-T2V's sizes, and --distilled_transformer_path and --distilled_transformer_2_path\n"
_HIGHER = "  FastWan2.2-TI2V (3 fixed steps): Wan2.2-TI2V's sizes\n  Wan2.1-I2V-480P, Wan2.1-FLF2V (first and last image): Wan2.1-I2V's sizes\n  SkyReels-V2-DF-14B-720P: SkyReels-V2-DF-14B's sizes\n  SkyReels-V2-I2V-14B, SkyReels-V2-I2V-14B-720P: Wan2.1-I2V's sizes\n"


def block_gigabytes(experts, layers, dim, ffn, matrices=8, *, stages):
    """Of the largest stage: a block has two attentions of four dim x dim matrices and two dim x ffn ones, 2 bytes a number."""
    return experts * -(-layers // stages) * (matrices * dim * dim + 2 * dim * ffn) * 2 / 1e9


def help_text():
    """Examples, models, DualParal's flags, then xDiT's; those that are refused with DualParal are marked."""
    from .flags import make_parser
    from .support import REFUSED

    parser = make_parser()
    parser.formatter_class = partial(argparse.HelpFormatter, width=120)
    parser.usage = "xdit-dualparal [flags]"
    for action in parser._actions:
        if action.dest in REFUSED and action.help is not argparse.SUPPRESS:
            action.help = f"[refused with DualParal] {action.help or ''}".rstrip()
    groups = parser._action_groups
    groups.sort(key=lambda group: group.title != "DualParal Options")
    models = "".join(
        f"  {name:20} {block_gigabytes(*sizes, stages=1) * 2 + _OTHERS_GB:.0f} GB; " + ", ".join(f"{block_gigabytes(*sizes, stages=stages):.1f}" for stages in (1, 2, 4, 8)) + " GB\n"
        for name, *sizes in _MODELS
    )
    return f"{_HEAD}{models}{_DISTILLED}{_HIGHER}\n{parser.format_help()}"


if __name__ == "__main__":
    import os

    from ..compat.host import enable_host_platform

    enable_host_platform()
    os.environ.setdefault("RANK", "0"), os.environ.setdefault("WORLD_SIZE", "1")  # xfuser's logger reads them
    FILE.write_text(help_text())
