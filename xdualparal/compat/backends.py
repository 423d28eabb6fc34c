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


def backend_name():
    """The name of the backend that xDiT computes self-attention with, once it has started."""
    from xfuser.core.distributed import get_runtime_state

    return get_runtime_state().attention_backend.name


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


# Backends of xDiT 0.7.0 whose functions return the log-sum-exp of the logits beside the output, (batch, heads, queries).
_GIVE_LOG_SUM_EXP = ("SDPA_FLASH", "SDPA_EFFICIENT", "CUDNN", "FLASH", "FLASH_3", "FLASH_4")


def check_log_sum_exp(name):
    """Raises ValueError unless the backend ``name`` gives the log-sum-exp, by which attention over several sets of keys is merged."""
    if name.upper() not in _GIVE_LOG_SUM_EXP:
        raise ValueError(
            f"attention backend {name} gives no log-sum-exp, by which video_infinity merges what a clip sees: give one of "
            f"{', '.join(_GIVE_LOG_SUM_EXP)}"
        )
