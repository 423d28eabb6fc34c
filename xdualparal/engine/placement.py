"""What of a pipeline is on a rank's device, and when.

Knows: a pipeline's parts. Must not know: what they compute, stages, files.
"""

from contextlib import contextmanager

import torch

HOST = torch.device("cpu")


def place(pipe, device, shares_device, decodes):
    """Moves what this rank uses to ``device``: the VAE where it ``decodes``, and the transformers, which wait on the host where
    they share the device with the text encoder, until ``place_transformers``. The text encoder is on the host."""
    place_transformers(pipe, HOST if shares_device else device)
    if pipe.text_encoder is not None:
        pipe.text_encoder.to(HOST)
    if pipe.vae is not None and decodes:
        pipe.vae.to(device)


@contextmanager
def encoder_alone(pipe, device):
    """While active, the text encoder is on ``device`` and the transformers are not; they are to be placed again after it.

    Wan's, UMT5, has 11.4 GB in bfloat16: no card of 24 GB holds it beside half of a 14B transformer. It costs copies both ways
    for each video: for those and 14 GB about 10 s, once, at 5 GB/s (arithmetic, not measured).
    """
    place_transformers(pipe, HOST)
    pipe.text_encoder.to(device)
    try:
        yield
    finally:
        pipe.text_encoder.to(HOST)
        give_memory_back()


def place_transformers(pipe, device):
    """Moves the transformers to ``device``."""
    for part in (pipe.transformer, getattr(pipe, "transformer_2", None)):
        if part is not None:
            part.to(device)


def give_memory_back():
    """To the device, from torch: what comes next has other sizes, and another process may be on it."""
    if torch.accelerator.is_available() and hasattr(torch.accelerator, "empty_cache"):  # torch 2.9 has it
        torch.accelerator.empty_cache()
