"""What the planner says of published figures: DualParal's (arXiv 2505.21070) and Video-Infinity's (arXiv 2406.16260).

    python examples/headline.py [--json FILE]

DualParal's abstract: 1,025 frames with up to 6.54 times lower latency and 1.48 times lower memory cost on 8 RTX 4090; the code's defaults are 50 steps, 480 x
832, 8 latent frames a block, 8 of context. It does not say there against what: here it is full attention with xDiT's Ulysses and ring, the fastest mix of degrees,
on cards with as much memory as it takes. Video-Infinity's abstract: 2,300 frames in about 5 minutes on 8 RTX 6000 Ada; its model is VideoCrafter2, a U-Net for 320 x 512, here it is
Wan2.1-T2V-1.3B at that size, in 50 steps.

Nothing is measured: times are counted operations and bytes over assumed rates (xdualparal/plan/device.py), which are printed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = [sys.executable, "-m", "xdualparal.xdit.cli", "plan"]
PAPER = "--dualparal_degree 8 --dualparal_context_latents 8 --dualparal_context recomputed"
LONG, SMALL = "--height 480 --width 832 --num_frames 1025 --num_inference_steps 50", "--height 320 --width 512 --num_frames 2301 --num_inference_steps 50"
CASES = {  # {name: (GPU, flags, whether it may have all the memory it takes)}
    "1.3B, full attention": ("rtx4090", f"--model Wan2.1-T2V-1.3B {LONG} --long_video_strategy full", True),
    "1.3B, DualParal as the paper has it": ("rtx4090", f"--model Wan2.1-T2V-1.3B {LONG} {PAPER}", False),
    "1.3B, DualParal, the fastest": ("rtx4090", f"--model Wan2.1-T2V-1.3B {LONG}", False),
    "14B, full attention": ("rtx4090", f"--model Wan2.1-T2V {LONG} --long_video_strategy full", True),
    "14B, DualParal as the paper has it": ("rtx4090", f"--model Wan2.1-T2V {LONG} {PAPER}", False),
    "14B, DualParal, the fastest": ("rtx4090", f"--model Wan2.1-T2V {LONG}", False),
    "1.3B small, Video-Infinity, 8 clips": ("6000ada", f"--model Wan2.1-T2V-1.3B {SMALL} --long_video_strategy video_infinity --dualparal_degree 8", False),
    "1.3B small, DualParal, the fastest": ("6000ada", f"--model Wan2.1-T2V-1.3B {SMALL}", False),
}
BASES = {"1.3B, ": "1.3B, full attention", "14B, ": "14B, full attention", "1.3B small, ": "1.3B small, Video-Infinity, 8 clips"}
PLENTY = 10**13  # bytes


def main():
    """Prints a table and the assumptions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    rows, sources = {}, set()
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            rows[name], device = fastest(folder, *case)
            sources |= set(device["sources"])
    print("| what | degrees | seconds | times as fast | GB a GPU | times less |\n|---|---|---|---|---|---|")
    for name, way in rows.items():
        print(row(name, way, rows[next(base for start, base in BASES.items() if name.startswith(start))]))
    print("\n".join(["", "Without loading and encoding the prompt. Assumed:", *(f"- {source}" for source in sorted(sources))]))
    if arguments.json:
        arguments.json.write_text(json.dumps(dict(rows=rows, sources=sorted(sources)), indent=1) + "\n")


def fastest(folder, gpu, flags, has_plenty):
    """(the fastest way, as the planner's JSON has it; the device's profile)."""
    from xdualparal.plan.device import GPUS

    profile, file = Path(folder, "profile.json"), Path(folder, "plan.json")
    profile.write_text(json.dumps(GPUS[gpu].as_json() | (dict(memory_bytes=PLENTY) if has_plenty else {})))
    words = [*flags.split(), "--num_gpus", "8", "--gpu", str(profile), "--json", str(file), "--overwrite"]
    subprocess.run([*COMMAND, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    content = json.loads(file.read_text())
    ways = content["ways"]
    if PAPER in flags:  # "recomputed" is the default, and the planner tries the other one, too
        ways = [way for way in ways if "dualparal_context" not in way["flags"]]
    return ways[0], content["device"]


def in_words(flag, value):
    """A flag that the planner chose, or "" for one that does nothing."""
    if isinstance(value, bool):
        return flag.removeprefix("use_").replace("_", " ") if value else ""
    short = "stages" if flag == "dualparal_degree" else flag.removeprefix("dualparal_").removesuffix("_degree").replace("_", " ")
    return f"{short} {value}" if value != 1 else ""


def row(name, way, base):
    """One of the table, beside the row ``base``."""
    degrees = ", ".join(filter(None, (in_words(flag, value) for flag, value in way["flags"].items())))
    seconds, ours, theirs = way["seconds"], way["memory"], base["memory"]
    memory = f"{ours['bytes'] / 1e9:.1f} | {theirs['bytes'] / ours['bytes']:.2f}" if ours and theirs else f"{ours['bytes'] / 1e9:.1f} |" if ours else "not known |"
    return f"| {name} | {degrees} | {seconds:.0f} | {base['seconds'] / seconds:.2f} | {memory} |"


if __name__ == "__main__":
    main()
