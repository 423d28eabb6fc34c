"""What of a pipeline is on a rank's device, and when.

Knows: a pipeline's parts. Must not know: what they compute, stages, files.
"""

from contextlib import contextmanager

import torch

HOST = torch.device("cpu")


def place(pipe, device, encodes, decodes):
    """Moves what this rank uses to ``device``: the VAE where it ``decodes``, and the transformer, on a rank that ``encodes``
    prompts on an accelerator only for its first run (see ``ready_for_passes``); there the text encoder waits on the host."""
    if encodes and _shares(pipe, device):
        pipe.text_encoder.to(HOST)
    else:
        _move_experts(pipe, device)
    if pipe.vae is not None and decodes:
        pipe.vae.to(device)


@contextmanager
def encoding(pipe, device):
    """While active, the text encoder is on ``device``, and on an accelerator the transformer is not.

    Wan's, UMT5, has 11.4 GB in bfloat16: no card of 24 GB holds it beside half of a 14B transformer. It costs copies both ways
    for each video: for those and 14 GB about 10 s, once, at 5 GB/s (arithmetic, not measured).
    """
    if not _shares(pipe, device):
        yield
        return
    _move_experts(pipe, HOST)
    pipe.text_encoder.to(device)
    try:
        yield
    finally:
        pipe.text_encoder.to(HOST)
        _give_memory_back()


def ready_for_passes(pipe, device):
    """Moves the transformer to ``device``, from where ``place`` or ``encoding`` have left it."""
    _move_experts(pipe, device)


def _move_experts(pipe, device):
    for expert in filter(None, (pipe.transformer, pipe.transformer_2)):
        expert.to(device)


def _shares(pipe, device):
    return device.type != "cpu" and pipe.text_encoder is not None


def _give_memory_back():
    """To the device, from torch: what comes next has other sizes, and another process may be on it."""
    if torch.accelerator.is_available() and hasattr(torch.accelerator, "empty_cache"):  # torch 2.9 has it
        torch.accelerator.empty_cache()
