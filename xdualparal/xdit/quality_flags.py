"""The flags of ``xdit-dualparal quality``.

Knows: their names, limits and help. Must not know: how a video is measured. Imports nothing heavy, for the help.
"""

import argparse

from ..launch.errors import refuse

_TEXT = """Measures long videos without a pretrained network: seams between blocks, drift, standing still, repetition; for videos
of a demo world also what its objects do and whether they are the prompt's.
  xdit-dualparal quality video.mp4 [--sheet sheet.png] [--plot plot.png]
  xdit-dualparal quality --model tiny-wan --prompts 50 --seeds 2 --num_frames 257 --json a.json -- --dualparal_context_latents 4
  xdit-dualparal quality --compare a.json b.json
Flags of xdit-dualparal that the videos are made with follow after --. Intervals are 95 % ones, a bootstrap over prompts."""


def quality_parser():
    """The parser. A wrong flag ends the program with exit code 2, and one line."""
    parser = argparse.ArgumentParser(
        prog="xdit-dualparal quality", description=_TEXT, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.error = refuse
    parser.add_argument("files", nargs="*", metavar="FILE", help="videos to measure")
    parser.add_argument("--prompt", help="the demo prompt that the files should show (default: what each file says)")
    parser.add_argument("--block_latents", type=int, help="latent frames of a block (default: what each file says)")
    parser.add_argument("--context_latents", type=int, help="latent frames of its context (default: what each file says)")
    parser.add_argument("--frames_per_latent", type=int, help="video frames of a latent frame (default: 4)")
    parser.add_argument("--model", help="make videos with this model and measure them")
    parser.add_argument("--prompts", metavar="N|FILE", help="the first N evaluation prompts of the model's demo world (default: 50), or a text file, a prompt a line")
    parser.add_argument("--seeds", type=int, help="videos of each prompt, with seeds 0, 1, ... (default: 2)")
    parser.add_argument("--num_frames", type=int, help="of each video (default: 257)")
    parser.add_argument("--compare", nargs=2, metavar=("A.json", "B.json"), help="B minus A, in pairs of the same prompt and seed")
    parser.add_argument("--json", help="write all figures there; with --model it grows, and videos that are in it are not made again")
    parser.add_argument("--sheet", help="a PNG of frames of the FILE")
    parser.add_argument("--plot", help="a PNG of its figures over time")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


def parse_quality(argv):
    """(flags, arguments of the launcher behind ``--``)."""
    end = argv.index("--") if "--" in argv else len(argv)
    flags = quality_parser().parse_args(argv[:end])
    try:
        _check(flags, argv[end + 1:])
    except ValueError as error:
        refuse(error)
    return flags, argv[end + 1:]


_OF_FILES = ("prompt", "block_latents", "context_latents", "frames_per_latent", "sheet", "plot", "overwrite")
_OF_MODEL = ("prompts", "seeds", "num_frames")


def _check(flags, passed_on):
    ways = [name for name in ("files", "model", "compare") if getattr(flags, name)]
    if len(ways) != 1:
        raise ValueError(f"{len(ways)} of FILE, --model and --compare are given: give one of them (--help shows how)")
    of_way = dict(files=(*_OF_FILES, "json"), model=(*_OF_MODEL, "json"), compare=("json", "overwrite"))[ways[0]]
    for name in (*_OF_FILES, *_OF_MODEL):
        if getattr(flags, name) not in (None, False) and name not in of_way:
            raise ValueError(f"--{name} does nothing with {'FILE' if ways[0] == 'files' else '--' + ways[0]}: leave it out")
    if passed_on and not flags.model:
        raise ValueError(f"{' '.join(passed_on)} follows -- and no video is made: give --model, or leave it out")
    if len(flags.files) > 1 and (flags.sheet or flags.plot):
        raise ValueError(f"--sheet and --plot show one video and {len(flags.files)} are given: give one FILE")
    for name in ("seeds", "num_frames"):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            raise ValueError(f"--{name} is {getattr(flags, name)}: give 1 or more")
