"""Rates of this machine: the fit by hand, and a whole calibration that the planner then takes."""

import json

import pytest
from dualparal_testing.processes import run_ranks

from xdualparal.calibration.rates import _fit
from xdualparal.plan.device import read_profile

AMOUNTS = [(100, 4000, 1), (100, 8000, 1), (200, 9000, 1), (50, 1000, 1), (400, 90000, 1)]


@pytest.mark.parametrize("costs", [(2e-5, 3e-7, 1e-3), (2e-5, 0.0, 1e-3), (0.0, 3e-7, 0.0), (2e-5, 3e-7, 0.0)])
def test_costs_are_found_again(costs):
    points = [(row, sum(amount * cost for amount, cost in zip(row, costs))) for row in AMOUNTS]
    assert _fit(points) == pytest.approx(costs, rel=1e-6, abs=1e-12)


def test_no_cost_is_negative():
    """What falls with the tokens is a cost of a layer, and of noise."""
    points = [(row, 1e-3 - 1e-6 * row[0]) for row in AMOUNTS]
    assert min(_fit(points)) >= 0 and _fit(points)[2] > 0


def calibrated(rank, path):
    from xdualparal.xdit.cli import main

    main(["plan", "--calibrate", path, "--model", "tiny-wan"])


@pytest.mark.processes
def test_a_calibration_is_a_profile(tmp_path):
    path = tmp_path / "here.json"
    run_ranks(calibrated, 1, str(path))
    profile = read_profile(str(path))
    assert "measured by --calibrate with layers of tiny-wan in float32 at 32x32" in profile.sources[0]
    # A CPU core does 10**8 to 10**12 operations a second, gloo sends 10**7 to 10**11 bytes.
    assert 1e8 < profile.matrix_per_s < 1e13 and 1e8 < profile.decode_per_s < 1e13 and 1e7 < profile.link_per_s < 1e11
    assert json.loads(path.read_text())["name"] == profile.name
