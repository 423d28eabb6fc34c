"""What makes two runs the same."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from xdualparal.run_spec import RunSpec

SPEC = RunSpec(prompt="a ship", height=480, guidance_scale=5.0, embeds=("a", "b"), tiling=(256, 256, 192, 192), quality=18)


def test_it_is_json_and_comes_back():
    assert RunSpec.from_json(json.loads(json.dumps(SPEC.as_json()))) == SPEC
    assert RunSpec.from_json(SPEC.as_json() | {"of a later version": 3}) == SPEC


def test_every_field_makes_another_run():
    for field in fields(RunSpec):
        other = replace(SPEC, **{field.name: "another"})
        assert other.digest() != SPEC.digest()
        if getattr(SPEC, field.name) is not None:
            assert SPEC.differences(other) == [f"{field.name} was {SPEC.as_json()[field.name]!r} and is 'another'"]


def test_what_one_does_not_know_is_no_difference():
    assert SPEC.differences(RunSpec(prompt="a ship", seed=3)) == []
    assert SPEC.differences(replace(SPEC, tiling=())) == ["tiling was [256, 256, 192, 192] and is []"]


def test_latents_are_those_of_another_file():
    other = replace(SPEC, quality=30, tiling=(), fps=24.0)
    assert other.digest() != SPEC.digest() and other.of_latents().digest() == SPEC.of_latents().digest()
    assert replace(SPEC, height=496).of_latents().digest() != SPEC.of_latents().digest()


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SPEC.seed = 3
