"""What xfuser 0.7.0 has not and patches/ brings, added from outside, so that all other modules are written for an xfuser
that has it.

Knows: xfuser's classes, before and after the patches. Must not know: DualParal. The CPU platform, which must be there
before xfuser is imported, is compat/host.py's.
"""

import inspect
import os
from dataclasses import fields

import torch.distributed as dist

WORKAROUNDS = "XDUALPARAL_WORKAROUNDS"  # in the environment: "off" makes a workaround that is needed an error


CACHE_TYPES, EDGE_GROUPS = "cache types of other packages", "a process group for each pipeline edge"
MODEL_PATH = "--model_path"

worked_around = []  # what the installed xfuser was found to lack, so far


def must_work_around(what, is_there):
    """Whether xfuser lacks ``what``. Raises RuntimeError where it does and workarounds are off, as some tests want."""
    if not is_there:
        worked_around.append(what)
    if not is_there and os.environ.get(WORKAROUNDS) == "off":
        raise RuntimeError(f"this xfuser lacks {what} (patches/README.md) and {WORKAROUNDS} is off")
    return not is_there


def complete_xfuser():
    """Adds what is missing. A second time it does nothing."""
    from xfuser.core.cache_manager import cache_manager
    from xfuser.core.distributed import group_coordinator

    if must_work_around(CACHE_TYPES, has_cache_types(cache_manager)):
        cache_manager.get_cache_manager().__class__ = _open_cache_manager(cache_manager)
    if must_work_around(EDGE_GROUPS, has_edge_groups(group_coordinator)):
        group_coordinator.make_edge_groups = _make_edge_groups


def add_missing_flags(parser, xfuser_args):
    """Adds to ``parser``, which has the flags of the class ``xfuser_args``, xFuserArgs, those of the patches."""
    if must_work_around(MODEL_PATH, has_model_path(xfuser_args)):
        parser.add_argument(
            "--model_path", help="folder of the model's weights, in its hub repository's layout (default: from the hub)"
        )


def has_model_path(xfuser_args):
    """Whether xfuser has a flag for weights in a folder."""
    return "model_path" in {field.name for field in fields(xfuser_args)}


def has_cache_types(cache_manager):
    """Whether xfuser's cache manager takes cache types of other packages."""
    return hasattr(cache_manager.get_cache_manager(), "register_cache_type")


def has_edge_groups(group_coordinator):
    """Whether xfuser makes process groups for directed edges, each with options of its own."""
    make = getattr(group_coordinator, "make_edge_groups", None)
    return make is not None and "make_pg_options" in inspect.signature(make).parameters


def _open_cache_manager(module):
    class OpenCacheManager(module.CacheManager):
        """xfuser's cache manager, open for other packages as in patches/0003."""

        def register_cache_type(self, cache_type, update):
            """``update``: see patches/0003. Raises ValueError for a name that is taken."""
            updates = self.__dict__.setdefault("_registered_updates", {})
            if cache_type in [*self.supported_cache_type, *updates]:
                raise ValueError(f"Cache type: {cache_type} is registered already.")
            updates[cache_type] = update

        def unregister_cache_type(self, cache_type):
            """Forgets the type and its entries."""
            del self._registered_updates[cache_type]
            self.cache = {key: entry for key, entry in self.cache.items() if entry.cache_type != cache_type}

        def register_cache_entry(self, layer, layer_type, cache_type="naive_cache"):
            """xfuser's, for registered types too."""
            if cache_type not in self.__dict__.get("_registered_updates", {}):
                return super().register_cache_entry(layer, layer_type, cache_type)
            self.cache[layer_type, layer] = module.CacheEntry(cache_type)

        def update_and_get_kv_cache(self, new_kv, layer, slice_dim=1, layer_type="attn", custom_get_kv=None, **kwargs):
            """xfuser's, for registered types too."""
            entry = self.cache.get((layer_type, layer))
            if custom_get_kv is None and entry is not None and entry.cache_type in self.__dict__.get("_registered_updates", {}):
                update = self._registered_updates[entry.cache_type]
                return update(new_kv, layer=layer, slice_dim=slice_dim, layer_type=layer_type, **kwargs)
            return super().update_and_get_kv_cache(new_kv, layer, slice_dim, layer_type, custom_get_kv, **kwargs)

    return OpenCacheManager


def _make_edge_groups(group_ranks, torch_distributed_backend, timeout=None, make_pg_options=None):
    """A process group for each directed edge of each ring of ranks, {(from, to): group}. Every process must call it."""
    edges = [(a, b) for ranks in group_ranks if len(ranks) > 1 for a, b in zip(ranks, ranks[1:] + ranks[:1])]
    return {
        edge: dist.new_group(
            list(edge), timeout=timeout, backend=torch_distributed_backend, pg_options=make_pg_options and make_pg_options()
        )
        for edge in edges
    }
