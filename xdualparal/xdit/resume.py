"""Whether a command resumes what it finds, judged before the model is loaded.

Knows: which flags decide a video. Must not know: how a checkpoint is read or written.
"""

from pathlib import Path

import torch

from ..compat.backends import same_backend
from ..output.checkpoint import check_same, is_finished, read_manifest
from ..strategies.table import strategy_of
from ..texts import place_in_spec
from .continuing import appended_digest
from .flags import value_of
from .loras import loras_identity
from .prompts import as_list, prompts_of
from .quantization import precision_of
from .settings import fps_of


def check_checkpoint(args, model, config, command):
    """The settings of a checkpoint that is there already, as far as they can be known before the model is loaded."""
    for number, values in enumerate(known_values(args, model, config, command)):
        folder = Path(config.checkpoint, str(number))
        manifest = read_manifest(folder)
        if manifest is not None and not is_finished(manifest):
            check_same(folder, manifest, values)


def known_values(args, model, config, command):
    """For each prompt what is known of its RunSpec before the model is loaded, a dict as RunSpec.differences takes it."""
    common = _common_values(args, model, config, command)
    return [
        dict(common, prompt=str(prompt), negative_prompt=negative)
        for prompt, negative in pair_prompts(prompts_of(args), value_of(args, model, "negative_prompt"))
    ]


def pair_prompts(prompts, negative):
    """[(prompt, its negative prompt)]. ``negative``: one for all, a list of one, or one for each."""
    negative = as_list(negative) or [""]
    return [(prompt, negative[number if len(negative) > 1 else 0] or "") for number, prompt in enumerate(prompts)]


def _common_values(args, model, config, command):
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2", "seed", "flow_shift")
    on_cpu = not torch.accelerator.is_available()
    backends = {name: args.get(name) for name in ("attention_backend", "cross_attention_backend")}
    values = dict(
        {name: value_of(args, model, name) for name in names}, **strategy_of(config).identity(config),
        precision=precision_of(args, model.dtype), compiled=bool(args.get("use_torch_compile")),
        vae_precision=config.vae_precision or str(model.family.facts.vae_dtype).removeprefix("torch."),
        quality=command.quality, fps=fps_of(model, command), appended_to=appended_digest(command), loras=list(loras_identity(model, command)),
        text_encoder_place=place_in_spec(torch.accelerator.current_accelerator() or torch.device("cpu"), config.text_encoder),
        **{name: same_backend(backend, on_cpu) for name, backend in backends.items() if backend},
    )
    if values["flow_shift"] is None:  # the weights' folder says it
        del values["flow_shift"]
    if args.get("max_sequence_length"):
        values["max_sequence_length"] = args["max_sequence_length"]
    if args.get("use_parallel_vae"):
        values["one_segment"] = True
    return values
