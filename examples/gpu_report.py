"""What the first hours on GPUs should record: correctness, matrix peak, passes, decoding, memory and a trace, in one table.

    python examples/gpu_report.py [--output FILE] [--device cuda|cpu] [--parts matrices,passes,...]

Every part is a process of its own with a time limit, 24 minutes in all; one that fails or takes longer is named in the table,
and the next one begins. ``--device cpu`` has tiny sizes and tries the program itself.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMITS_S = dict(correctness=540, matrices=60, passes=300, stages=180, decoding=120, runs=240)  # the order, too
STAGES = (1, 2, 4, 8)
# DESIGN section 3; heights and widths are Wan's 480p and 720p. A few layers are measured, and the others are like them.
SHAPES = {
    "cuda": [
        (f"{name} {height}p", dict(num_attention_heads=heads, ffn_dim=ffn, text_dim=4096), layers, (height, width))
        for name, heads, ffn, layers in (("1.3B", 12, 8960, 30), ("14B", 40, 13824, 40))
        for height, width in ((480, 832), (720, 1280))
    ],
    "cpu": [("tiny 32p", dict(num_attention_heads=2, ffn_dim=128, text_dim=64, attention_head_dim=24), 30, (32, 32))],
}
MATRIX = dict(cuda=8192, cpu=256)  # rows
FEW_LAYERS, NUM_FRAMES, STEPS = (2, 4), 77, 2  # two blocks of 12 and 8 latent frames: the last pass but one reads a context


def main(argv=None):
    """Writes the table; with ``--part``, which is for the processes of the parts, prints that part's rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="the table's file (default: a new temporary one)")
    parser.add_argument("--device", choices=SHAPES, help="default: cuda where there is one")
    parser.add_argument("--parts", default=",".join(LIMITS_S), help="some of the parts (default: all)")
    parser.add_argument("--part", choices=LIMITS_S, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    device = arguments.device or _any_device()
    if arguments.part:
        print(json.dumps(globals()[f"measure_{arguments.part}"](device)))
        return
    output = arguments.output or Path(tempfile.mkdtemp(), "gpu_report.md")
    write_table(output, device, arguments.parts.split(","))
    print(f"the table is in {output}")


def _any_device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


# The table.

def write_table(output, device, parts):
    """Does the ``parts`` one after the other; ``output`` grows by each one's rows."""
    output.write_text(f"| {machine(device)} | what | figure |\n|---|---|---|\n")
    for part in parts:
        start = time.monotonic()
        rows = rows_of(part, device)
        for what, figure in [*rows, ("took", f"{time.monotonic() - start:.0f} s")]:
            line = f"| {part} | {what} | {figure} |"
            print(line, flush=True)
            with open(output, "a") as file:
                file.write(line + "\n")


def machine(device):
    """The GPUs' name and number, and torch's version."""
    import torch

    name = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if device == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}"


def rows_of(part, device):
    """[(what, figure)] of a part; of one that failed or was ended why."""
    code, output, errors = limited([sys.executable, __file__, "--part", part, "--device", device], LIMITS_S[part])
    if code is None:
        return [("ended", f"**it took more than {LIMITS_S[part]} s**")]
    if code:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return [("failed", f"**exit code {code}: {last.replace('|', '/')[:200]}**")]
    return json.loads(output.strip().splitlines()[-1])


def limited(command, limit_s, **options):
    """(exit code, or None when it was ended after ``limit_s``, its output, its errors) of a command and all that it starts."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with subprocess.Popen(command, **pipes, **options) as process:
        try:
            output, errors = process.communicate(timeout=limit_s)
            return process.returncode, output, errors
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return (None, *process.communicate())


# The parts. Each returns [(what, figure)].

def measure_correctness(device):
    """tests/gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [(line.split(" ")[1], "**failed**") for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return [("tests/gpu", lines[-1].strip("= ") if lines else f"**exit code {done.returncode}**"), *failed]


def measure_matrices(device):
    """Products of square matrices: what this device can do at most."""
    import torch

    size, dtypes = MATRIX[device], (torch.bfloat16, torch.float32)
    return [(f"{size} x {size} {str(dtype).removeprefix('torch.')}", f"{matrix_peak(device, dtype) / 1e12:.3g} TFLOP/s") for dtype in dtypes]


def matrix_peak(device, dtype):
    """Operations a second of the fastest of 10 products of square matrices."""
    import torch

    from xdualparal.engine.lone_stage import seconds_of

    size = MATRIX[device]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds_of(lambda: a @ b, device) for _ in range(10))


