"""What is on the device when; parts write down where they are moved."""

from types import SimpleNamespace

import pytest
import torch

from xdualparal.engine.placement import encoder_alone, place, place_transformers

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
    """(a pipeline of Parts, with two experts, their log)."""
    log = []
    names = ("transformer", "transformer_2", "vae", "text_encoder")
    pipe = SimpleNamespace(**{name: Part(name, log) for name in names})
    pipe.text_encoder = pipe.text_encoder if with_text_encoder else None
    return pipe, log


def places(pipe):
    """Where the text encoder and the two transformers are."""
    return pipe.text_encoder.at, pipe.transformer.at, pipe.transformer_2.at


def test_the_text_encoder_is_alone_on_an_accelerator_and_only_while_it_encodes():
    """For two videos; the VAE is decoded with here, too."""
    pipe, log = parts()
    place(pipe, GPU, shares_device=True, decodes=True)
    assert places(pipe) == (HOST, HOST, HOST) and pipe.vae.at == GPU
    for _ in range(2):
        log.clear()
        with encoder_alone(pipe, GPU):
            assert places(pipe) == (GPU, HOST, HOST)
        assert places(pipe) == (HOST, HOST, HOST)
        assert log == ["transformer to cpu", "transformer_2 to cpu", "text_encoder to cuda", "text_encoder to cpu"]
        place_transformers(pipe, GPU)
        assert places(pipe) == (HOST, GPU, GPU)


def test_it_goes_when_encoding_fails():
    pipe, _ = parts()
    with pytest.raises(MemoryError), encoder_alone(pipe, GPU):
        raise MemoryError
    assert pipe.text_encoder.at == HOST


@pytest.mark.parametrize("device", [GPU, HOST])
@pytest.mark.parametrize("with_text_encoder", [True, False])
def test_else_the_transformer_is_placed_at_once(device, with_text_encoder):
    """On other ranks, with embeddings from elsewhere, with an encoder that stays on the host, and on a CPU."""
    pipe, log = parts(with_text_encoder)
    place(pipe, device, shares_device=False, decodes=False)
    where = [f"transformer to {device.type}", f"transformer_2 to {device.type}"]
    assert log == where + ["text_encoder to cpu"] * with_text_encoder
