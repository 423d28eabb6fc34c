"""Which of xDiT's attention backends DualParal can use.

Knows: backends by name. Must not know: how any of them computes.

Self-attention sees the window's keys and the next block's context, so there are more keys than queries, and the
added ones have no place in a (frames, rows, columns) layout.
"""

# Parts of the names of xDiT 0.7.0's backends (xfuser/core/distributed/attention_backend.py) that choose blocks of keys
# by that layout: sparse, sparge and VSA ones.
_NEED_A_LAYOUT = ("SPARGE", "SPARSE", "VSA", "FLEX_BLOCK")
# Those with a kernel for the CPU; SDPA_FLASH by the host platform.
_ON_THE_CPU = ("SDPA", "SDPA_MATH", "SDPA_FLASH")


def same_backend(name, on_cpu):
    """The name by which what computes is compared: on the CPU, SDPA and SDPA_FLASH are one kernel, which ring attention asks
    for by the second name."""
    return "SDPA" if on_cpu and name.upper() == "SDPA_FLASH" else name.upper()


def backends_in_use(on_cpu):
    """{"attention_backend", "cross_attention_backend": names} of what xDiT computes with here, once it has started."""
    from xfuser.core.distributed import get_runtime_state

    state = get_runtime_state()
    cross = state.cross_attention_backend or state.attention_backend
    backends = dict(attention_backend=state.attention_backend, cross_attention_backend=cross)
    return {name: same_backend(backend.name, on_cpu) for name, backend in backends.items()}


def check_backend(name, on_cpu):
    """Raises ValueError, with the reason, when DualParal cannot use the backend ``name`` (None: xDiT's choice)."""
    if name is None:
        return
    if any(part in name.upper() for part in _NEED_A_LAYOUT):
        raise ValueError(
            f"attention backend {name} picks keys by their place in the window, and DualParal adds keys of the next "
            "block, which have none there: give a dense backend, for example SDPA"
        )
    if on_cpu and name.upper() not in _ON_THE_CPU:
        raise ValueError(f"attention backend {name} has no kernel for the CPU: give one of {', '.join(_ON_THE_CPU)}")
