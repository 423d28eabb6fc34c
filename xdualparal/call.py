"""The arguments of diffusers' pipelines of Wan and SkyReels-V2 that a call with DualParal takes, and those that it refuses.

Knows: the names. Must not know: what they mean (request.py). tests/test_call.py holds them against diffusers' signatures.
"""

import difflib
import inspect

from .limits import check_whole

TAKEN = (
    "prompt", "negative_prompt", "height", "width", "num_frames", "num_inference_steps", "guidance_scale", "guidance_scale_2", "generator",
    "prompt_embeds", "negative_prompt_embeds", "output_type", "max_sequence_length",
)
OWN = ("image", "image_latents", "last_image", "last_image_latents", "image_embeds", "continue_latents", "continue_noise")  # that diffusers' text-to-video pipeline has not
# Accepted with a value that changes nothing: (those values, what to do instead of another one).
ONLY_AS = {
    "num_videos_per_prompt": ((None, 1), "give the prompt as often in a list, with a generator each"),
    "latents": ((None,), "noise is drawn block by block: give a generator; initial_noise() draws the same"),
    "return_dict": ((True,), "a tuple is returned by a call, pipeline(...), only: leave it out"),
    "attention_kwargs": ((None, {}), "the stages call their layers without any; scale a LoRA when it is loaded"),
    "callback_on_step_end": ((None,), "blocks are at different steps, on several ranks: iterate over stream() to see blocks as they come"),
    "callback_on_step_end_tensor_inputs": ((None, ["latents"]), "it is for callback_on_step_end, which is not supported"),
    # SkyReels-V2's
    "video": ((None,), "give its last latent frames as continue_latents; the command has --dualparal_continue_from FILE"),
    "overlap_history": ((None,), "a block sees context_latents of the one before: set them in the DualParalConfig"),
    "addnoise_condition": ((0,), "it is context_noise of the DualParalConfig"),
    "base_num_frames": ((None, 97), "a pass sees block_latents and context_latents: set them in the DualParalConfig"),
    "ar_step": ((0,), "it is the stagger of the DualParalConfig"),
    "causal_block_size": ((None, 1), "a causal mask is not supported; the size of a block is block_latents of the DualParalConfig"),
    "fps": ((24,), "it is given with the file that the frames go to, and 24 is what the model is told"),
}


def known_options(options):
    """``options`` of a call without those that change nothing. Raises ValueError for one that is not supported or not known."""
    for name, value in options.items():
        if name in ONLY_AS:
            allowed, instead = ONLY_AS[name]
            if not any(_is_same(value, one) for one in allowed):
                raise ValueError(f"{name} is {_shown(value)} and is not supported with DualParal: {instead}")
        elif name not in TAKEN + OWN:
            nearest = difflib.get_close_matches(str(name), TAKEN + OWN, 1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise ValueError(f"{name} is no argument of this call: {hint}it takes {', '.join(TAKEN + OWN)}")
    return {name: value for name, value in options.items() if name not in ONLY_AS}


def own_defaults(pipe):
    """{name: value} of the size, length, steps and guidance that the call of ``pipe``, a diffusers pipeline, has by default."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    return {name: parameters[name].default for name in ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")}


def check_stream_options(blocks_kept, file_spec):
    """Raises ValueError for ``blocks_kept`` that is no count, and ``file_spec`` that is no dict of what else decides a file."""
    check_whole("blocks_kept", blocks_kept, 0)
    if file_spec is not None and not (isinstance(file_spec, dict) and set(file_spec) <= {"quality", "fps", "appended_to"}):
        raise ValueError(f"file_spec is {_shown(file_spec)}: give a dict of quality and fps, or leave it out")


def _is_same(value, one):
    return value is one or (type(value) is type(one) and value == one)


def _shown(value):
    """Short, whatever it is: a tensor's text has lines."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"a {type(value).__name__}"
