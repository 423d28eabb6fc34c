"""What a device does in a second, as numbers with their sources, and the profiles of GPUs that people have.

Knows: rates. Must not know: plans, models, torch.

No rate of the GPUs below was measured by us: peaks are the makers', and what is reached of them is assumed, see _REACHED. The makers' documents could not
be read here: peaks were compared with copies of their tables elsewhere, or are from memory, as ``sources`` says. A profile that ``xdit-dualparal plan
--calibrate FILE`` measured on the machine at hand is better than any of them.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, replace

GB, TERA = 10**9, 10**12
LINK_S = 20e-6  # seconds of starting a message: a guess, of the order of a kernel's start and NCCL's latency
# Between machines: an adapter of 100 Gbit/s, and a round through it and a switch. Both are guesses, as makers of GPUs say nothing of the network: with
# --network_gbps it is what iperf3 or ib_write_bw measures.
NETWORK_PER_S, NETWORK_S = 100 * GB / 8, 50e-6


@dataclass(frozen=True)
class DeviceProfile:
    """Rates that are reached, not peaks.

    ``memory_bytes``: of the device. ``matrix_per_s``, ``attention_per_s``: operations a second of products with weights and of
    attention, in the numbers that the transformer has (bfloat16 on a GPU). ``float8_per_s``: of products in float8, None where there
    are none. ``decode_per_s``, ``decode_half_per_s``: of the VAE's convolutions in float32 (TF32 on an NVIDIA GPU) and in 16 bits.
    ``memory_per_s``: bytes a second that the elementwise parts of a layer read and write. ``link_per_s``: bytes a second from a device
    to another of the same machine, one way; ``links``: to how many others it can send that much at once, 1 where they share a way; ``link_s``: seconds that a
    message takes besides. ``network_per_s``: bytes a second that leave a machine for others, one way, of all its devices together; ``network_s``: seconds that such
    a message takes besides. ``host_per_s``: bytes a second between the host's
    memory and the device. ``layer_s``: seconds of a layer besides its work (starting its kernels, where that is not hidden).
    ``decodes_beside``: whether decoding in a thread takes no time from the passes. ``sources``: for people, one line each.
    """

    name: str
    memory_bytes: int
    matrix_per_s: float
    attention_per_s: float
    decode_per_s: float
    decode_half_per_s: float
    memory_per_s: float
    link_per_s: float
    host_per_s: float
    float8_per_s: float | None = None
    links: int = 1
    link_s: float = LINK_S
    network_per_s: float = NETWORK_PER_S
    network_s: float = NETWORK_S
    layer_s: float = 0.0
    decodes_beside: bool = False
    sources: tuple[str, ...] = ()

    def among(self, ranks):
        """Bytes a second that one of as many ranks sends to the others, all at the same time."""
        return self.link_per_s * max(1, min(self.links, ranks - 1))

    def with_network(self, gbps=None):
        """Itself, with a network of ``gbps`` gigabits a second where that is given, and what is said of it among the ``sources``."""
        known = self if gbps is None else replace(self, network_per_s=gbps * GB / 8)
        whose = "as given" if gbps is not None else "assumed, not measured (--network_gbps)" if self.network_per_s == NETWORK_PER_S else "of the profile"
        line = f"network: {known.network_per_s * 8 / GB:g} Gbit/s from a machine to the others, shared by its GPUs, {whose}; {self.network_s * 1e6:g} us a message, assumed"
        return replace(known, sources=(*self.sources, line))

    def as_json(self):
        """Plain values."""
        return asdict(self) | {"sources": list(self.sources)}


# Shares of a peak. Products: cuBLAS on large bfloat16 matrices. Attention: FlashAttention 2 on Ada and Ampere (Dao 2023, arXiv
# 2307.08691: 230 of an A100's 312 TFLOP/s), FlashAttention 3 on Hopper (Shah et al. 2024, arXiv 2407.08608: 648 of 989 at 16k tokens,
# head dimension 128). Consumer cards run above the clock of their data sheet: with 0.9 a 4090 makes 81 frames of Wan2.1-T2V-1.3B at 480p in the
# "about 4 minutes" that its authors publish (README of Wan-Video/Wan2.1; tests/plan/test_durations.py), and cuBLAS is said to reach 104 of a 5090's 104.8 in TF32. The VAE's convolutions: 0.4, a guess.
# Elementwise kernels and copies: 0.85 of the memory's and the link's rate.
_REACHED = {"consumer": (0.9, 0.9), "Ada": (0.75, 0.75), "A100": (0.8, 0.73), "Hopper": (0.7, 0.65), "CDNA 3": (0.5, 0.4)}
_CONVOLUTION, _COPY = 0.4, 0.85
# Bytes a second of a link, one way, by the makers' data sheets. Without peer-to-peer copies (GeForce) all goes
# through the host, one copy there and one back: half of it is assumed.
_PCIE4, _PCIE5 = 32 * GB, 64 * GB
# Of a MI300X to one of the 7 others: 64 GB/s, and 48 after the protocol's overhead (AMD in issue 1210 of ROCm/rccl); collectives of fewer than 8 use fewer links
# (its README).
_INFINITY_FABRIC = 48 * GB


def _gpu(name, kind, memory_mib, peaks, memory_per_s, link_per_s, host_per_s, source, links=1):
    """``memory_mib``: as nvidia-smi and rocm-smi show it. ``peaks``: TFLOP/s, dense: bfloat16 with float32 sums, the VAE's float32 convolutions (TF32; on a
    MI300X float32, as PyTorch on ROCm takes TF32 only for matrices and when HIPBLASLT_ALLOW_TF32 is set), float8 (or None)."""
    (half, single, float8), (matrix, attention) = (peak and peak * TERA for peak in peaks), _REACHED[kind]
    return DeviceProfile(
        name, memory_mib * 2**20, half * matrix, half * attention, single * _CONVOLUTION, half * _CONVOLUTION, memory_per_s * GB * _COPY,
        link_per_s * _COPY, host_per_s * _COPY, float8 and float8 * matrix, links,
        sources=(
            f"peaks of {name}: {peaks[0]:g} (bfloat16), {peaks[1]:g} (float32 convolutions), {peaks[2] or 'no'} (float8) TFLOP/s, {memory_per_s:g} GB/s memory, "
            f"{link_per_s / GB:g} GB/s a link: {source}",
            f"assumed: {matrix:.0%} of the peak in products, {attention:.0%} in attention, {_CONVOLUTION:.0%} in the VAE, {_COPY:.0%} of memory's and links' rates, {LINK_S * 1e6:g} us a message; not measured",
        ),
    )


_COPIES = "compared with copies of its tables"
_THROUGH_HOST = "half of its rate assumed, as messages go through the host"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix"
GPUS = {
    "rtx4090": _gpu("RTX 4090", "consumer", 24564, (165.2, 82.6, 330.3), 1008, _PCIE4 / 2, _PCIE4, f"{_ADA} A; PCIe 4.0 x16, {_THROUGH_HOST}; {_COPIES}"),
    "rtx5090": _gpu("RTX 5090", "consumer", 32607, (209.5, 104.8, 419), 1792, _PCIE5 / 2, _PCIE5, f"NVIDIA RTX Blackwell GPU architecture whitepaper, appendix A; PCIe 5.0 x16, {_THROUGH_HOST}; {_COPIES}"),
    "a100": _gpu("A100 80 GB SXM", "A100", 81920, (312, 156, None), 2039, 300 * GB, _PCIE4, f"NVIDIA A100 data sheet; NVLink 3; {_COPIES}"),
    "h100": _gpu("H100 SXM", "Hopper", 81559, (989.4, 494.7, 1978.9), 3350, 450 * GB, _PCIE5, f"NVIDIA H100 data sheet, without sparsity; NVLink 4; {_COPIES}"),
    "h200": _gpu("H200 SXM", "Hopper", 143771, (989.4, 494.7, 1978.9), 4800, 450 * GB, _PCIE5, f"NVIDIA H200 data sheet, without sparsity; NVLink 4; {_COPIES}"),
    "6000ada": _gpu("RTX 6000 Ada", "Ada", 49140, (364.2, 182.1, 728.5), 960, _PCIE4, _PCIE4, f"{_ADA} B; PCIe 4.0 x16; {_COPIES}"),
    "l40s": _gpu("L40S", "Ada", 46068, (362.1, 183.2, 733), 864, _PCIE4, _PCIE4, f"NVIDIA L40S data sheet, without sparsity; PCIe 4.0 x16; {_COPIES}"),
    "mi300x": _gpu("MI300X", "CDNA 3", 196592, (1307.4, 163.4, 2614.9), 5300, _INFINITY_FABRIC, _PCIE5, "AMD Instinct MI300X data sheet, float32 without TF32; Infinity Fabric, 48 of 64 GB/s after overheads, 7 links to as many others; from memory", links=7),
}
_MOST = 1e300  # that a rate may be
_RATES = [field.name for field in fields(DeviceProfile) if field.type in (int, float) or field.name == "float8_per_s"]


def device_named(text):
    """The DeviceProfile of a GPU in GPUS, or of a file that --calibrate wrote. Raises ValueError where there is neither."""
    known = text.lower().replace("_", "").replace(" ", "").replace("-", "")
    return GPUS[known] if known in GPUS else read_profile(text)


def read_profile(path):
    """The DeviceProfile in a JSON file. Raises ValueError, one line, for a file that is none."""
    try:
        with open(path, "rb") as file:
            values = json.load(file)
        profile = DeviceProfile(**values)
        profile = replace(profile, sources=tuple(map(str, profile.sources)))
    except OSError as error:
        raise ValueError(f"--gpu is {path!r} ({error.strerror}): give one of {', '.join(GPUS)}, or a file that --calibrate wrote") from None
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"--gpu {path} is no profile: give one of {', '.join(GPUS)}, or a file that --calibrate wrote") from None
    for name in _RATES:
        _check_rate(path, name, getattr(profile, name))
    if not isinstance(profile.decodes_beside, bool):
        raise ValueError(f"--gpu {path} has decodes_beside {profile.decodes_beside!r}: give true or false")
    return profile


def _check_rate(path, name, value):
    if value is None and name == "float8_per_s":
        return
    may_be_nothing = name in ("link_s", "network_s", "layer_s")
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and -math.inf < value < _MOST
    if not is_number or value < 0 or (value == 0 and not may_be_nothing):
        raise ValueError(f"--gpu {path} has {name} {value!r}: give a number {'of 0 or more' if may_be_nothing else 'above 0'}")
