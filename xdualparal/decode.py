"""Latents to frames, block after block.

Knows: Wan's causal VAE and what it remembers from one latent frame to the next. Must not know: blocks in
flight, files, processes.
"""

import torch


class StreamingDecoder:
    """Decodes a video's latents piece by piece, to the same frames as decoding them at once.

    The VAE is causal and keeps what it needs of earlier frames in ``_feat_map``; ``AutoencoderKLWan.decode``
    clears it at both ends (diffusers 0.42.1, autoencoder_kl_wan.py), this keeps it between pieces.
    """

    def __init__(self, vae):
        self._vae = vae
        self._is_first = True
        vae.clear_cache()

    @torch.no_grad()
    def decode(self, latents):
        """The frames of the next latent frames.

        ``latents``: (1, channels, latent frames, height, width), as the transformer leaves them. Returns
        (1, 3, frames, height, width) in -1..1, the VAE's dtype: 1 frame for the video's first latent frame, 4 for
        each other one.
        """
        latents = self._vae.post_quant_conv(unnormalised(self._vae, latents))
        frames = torch.cat([self._decode_one(latents[:, :, n:n + 1]) for n in range(latents.shape[2])], dim=2)
        if self._vae.config.patch_size is not None:
            from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

            frames = unpatchify(frames, patch_size=self._vae.config.patch_size)
        return frames.clamp(-1.0, 1.0)

    def _decode_one(self, latent):
        options = {"first_chunk": True} if self._is_first else {}
        self._is_first = False
        return self._vae.decoder(latent, feat_cache=self._vae._feat_map, feat_idx=[0], **options)

    def close(self):
        """Drops what the VAE remembers."""
        self._vae.clear_cache()


def unnormalised(vae, latents):
    """Latents as the transformer leaves them, (1, channels, frames, height, width), to what ``vae`` decodes."""
    latents = latents.to(vae.device, vae.dtype)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1).to(latents)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return latents / (1.0 / std) + mean  # in the ordinary pipeline's form, to the bit


@torch.no_grad()
def decode_at_once(vae, latents):
    """All frames of a video's latents, as StreamingDecoder.decode, through ``vae.decode``, which tiling, slicing and
    xDiT's parallel VAE change; its memory grows with the video's length."""
    return vae.decode(unnormalised(vae, latents), return_dict=False)[0]
