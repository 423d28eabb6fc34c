"""What each rank reads and needs while a stage is loaded: a checkpoint of two experts, one process a stage.

    python examples/measure_loading.py [--stages 4] [--heads 20] [--layers 8] [--stored bfloat16] [--folder FOLDER]

Writes a checkpoint in the real format (Wan2.2-T2V-A14B's configuration with fewer heads and layers, Wan2.1's VAE, a short text
encoder; sharded safetensors with an index; random weights), starts all ranks together, and prints for each rank: the bytes of
its own weights; the bytes that it read, as its reader counted them, and as the system did (rchar of /proc/self/io, all files);
the most memory above what the imports took (VmHWM, set back after them). Files are read and not mapped, so all of that memory
is the process's own, and the system's cache of the files does not count. What a GPU has does not count either.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import xdualparal

TINY_WAN = Path(xdualparal.__file__).parent / "demo" / "tiny-wan"
STEM = "diffusion_pytorch_model"
EXPERTS = ("transformer", "transformer_2")
HEAD_DIM, FFN_RATIO = 128, 2.7  # Wan2.2-T2V-A14B's: 40 heads, feed-forward 13824 = 2.7 x 5120
SHARD_BYTES = 1 << 29
SLACK = 1.3, 500e6  # a rank's memory may be its share times the first, plus the second


def write_checkpoint(folder, heads, layers, dtype):
    """Writes the whole model; returns its bytes."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    config = dict(
        _class_name="WanTransformer3DModel", num_attention_heads=heads, attention_head_dim=HEAD_DIM, num_layers=layers,
        ffn_dim=int(heads * HEAD_DIM * FFN_RATIO), in_channels=16, out_channels=16, text_dim=4096, freq_dim=256,
    )
    for part in EXPERTS:
        write_transformer(folder / part, config, dtype)
    AutoencoderKLWan().save_pretrained(folder / "vae")
    UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0).save_pretrained(folder / "scheduler")
    text = UMT5Config(d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=1, vocab_size=512, architectures=["UMT5EncoderModel"])
    UMT5EncoderModel(text).save_pretrained(folder / "text_encoder")
    shutil.copytree(TINY_WAN / "tokenizer", folder / "tokenizer")
    index = json.loads((TINY_WAN / "model_index.json").read_text())
    index |= dict(transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    (folder / "model_index.json").write_text(json.dumps(index))
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def write_transformer(folder, config, dtype):
    """Writes random weights, a shard at a time."""
    from diffusers import WanTransformer3DModel
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        names = {name: one.shape for name, one in WanTransformer3DModel.from_config(config).state_dict().items()}
    where, shard, count = {}, {}, 0
    for number, (name, shape) in enumerate(names.items(), 1):
        shard[name] = (torch.randn(shape) * 0.02).to(dtype)
        where[name] = f"{STEM}-{count:05d}.safetensors"
        if sum(one.nbytes for one in shard.values()) > SHARD_BYTES or number == len(names):
            save_file(shard, folder / where[name])
            shard, count = {}, count + 1
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=where)))


def load(folder, index, count, layers, device):
    """Loads one stage in this process; returns what it took, bytes."""
    from xdualparal.config import DualParalConfig
    from xdualparal.models import family_of_folder
    from xdualparal.models.weights import load_stage
    from xdualparal.plan.partition import layer_ranges

    family, told = family_of_folder(folder), []
    mine = layer_ranges(layers, DualParalConfig(), count)[index]
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to what is there now
    before_bytes, before_read = status("VmHWM"), read_by_system()
    pipeline = load_stage(family, folder, index, count, mine, torch.bfloat16, index == count - 1, device, tell=told.append)
    peak, by_system = status("VmHWM") - before_bytes, read_by_system() - before_read
    parts = [getattr(pipeline, part) for part in (*EXPERTS, "vae")]
    tensors = [tensor for part in parts if part is not None for tensor in part.state_dict().values() if not tensor.is_meta]
    share = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())  # tied ones once
    return dict(share=share, read=sum(told), by_system=by_system, peak=peak)


def status(name):
    """Bytes, of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def read_by_system():
    """Bytes that this process has read from files."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def measure(arguments, folder):
    """[what ``load`` returned] of all ranks, which run together."""
    own = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--rank"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    ranks = [
        subprocess.Popen([*own, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        for rank in range(arguments.stages)
    ]
    return [json.loads(rank.communicate()[0]) for rank in ranks]


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--stored", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", help="a checkpoint that this program wrote")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        print(json.dumps(load(Path(arguments.folder), arguments.rank, arguments.stages, arguments.layers, arguments.device)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.folder or temporary)
        if not (folder / "model_index.json").exists():
            size = write_checkpoint(folder, arguments.heads, arguments.layers, getattr(torch, arguments.stored))
            print(f"the checkpoint has {size / 1e9:.2f} GB of weights in {arguments.stored}", flush=True)
        for rank, one in enumerate(measure(arguments, folder)):
            most = SLACK[0] * one["share"] + SLACK[1]
            print(
                f"rank {rank}: its weights {one['share'] / 1e9:.2f} GB, read {one['read'] / 1e9:.2f} GB (by the system's count "
                f"{one['by_system'] / 1e9:.2f}), peak memory {one['peak'] / 1e9:.2f} GB, bar {most / 1e9:.2f} GB: "
                f"{'below' if one['peak'] < most else 'ABOVE'}"
            )


if __name__ == "__main__":
    main()
