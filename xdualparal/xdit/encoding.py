"""A command's prompts as embeddings, before its transformer is loaded.

Knows: which prompts a replica makes videos of. Must not know: how a prompt is encoded (texts.py), or how a video is made.
"""

from xfuser.core.utils.runner_utils import log

from ..engine.placement import HOST
from ..models.weights import load_text_pipeline
from ..request import MAX_SEQUENCE_LENGTH, branches_of, texts_of
from ..text_settings import CPU
from ..texts import encode_beforehand, place_in_spec


def encode_prompts(args, replica, family, weights, dtype, place):
    """EncodedTexts of what this rank's ``replica`` needs; UMT5 was never together with a transformer, on a device or a host.

    ``args``: the runner's, with prompts that know their negative prompt. ``weights``: see models.weights.load_stage. ``place``: see
    text_settings. Raises ValueError on all ranks where the text encoder cannot be loaded.
    """
    log("encoding the prompts")
    device = HOST if place == CPU else replica.device
    return encode_beforehand(
        lambda: load_text_pipeline(family, weights, dtype, device), texts_needed(args, replica.number, replica.count),
        args.get("max_sequence_length") or MAX_SEQUENCE_LENGTH, replica, place_in_spec(replica.device, place),
    )


def texts_needed(args, number, count):
    """The texts of replica ``number`` of ``count``, each once. The prompts go round the replicas, as xDiT's
    ``_split_prompts_for_dp`` deals them."""
    branches = branches_of(args["guidance_scale"])
    return list(dict.fromkeys(
        str(text) for prompt in args["prompt"][number::count]
        for text in texts_of(prompt, prompt.negative_prompt, branches).values()
    ))
