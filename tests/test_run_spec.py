"""What makes two runs the same."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from xdualparal.run_spec import RunSpec

SPEC = RunSpec(prompt="a ship", height=480, guidance_scale=5.0, embeds=("a", "b"), tiling=(256, 256, 192, 192), quality=18)


def test_it_is_json_and_comes_back():
    assert RunSpec.from_json(json.loads(json.dumps(SPEC.as_json()))) == SPEC
    assert RunSpec.from_json(SPEC.as_json() | {"of a later version": 3}) == SPEC


def test_every_field_makes_another_run_but_a_name_does_not():
    for field in fields(RunSpec):
        other = replace(SPEC, **{field.name: "another"})
        assert (other.digest() == SPEC.digest()) == (field.name == "model")
        named = [] if field.name == "model" else [f"{field.name} was {SPEC.as_json()[field.name]!r} and is 'another'"]
        assert SPEC.differences(other.as_json()) == named


def test_only_what_is_known_is_compared_and_nothing_is_one_with_empty():
    assert SPEC.differences(dict(prompt="a ship")) == [] and SPEC.differences(dict(prompt="a ship", seed=3)) == ["seed was None and is 3"]
    assert SPEC.differences(replace(SPEC, tiling=()).as_json()) == ["tiling was [256, 256, 192, 192] and is []"]
    bare = replace(SPEC, negative_prompt="", embeds=())
    assert bare.differences(replace(SPEC, embeds=None).as_json()) == [] and bare.digest() == replace(SPEC, embeds=None).digest()


def test_loras_decide_as_long_as_the_fused_weights_are_not_known():
    """Python's fused pipeline says nothing of them, and one file may be moved or written again."""
    spec = replace(SPEC, loras=("transformer 0123:1",), transformer="of fused weights")
    assert spec.digest() == replace(spec, loras=None).digest() != replace(spec, transformer="others").digest()
    assert spec.differences(replace(spec, loras=()).as_json()) == []
    assert spec.differences(dict(loras=["transformer 0123:1"])) == []
    assert spec.differences(dict(loras=[])) == ["loras was ['transformer 0123:1'] and is []"]
    assert replace(spec, loras=None).differences(dict(loras=["transformer 0123:1"])) == ["loras was None and is ['transformer 0123:1']"]


def test_latents_are_those_of_another_file():
    other = replace(SPEC, quality=30, tiling=(), fps=24.0)
    assert other.digest() != SPEC.digest() and other.of_latents().digest() == SPEC.of_latents().digest()
    assert replace(SPEC, height=496).of_latents().digest() != SPEC.of_latents().digest()


def test_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SPEC.seed = 3
