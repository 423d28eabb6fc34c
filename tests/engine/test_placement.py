"""What is on the device when; parts write down where they are moved."""

from types import SimpleNamespace

import pytest
import torch

from xdualparal.engine.placement import encoding, place, ready_for_passes

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")


class Part:
    """Remembers where it is, in a log that all share."""

    def __init__(self, name, log):
        self._name, self._log, self.at = name, log, HOST

    def to(self, device):
        """Is moved."""
        self.at = device
        self._log.append(f"{self._name} to {device.type}")


def parts(with_text_encoder=True):
    """(a pipeline of Parts, their log)."""
    log = []
    pipe = SimpleNamespace(transformer=Part("transformer", log), transformer_2=None, vae=Part("vae", log), text_encoder=Part("text", log))
    pipe.text_encoder = pipe.text_encoder if with_text_encoder else None
    return pipe, log


def test_the_text_encoder_is_alone_on_an_accelerator_and_only_while_it_encodes():
    """For two videos; the VAE is decoded with here, too."""
    pipe, log = parts()
    place(pipe, GPU, encodes=True, decodes=True)
    assert (pipe.text_encoder.at, pipe.transformer.at, pipe.vae.at) == (HOST, HOST, GPU)
    for _ in range(2):
        with encoding(pipe, GPU):
            assert (pipe.text_encoder.at, pipe.transformer.at) == (GPU, HOST)
        assert pipe.text_encoder.at == HOST
        ready_for_passes(pipe, GPU)
        assert (pipe.text_encoder.at, pipe.transformer.at) == (HOST, GPU)
    both = [n for n, line in enumerate(log) if line == "text to cuda" and log[n - 1] != "transformer to cpu"]
    assert both == []  # the transformer goes first


def test_it_goes_when_encoding_fails():
    pipe, _ = parts()
    with pytest.raises(MemoryError), encoding(pipe, GPU):
        raise MemoryError
    assert pipe.text_encoder.at == HOST


@pytest.mark.parametrize("device, encodes, with_text_encoder", [(GPU, False, True), (GPU, True, False), (HOST, True, True)])
def test_else_the_transformer_is_placed_at_once_and_stays(device, encodes, with_text_encoder):
    """On other ranks, with embeddings from elsewhere, and on a CPU."""
    pipe, log = parts(with_text_encoder)
    place(pipe, device, encodes, decodes=False)
    assert log == [f"transformer to {device.type}"]
    if encodes:
        with encoding(pipe, device):
            pass
        assert log == [f"transformer to {device.type}"]
