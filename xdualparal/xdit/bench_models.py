"""Which strategies of a bench cannot run a model.

Knows: which models there are, and that a strategy says itself what it cannot plan. Must not know: how a bench is run.
"""

from xfuser.model_executor.models.runner_models.base_model import MODEL_REGISTRY

from ..bench.flags import XDIT
from ..config import DualParalConfig
from ..plan.schedule import NO_DECODE
from ..strategies.base import Lanes
from ..strategies.table import STRATEGIES
from .registry import model_class

_LATENT_FRAMES, _STEPS = 65, 50  # of a plan that says whether there can be one, at any length


def unsuited_for(name):
    """{strategy: why it cannot run the model ``name``}, in the order of a bench. Raises ValueError for a model without DualParal."""
    experts = len(model_class(name, 1).family.facts.experts)
    reasons = {strategy: reason for strategy in STRATEGIES if (reason := _reason(strategy, name, experts))}
    if name not in MODEL_REGISTRY:
        reasons[XDIT] = f"model {name} runs with DualParal only"
    return reasons


def _reason(strategy, name, experts):
    chosen = STRATEGIES[strategy]
    settings = chosen.settled(DualParalConfig(strategy=strategy), 1)
    try:
        chosen.plan(settings, _LATENT_FRAMES, _STEPS, Lanes(1, NO_DECODE, split_guidance=False), (0,) * experts)
    except ValueError as error:
        return f"model {name} cannot ({error})"
