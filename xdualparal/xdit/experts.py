"""What a command says of a model's experts: weights that are given apart from the model's folder, and their guidance.

Knows: flags, and which models they are for. Must not know: how weights are read, or what an expert does.
"""

from pathlib import Path

from ..models.checkpoint_files import Weights, tensors_of
from .flags import value_of

PATHS = {"transformer": "distilled_transformer_path", "transformer_2": "distilled_transformer_2_path"}  # {expert: its flag}
_FIXED = {  # what distilled weights leave no choice of: {flag: why}
    "num_inference_steps": "the weights are distilled for fixed steps",
    "guidance_scale": "guidance is in the distilled weights",
    "guidance_scale_2": "guidance is in the distilled weights",
    "flow_shift": "the distilled weights have fixed noise levels",
}


def files_of_experts(args):
    """{expert: path} of the weights that ``args``, a dict of flags, gives apart, as checkpoint_files.Weights takes it."""
    return {part: Path(args[name]) for part, name in PATHS.items() if args.get(name)}


def check_weights(args, model):
    """Raises ValueError for experts' weights that are missing, or as ``check_given_weights``."""
    check_given_weights(args, model)
    missing = [(part, name) for part, name in PATHS.items() if model.needs_distilled and not args[name]]
    for part, name in missing:
        raise ValueError(f"{args['model']} needs --{name}: {_wanted(part)}")


def check_given_weights(args, model):
    """Raises ValueError for experts' weights that are given to a model that has its own, or cannot be read."""
    for part, name in PATHS.items():
        if args[name] and not model.needs_distilled:
            raise ValueError(
                f"--{name} is {args[name]} and {args['model']} has weights of its own: give --model Wan2.2-Distilled-{'I2V' if model.family.facts.conditioned else 'T2V'}, or leave it out"
            )
        if args[name]:
            _check_file(args[name], part, name)


def _check_file(path, part, name):
    if not Path(path).exists():
        raise ValueError(f"--{name} is {path}, which is not there: {_wanted(part)}")
    try:
        tensors_of(Weights.of(Weights("", {part: path})), part)
    except ValueError as error:
        raise ValueError(f"--{name} {path} cannot be used ({error}): {_wanted(part)}") from None


def _wanted(part):
    return f"give the safetensors file with the distilled expert for the {'noisy' if part == 'transformer' else 'last'} steps"


def check_guidance(args, model):
    """Raises ValueError for guidance, steps or a shift of experts that ``model`` has not, or that its weights leave no choice of."""
    if len(model.family.facts.experts) == 1 and args["guidance_scale_2"] is not None:
        raise ValueError(
            f"--guidance_scale_2 is {args['guidance_scale_2']} and it is for models with two experts and {args['model']} has one: give "
            "--guidance_scale"
        )
    for name, why in _FIXED.items() if model.has_fixed_steps else ():
        own = getattr(model.default_input_values, name)
        if args[name] not in (None, own):
            raise ValueError(f"--{name} is {args[name]} and {why}: leave it out")
    first, second = (value_of(args, model, name) for name in ("guidance_scale", "guidance_scale_2"))
    if second is not None and first <= 1 < second:
        raise ValueError(
            f"--guidance_scale_2 is {second:g} and --guidance_scale is {first:g}, which is without guidance for both experts: leave "
            "--guidance_scale_2 out, or give a --guidance_scale above 1"
        )
