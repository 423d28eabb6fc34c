"""Decoding piece by piece is decoding at once."""

import pytest
import torch
from dualparal_testing.small_wan import small_pipeline

from xdualparal.decode import StreamingDecoder, decode_at_once, unnormalised


@pytest.mark.parametrize("pieces", [[7], [3, 2, 2], [1] * 7])
def test_same_frames_to_the_bit(pieces):
    pipeline, latents = small_pipeline(), torch.randn(1, 16, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    vae = pipeline.vae
    whole = decode_at_once(vae, latents)
    decoder = StreamingDecoder(vae)
    parts = [decoder.decode(piece) for piece in latents.split(pieces, dim=2)]
    decoder.close()
    assert [part.shape[2] for part in parts] == [4 * n - 3 * (k == 0) for k, n in enumerate(pieces)]
    assert torch.equal(torch.cat(parts, dim=2), whole)
    assert all(kept is None for kept in vae._feat_map)


def test_latents_are_unnormalised_as_in_the_ordinary_pipeline():
    vae = small_pipeline().vae
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    latents = torch.randn(1, 16, 2, 4, 4)
    assert torch.allclose(unnormalised(vae, latents), latents * std + mean, atol=1e-6)