def measure_passes(device):
    """Of each shape: the seconds of a pass of one branch and the memory, by the number of stages."""
    rows = []
    for name, shape, layers, size in SHAPES[device]:
        try:
            (few_s, few_bytes), (more_s, more_bytes) = (pass_of(device, shape, count, size) for count in FEW_LAYERS)
        except RuntimeError as error:  # out of memory, say: the next shape may fit
            rows.append((name, f"**{str(error).splitlines()[0][:150]}**"))
            continue
        rows.append((f"{name}, {FEW_LAYERS} layers", f"{few_s:.3g} and {more_s:.3g} s a pass of one branch"))
        if more_s <= few_s:
            rows.append((name, "**more layers take no longer: too noisy to say more**"))
            continue
        for stages in STAGES:
            more_layers = (layers / stages - FEW_LAYERS[0]) / (FEW_LAYERS[1] - FEW_LAYERS[0])
            seconds, memory = few_s + more_layers * (more_s - few_s), few_bytes + more_layers * (more_bytes - few_bytes)
            rows.append((f"{name}, {stages} stages, scaled", f"{seconds:.3g} s a pass, {memory / 2**30:.1f} GiB"))
    return rows


def pass_of(device, shape, layers, size):
    """(seconds of a pass, peak bytes) of a stage of ``layers`` layers with random weights, in bfloat16, at B = 8 and C = 4."""
    import torch

    from xdualparal.output.report import peak_bytes

    pipeline = random_pipeline(device, shape, layers)
    text = torch.randn(1, 512, shape["text_dim"], generator=torch.Generator().manual_seed(1))
    seconds = []
    for _ in range(3):  # the first one loads kernels
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        pipeline(
            prompt_embeds=text, height=size[0], width=size[1], num_frames=NUM_FRAMES, num_inference_steps=STEPS,
            guidance_scale=1.0, generator=torch.Generator().manual_seed(2), output_type="latent",
        )
        seconds.append(pipeline.meter.busy_s["F"] / pipeline.meter.count["F"])
    return min(seconds), peak_bytes(pipeline.device)


def random_pipeline(device, shape, layers):
    """A DualParalPipeline with one stage of ``layers`` layers and no VAE."""
    os.environ.update(dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="localhost", MASTER_PORT="0") | os.environ)
    import torch

    from xdualparal import DualParalConfig, DualParalPipeline, enable_host_platform

    enable_host_platform()
    from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from xfuser import xFuserArgs

    with torch.device(device):
        transformer = WanTransformer3DModel(**shape, num_layers=layers, in_channels=16, out_channels=16).to(torch.bfloat16)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    wan = WanPipeline(tokenizer=None, text_encoder=None, vae=None, scheduler=scheduler, transformer=transformer.eval())
    wan.vae_scale_factor_spatial, wan.vae_scale_factor_temporal = 8, 4
    engine, _ = xFuserArgs(model="random").create_config()
    return DualParalPipeline(wan, engine, DualParalConfig(block_latents=8, context_latents=4))


def measure_stages(device):
    """The first, a middle and the last of 4 and 8 stages of Wan 14B and Wan2.2-A14B, see gpu_stages.py."""
    import gpu_stages

    return list(gpu_stages.measure(device, [4, 8], waves=1))


def measure_decoding(device):
    """Wan2.1's VAE with random weights, in both precisions: a block of 8 latent frames after the first one of 12."""
    import torch
    from diffusers import AutoencoderKLWan

    from xdualparal.engine.lone_stage import seconds_of
    from xdualparal.models.wan_vae import StreamingDecoder

    rows, small = [], dict(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    for height, width in ((480, 832), (720, 1280)) if device == "cuda" else ((32, 32),):
        for dtype in (torch.float32, torch.bfloat16):
            with torch.device(device):
                vae = AutoencoderKLWan(**({} if device == "cuda" else small)).to(dtype).eval()
            decoder = StreamingDecoder(vae)
            first, second = (torch.randn(1, 16, count, height // 8, width // 8, device=device) for count in (12, 8))
            decoder.decode(first)
            seconds = seconds_of(lambda: decoder.decode(second), device)
            peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else ""
            rows.append((f"{height}p {str(dtype).removeprefix('torch.')}", f"{seconds:.2f} s for 32 frames{peak}"))
            del vae, decoder
    return rows


def measure_runs(device):
    """The demo model on as many stages as there are GPUs, and its trace."""
    import torch

    rows, degree = [], 1
    while degree <= (torch.cuda.device_count() if device == "cuda" else 2):
        folder = Path(tempfile.mkdtemp())
        trace = folder / "trace.json"
        command = [
            sys.executable, "-m", "xdualparal.xdit.cli", "--model", "tiny-wan", "--prompt", "a red circle on a dark background",
            "--dualparal_degree", str(degree), "--dualparal_trace", str(trace), "--output_directory", str(folder),
            "--num_frames", "257" if device == "cuda" else "65", "--num_inference_steps", "20" if device == "cuda" else "2",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        [report] = [json.loads(file.read_text()) for file in folder.glob("*.json") if file.name != trace.name]
        peaks = ", ".join(f"{rank['peak_bytes'] / 2**20:.0f} MiB" for rank in report["ranks"])
        rows += [
            (f"{degree} stages", f"{report['wall_s']:.1f} s, waiting {report['bubble']:.1%} ({report['predicted_bubble']:.1%} by the schedule)"),
            (f"{degree} stages, peak memory of each rank", peaks), (f"{degree} stages, trace", str(trace)),
        ]
        degree *= 2
    return rows


if __name__ == "__main__":
    main()
