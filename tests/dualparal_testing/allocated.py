"""What torch's allocator gives on the CPU."""

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


class Allocated:
    """A context. Memory from before counts only where it was made in another one. After it: ``peak``, the most bytes of tensors at once that were made within it, ``kept``, those that are left,
    both less those from before that were freed."""

    def __enter__(self):
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error):
        self._profile.__exit__(*error)
        self.peak = self.kept = 0
        roots = self._profile.profiler.kineto_results.experimental_event_tree()
        for _, size in sorted(event for root in roots for event in _allocations(root)):
            self.kept += size
            self.peak = max(self.peak, self.kept)


def _allocations(event):
    """(time, bytes) of ``event`` and what is in it; negative bytes are freed."""
    kind, extra = event.typed
    if kind == _EventType.Allocation:
        yield event.start_time_ns, extra.alloc_size
    for child in event.children:
        yield from _allocations(child)
