"""Which machine a bench ran on.

Knows: where Linux and NVIDIA's driver say it. Must not know: what was measured. Imports nothing heavy.
"""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("xdualparal", "torch", "xfuser", "diffusers")


def machine():
    """A dict: processor, cores that this process may use, memory in bytes, accelerators, system, versions."""
    return dict(
        processor=_processor(), cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        memory_bytes=_memory(), accelerators=_accelerators(), system=platform.platform(), python=platform.python_version(),
        versions={name: _version(name) for name in _PACKAGES},
    )


def machine_line(known):
    """``known``, what ``machine`` gave, as a line."""
    devices = ", ".join(known["accelerators"]) or "no accelerator"
    memory = f", {known['memory_bytes'] / 1e9:.0f} GB" if known["memory_bytes"] else ""
    return f"{known['processor']}, {known['cores']} cores{memory}, {devices}; torch {known['versions']['torch']}, {known['system']}"


def _processor():
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory():
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _accelerators():
    """The names of NVIDIA's or AMD's devices, as their drivers' programs give them; [] where there is none."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip().splitlines()
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["rocm-smi", "--showproductname", "--csv"], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip().splitlines()[1:]
    return []


def _version(name):
    with suppress(PackageNotFoundError):
        return version(name)
