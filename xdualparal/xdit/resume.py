"""Whether a command resumes what it finds, judged before the model is loaded.

Knows: which flags decide a video. Must not know: how a checkpoint is read or written.
"""

from pathlib import Path

from ..output.checkpoint import check_same, is_finished, read_manifest
from ..run_spec import RunSpec, upper_name
from ..strategies.dualparal import DualParal
from .flags import command_settings, value_of
from .prompts import as_list, prompts_of


def check_checkpoint(args, model, config):
    """The settings of a checkpoint that is there already, as far as they can be known before the model is loaded."""
    negative = as_list(value_of(args, model, "negative_prompt"))
    for number, prompt in enumerate(prompts_of(args)):
        folder = Path(config.checkpoint, str(number))
        manifest = read_manifest(folder)
        if manifest is None or is_finished(manifest):
            continue
        negative_prompt = negative[number if len(negative) > 1 else 0] if negative else ""
        check_same(folder, manifest, _known_spec(args, model, config, prompt, negative_prompt))


def _known_spec(args, model, config, prompt, negative_prompt):
    """The run's RunSpec as far as it is known before the model is loaded."""
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "seed", "flow_shift")
    return RunSpec(
        **{name: value_of(args, model, name) for name in names}, **DualParal().identity(config),
        prompt=prompt, negative_prompt=negative_prompt, model=args["model"], precision=str(model.dtype).removeprefix("torch."),
        attention_backend=upper_name(args["attention_backend"]),
        cross_attention_backend=upper_name(args["cross_attention_backend"]), compiled=args["use_torch_compile"],
        vae_precision=config.vae_precision or str(model.family.facts.vae_dtype).removeprefix("torch."),
        quality=command_settings(args).quality, fps=model.settings.fps,
    )
