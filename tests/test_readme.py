"""The README says what the tests show."""

import re
from dataclasses import fields
from pathlib import Path

from test_hybrid import TABLE

from xdualparal import DualParalConfig
from xdualparal.xdit.settings import CommandSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MEASURED = (ROOT / "examples" / "measured.md").read_text()


def test_its_pictures_and_programs_are_there():
    for text in (README, MEASURED):
        named = re.findall(r"\]\((examples/[\w./]+)\)", text) + re.findall(r"((?:examples|tests)/[\w/]+\.\w+)", text)
        assert len(named) > 10 and not [name for name in named if not (ROOT / name).is_file()]


def test_what_it_says_was_measured_is_in_the_list_of_all():
    """Its section's decimals (1.68, .97) are those of examples/measured.md, or those rounded."""
    said, known = ({float(number) for number in re.findall(r"(?<![\d.])\d*\.\d+", text)} for text in (README[README.index("## Measured"):], MEASURED))
    assert len(said) > 40 and not said - known - {round(number, digits) for number in known for digits in (1, 2)}


def test_the_combinations_are_those_of_the_table_test():
    for flag, tested in zip(("dualparal_degree", "ulysses_degree", "ring_degree"), zip(*TABLE)):
        [named] = re.findall(rf"`--{flag}` ([\d, ]*\d)", README)
        assert [int(n) for n in named.split(",")] == sorted(set(tested))


def test_every_flag_is_there():
    for name in ("degree", *(field.name for kind in (DualParalConfig, CommandSettings) for field in fields(kind))):
        assert re.search(f"`--dualparal_{name}[ `]", README)


def test_it_is_short():
    assert len(README.splitlines()) < 100
