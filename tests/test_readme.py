"""The README says what the tests show."""

import re
from dataclasses import fields
from pathlib import Path

from test_hybrid import TABLE

from xdualparal import DualParalConfig
from xdualparal.xdit.settings import CommandSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_its_pictures_and_programs_are_there():
    named = re.findall(r"\]\((examples/[\w./]+)\)", README) + re.findall(r"(?:bash|python) ((?:examples|tests)/[\w/]+\.\w+)", README)
    assert len(named) > 10 and all((ROOT / name).is_file() for name in named)


def test_the_combinations_are_those_of_the_table_test():
    for flag, tested in zip(("dualparal_degree", "ulysses_degree", "ring_degree"), zip(*TABLE)):
        [named] = re.findall(rf"`--{flag}` ([\d, ]*\d)", README)
        assert [int(n) for n in named.split(",")] == sorted(set(tested))


def test_every_flag_is_there():
    for name in ("degree", *(field.name for kind in (DualParalConfig, CommandSettings) for field in fields(kind))):
        assert re.search(f"`--dualparal_{name}[ `]", README)


def test_it_is_short():
    assert len(README.splitlines()) < 100
