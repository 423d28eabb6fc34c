"""Profiles of devices: those that come along, and files."""

import json
from dataclasses import fields, replace

import pytest

from xdualparal.plan.device import GPUS, DeviceProfile, device_named


def test_gpus_have_rates_and_say_where_they_are_from():
    for name, gpu in GPUS.items():
        assert device_named(name) is gpu and len(gpu.sources) == 2
        assert gpu.matrix_per_s > gpu.decode_half_per_s > gpu.decode_per_s > gpu.memory_per_s > gpu.among(8) > 0
    assert device_named("RTX 4090") is device_named("rtx_4090") is GPUS["rtx4090"]


def test_rates_by_the_makers():
    """TF32 has half the rate of bfloat16, but PyTorch on ROCm has none for convolutions: float32, an eighth."""
    for name, gpu in GPUS.items():
        assert gpu.decode_half_per_s / gpu.decode_per_s == pytest.approx(8 if name == "mi300x" else 2, rel=0.02)
    assert all("half of its rate assumed" in GPUS[name].sources[0] for name in ("rtx4090", "rtx5090"))
    assert all("20 us a message; not measured" in gpu.sources[1] for gpu in GPUS.values())
    assert all(("from memory" if name == "mi300x" else "compared with copies of its tables") in gpu.sources[0] for name, gpu in GPUS.items())


def test_links_that_are_used_at_once():
    """Each pair of MI300X has a link of its own; others share theirs."""
    one = GPUS["mi300x"].link_per_s
    assert [GPUS["mi300x"].among(ranks) for ranks in (1, 2, 3, 8, 16)] == [one, one, 2 * one, 7 * one, 7 * one]
    assert GPUS["h100"].among(8) == GPUS["h100"].link_per_s


def test_a_network_is_given_of_the_profile_or_assumed():
    profile = GPUS["h100"]
    assert "network: 100 Gbit/s from a machine to the others, shared by its GPUs, assumed, not measured" in profile.with_network().sources[-1]
    assert profile.with_network().network_per_s == 12.5e9 and profile.with_network(8).network_per_s == 1e9
    assert "8 Gbit/s" in profile.with_network(8).sources[-1] and "as given" in profile.with_network(8).sources[-1]
    assert "of the profile" in replace(profile, network_per_s=1e9).with_network().sources[-1]


def test_a_file_of_before_has_the_network_that_is_assumed(tmp_path):
    path, values = tmp_path / "here.json", GPUS["h100"].as_json()
    path.write_text(json.dumps({name: value for name, value in values.items() if not name.startswith("network")}))
    assert device_named(str(path)) == GPUS["h100"]


def test_a_file_gives_what_was_written(tmp_path):
    path = tmp_path / "here.json"
    path.write_text(json.dumps(GPUS["h100"].as_json()))
    assert device_named(str(path)) == GPUS["h100"]


@pytest.mark.parametrize("change, message", [
    (dict(matrix_per_s=0), "has matrix_per_s 0: give a number above 0"),
    (dict(memory_per_s=float("nan")), "has memory_per_s nan"),
    (dict(links=0), "has links 0: give a number above 0"),
    (dict(network_per_s=0), "has network_per_s 0: give a number above 0"),
    (dict(link_s=-1), "has link_s -1: give a number of 0 or more"),
    (dict(host_per_s="fast"), "has host_per_s 'fast'"),
    (dict(memory_bytes=None), "has memory_bytes None"),
    (dict(link_per_s=10**400), "has link_per_s 1000"),
    (dict(decodes_beside="no"), "has decodes_beside 'no': give true or false"),
    (dict(sources=5), "is no profile"),
    (dict(flops=1), "is no profile: give one of rtx4090, "),
])
def test_refuses_what_is_no_rate(tmp_path, change, message):
    path = tmp_path / "here.json"
    path.write_text(json.dumps(GPUS["h100"].as_json() | change))
    with pytest.raises(ValueError, match=message):
        device_named(str(path))


@pytest.mark.parametrize("text, message", [(None, "No such file.*: give one of rtx4090, "), ("[1", "is no profile"), ("[1]", "is no profile")])
def test_refuses_what_is_no_profile(tmp_path, text, message):
    path = tmp_path / "here.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        device_named(str(path))


def test_all_numbers_are_checked():
    assert {field.name for field in fields(DeviceProfile)} - {"name", "sources", "decodes_beside"} == set(_rates())


def _rates():
    from xdualparal.plan import device

    return device._RATES
