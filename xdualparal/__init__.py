"""xdualparal: DualParal (arXiv 2505.21070) for xDiT. Long Wan videos, pipelined over GPUs in constant memory.

Importing this package loads nothing heavy: each public name imports its module when it is first used, so
``enable_host_platform`` can run before ``xfuser`` is imported.
"""

from importlib import import_module

_HOME = {
    "DualParalConfig": "config",
    "DualParalPipeline": "pipeline",
    "build_schedule": "strategies.dualparal",
    "enable_host_platform": "compat.host",
    "initial_noise": "engine.noise",
}
__all__ = sorted(_HOME)


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return __all__
