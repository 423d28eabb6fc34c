"""Whether the VAE can decode in the tiles that are asked for, judged by its configuration.

Knows: xDiT's flags of tiles, and the functions of distvae by which xDiT sets them. Must not know: how a tile is decoded.
"""

import torch
from diffusers import AutoencoderKLWan
from distvae.vae import tiling

from ..models.weights import read_configs
from .flags import value_of

_SIZE, _OVERLAP = (tuple(f"vae_tile_{kind}_{side}" for side in ("height", "width")) for kind in ("size", "overlap"))


def check_tiles(args, model):
    """Raises ValueError for tiles, or overlaps of tiles, that xDiT could not set exactly once the VAE is loaded."""
    size, overlap = ([args[name] for name in names] for names in (_SIZE, _OVERLAP))
    if not args["enable_tiling"] or None in size and None in overlap:
        return
    vae = _empty_vae(model)
    vae.enable_tiling()
    if None not in size:
        _apply(vae, tiling.tile_shape_plan(vae, *size), _SIZE, size)
    if None not in overlap:
        frame = value_of(args, model, "height"), value_of(args, model, "width")
        _apply(vae, tiling.tile_overlap_plan(vae, *overlap, sample_shape=frame), _OVERLAP, overlap)


def _apply(vae, plan, names, values):
    if plan is None:
        height, width = tiling.tile_shape(vae)
        given = ", ".join(f"--{name} {value}" for name, value in zip(names, values))
        raise ValueError(
            f"{given}: the VAE cannot cut its latents so (its tiles are {height} x {width} pixels, a latent is "
            f"{vae.config.scale_factor_spatial}): give multiples of {vae.config.scale_factor_spatial}, an overlap less than the tile"
        )
    tiling.apply_tile_plan(vae, plan)


def _empty_vae(model):
    """Without weights. Where the model's folder is not here, Wan2.1's, which is diffusers' default."""
    try:
        *_, config = read_configs(model.settings.model_name)
    except OSError:
        config = {}
    with torch.device("meta"):
        return AutoencoderKLWan.from_config(config)
