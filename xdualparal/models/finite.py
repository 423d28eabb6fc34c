"""Finds NaNs and infinities.

Knows: tensors and modules. Must not know: models, files, who asks.
"""

import torch

_PIECE = 1 << 22  # numbers; 16 MiB as float32


def is_finite(tensor):
    """Whether ``tensor`` has neither a NaN nor an infinity. It takes little memory, whatever the tensor's size."""
    if not tensor.is_floating_point():
        return True
    return all(_piece_is_finite(piece) for piece in tensor.detach().flatten().split(_PIECE))


def _piece_is_finite(piece):
    if piece.element_size() == 1:
        piece = piece.float()  # torch cannot compare float8
    # A NaN is the least and the greatest number to aminmax, and it makes no tensor of booleans.
    return piece.numel() == 0 or bool(torch.stack(piece.aminmax()).isfinite().all())


def not_finite(module):
    """The name of the first weight or buffer of ``module`` that is not finite, or None. Weights that are not there are left
    out."""
    return next((name for name, tensor in module.state_dict().items() if not tensor.is_meta and not is_finite(tensor)), None)


def refusal(part, name, where=""):
    """The ValueError for the weight ``name`` of ``part``; ``where``: the file or folder that it is from."""
    return ValueError(
        f"the weight {name} of the {part}{where and f' in {where}'} has a NaN or an infinity, of which only broken videos come: "
        "give weights without, for example a new download"
    )
