"""DualParal (arXiv 2505.21070): long Wan videos, pipelined over GPUs in constant memory. See docs/methods/dualparal.md."""

from importlib import import_module

_HOME = {
    "DualParalConfig": "config",
    "DualParalPipeline": "pipeline",
    "build_schedule": "schedule",
    "initial_noise": "noise",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
