"""The models that DualParal runs, by xDiT's names and their own.

Knows: names. Must not know: what the models do.
"""

from .demo_model import TinyWanModel
from .models import DualParalWanModel, Wan21T2VSmallModel

DUALPARAL_MODELS = {
    "tiny-wan": TinyWanModel,
    "Wan2.1-T2V-1.3B": Wan21T2VSmallModel,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Wan21T2VSmallModel,
    "Wan2.1-T2V": DualParalWanModel,
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": DualParalWanModel,
}
