"""Means, intervals and pairs of made-up videos."""

import numpy as np
import pytest

from xdualparal.quality.results import Results, read_results
from xdualparal.quality.statistics import estimate, paired, summary, table


def videos(values, **more):
    """``values``: {(prompt, seed): value}."""
    return [dict(prompt=prompt, seed=seed, metrics={"a_drift": value, **more}) for (prompt, seed), value in values.items()]


def test_signed_metrics_have_sizes_and_unknown_ones_are_left_out():
    found = summary(videos({("a", 0): 1.0, ("b", 0): -1.0, ("c", 0): None}, other=None, seams=7))
    assert found["a_drift"]["mean"] == 0 and found["|a_drift|"]["mean"] == 1 and found["a_drift"]["videos"] == 2
    assert found["other"] == dict(mean=None, low=None, high=None, videos=0)
    assert "seams" not in found and "|a_drift|" in table(found)


def test_the_interval_holds_the_truth_in_about_95_of_100():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(300):
        prompt_means = rng.normal(3, 1, 50)
        found = estimate([(str(p), mean + noise) for p, mean in enumerate(prompt_means) for noise in rng.normal(0, 0.2, 2)])
        hits += found["low"] <= 3 <= found["high"]
    assert 0.90 <= hits / 300 <= 0.98


def test_seeds_of_one_prompt_are_no_more_prompts():
    """Were videos drawn, 20 equal seeds would make the interval narrower."""
    values = [(str(p), float(p)) for p in range(10)]
    once, often = estimate(values), estimate(values * 20)
    assert often["low"] == pytest.approx(once["low"]) and often["high"] == pytest.approx(once["high"])


def test_one_prompt_has_no_interval():
    assert estimate([("a", 1.0), ("a", 3.0)]) == dict(mean=2.0, low=None, high=None, videos=2)


def test_pairs_are_of_the_same_prompt_and_seed():
    """A shift of 0.1 among prompts that differ by hundreds: only pairs show it."""
    before = videos({(str(p), s): 100.0 * p for p in range(20) for s in range(2)})
    after = videos({(str(p), s): 100.0 * p + 0.1 for p in range(25) for s in range(1, 3)})
    found = paired(before, after)["a_drift"]
    assert found["videos"] == 20 and found["low"] == pytest.approx(0.1) and found["high"] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no prompt and seed is in both"):
        paired(before, videos({("0", 9): 1.0}))


def test_results_grow_and_other_settings_are_refused(tmp_path):
    path, settings = tmp_path / "a.json", dict(model="tiny-wan", num_frames=65, flags=["--x", "1"])
    results = Results(path, settings)
    results.add("a", 0, dict(prompt=1.0))
    again = Results(path, settings)
    assert again.has("a", 0) and not again.has("a", 1) and not again.has("b", 0)
    again.add("b", 0, dict(prompt=1.0))
    assert [video["prompt"] for video in read_results(path)["videos"]] == ["a", "b"]
    assert read_results(path)["summary"]["prompt"]["mean"] == 1
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"num_frames was 65 and is 129\)"):
        Results(path, settings | dict(num_frames=129))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "xdualparal quality 1", "videos": [{}]}'])
def test_a_file_of_something_else_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="no file of xdit-dualparal quality"):
        Results(path, {})
    assert path.read_text() == content
    with pytest.raises(ValueError, match="cannot be read"):
        read_results(tmp_path / "none.json")
