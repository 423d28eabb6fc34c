"""The pictures of the README, in this folder, each below 150 KB.

    python examples/pictures.py strip [--video FILE.mp4]
    python examples/pictures.py timeline
    python examples/pictures.py growth BENCH.json ...

strip: frames of a demo video, which is made first where none is given (its report must be beside it); timeline: a simulated
schedule; growth: time and memory against frames, from what ``xdit-dualparal bench --json`` wrote, one file or several of one machine. --folder DIR: another folder.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from xdualparal import build_schedule
from xdualparal.bench.machine import machine_line
from xdualparal.bench.plot import draw
from xdualparal.bench.summary import read_summaries
from xdualparal.plan.layout import Layout
from xdualparal.plan.simulate import simulate
from xdualparal.plan.steady import FRAMES_A_LATENT
from xdualparal.plan.timeline import COLOURS, draw_timeline

PROMPT = "a red circle on a dark background"
SHOWN = 18  # frames in the strip, in two rows
LIMIT_BYTES = 150_000
# Of the timeline, in passes: a step and a decode of the demo model on a CPU (its reports).
STEP, DECODE = 0.05, 2.0


def make_video(folder):
    """Makes the 257-frame demo video on two processes; returns its path."""
    subprocess.run(
        ["xdit-dualparal", "--model", "tiny-wan", "--dualparal_degree", "2", "--num_frames", "257", "--prompt", PROMPT,
         "--dualparal_output", f"{folder}/video.mp4"], check=True, stdout=subprocess.DEVNULL,
    )
    return Path(folder, "video.mp4")


def draw_strip(video, file):
    """Evenly spaced frames of ``video``, each in the colour of its block."""
    import av
    from matplotlib.figure import Figure

    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    spec = json.loads(video.with_suffix(".json").read_text())["spec"]
    layout = Layout(spec["block_latents"], spec["context_latents"], 1 + -(-(len(frames) - 1) // FRAMES_A_LATENT))
    ends = [layout.frames_of(block + 1, len(frames), FRAMES_A_LATENT) for block in range(layout.num_blocks)]
    figure = Figure((10, 2.75), layout="constrained")
    for place, axes in enumerate(figure.subplots(2, SHOWN // 2).flat):
        number = round(place * (len(frames) - 1) / (SHOWN - 1))
        block = next(block for block, end in enumerate(ends) if number < end)
        axes.imshow(frames[number], interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_title(f"frame {number}, block {block}", fontsize=6.5, pad=3)
        axes.spines[:].set(color=COLOURS[block % len(COLOURS)], linewidth=3)
    figure.savefig(file, dpi=110)


def draw_schedule(file):
    """8 blocks of 6 steps on 3 stages, decoded in a thread of their own."""
    trace = simulate(build_schedule(8, 6, 3, decode="thread"), lambda action: {"F": 1.0, "S": STEP, "D": DECODE}[action.kind])
    draw_timeline({"8 blocks, 6 steps, one second a pass": trace}, file, overwrite=True)


def draw_growth(benches, file):
    """``benches``: what benches of one request on one machine wrote, with different numbers of frames."""
    known = [json.loads(bench.read_text()) for bench in benches]
    machine, request = known[0]["machine"], known[0]["bench"]["request"]
    if any((each["machine"], each["bench"]["request"]) != (machine, request) for each in known):
        raise SystemExit("these benches are not of one machine and request")
    asked = dict(zip(request[::2], request[1::2]))
    steps = f", {asked['--num_inference_steps']} steps" if "--num_inference_steps" in asked else ""
    summaries = sorted((summary for each in known for summary in read_summaries(each)), key=lambda summary: summary.case.num_frames)
    draw(summaries, file, f"{asked['--model']}{steps}; {machine_line(machine)}", overwrite=True)


def main():
    """Makes one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent)
    pictures = parser.add_subparsers(dest="picture", required=True)
    pictures.add_parser("strip").add_argument("--video", type=Path)
    pictures.add_parser("timeline")
    pictures.add_parser("growth").add_argument("benches", type=Path, nargs="+")
    arguments = parser.parse_args()
    file = arguments.folder / f"{arguments.picture}.png"
    if arguments.picture == "growth":
        draw_growth(arguments.benches, file)
    elif arguments.picture == "timeline":
        draw_schedule(file)
    elif arguments.video is not None:
        draw_strip(arguments.video, file)
    else:
        with tempfile.TemporaryDirectory() as folder:
            draw_strip(make_video(folder), file)
    assert file.stat().st_size < LIMIT_BYTES, f"{file} has {file.stat().st_size} bytes"


if __name__ == "__main__":
    main()
