"""The numbers among xDiT's flags, each with its rule.

Knows: the flags' names. Must not know: the rules' reasons (limits.py).
"""

from .. import limits
from .degrees import DEGREES
from .flags import value_of

RULES = {
    "height": limits.SIDE, "width": limits.SIDE, "num_frames": limits.FRAMES, "num_inference_steps": limits.STEPS,
    "guidance_scale": limits.GUIDANCE, "guidance_scale_2": limits.GUIDANCE, "flow_shift": limits.SHIFT, "seed": limits.SEED,
    "max_sequence_length": limits.TEXT_TOKENS, "batch_size": limits.BATCH, "num_iterations": limits.REPEATS,
    "warmup_calls": limits.WARM_UPS, "profile_wait": limits.WARM_UPS, "profile_warmup": limits.WARM_UPS,
    "profile_active": limits.REPEATS,
}


def check_numbers(args, model):
    """Raises ValueError for a number that means nothing. Where a flag is not given the model's own value counts."""
    for name, rule in RULES.items():
        value = value_of(args, model, name)
        if value is not None:
            rule.of(f"--{name}", value)


def check_degrees(args):
    """Raises ValueError for a degree of 0 or less."""
    for name in (*DEGREES[1:], "text_encoder_tp_degree", "fully_shard_degree"):  # the first has the layers as its limit
        if args.get(name) is not None:
            limits.DEGREE.of(f"--{name}", args[name])
