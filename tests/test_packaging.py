"""setup.cfg declares what the package imports, and the README works on a package index."""

import ast
import importlib
import importlib.metadata
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import xdualparal

ROOT = Path(__file__).parent.parent
PACKAGE = Path(xdualparal.__file__).parent
SETTINGS = ConfigParser(delimiters=("=",))
SETTINGS.read(ROOT / "setup.cfg")
NOT_IMPORTED = {"ftfy", "triton"}  # setup.cfg says why they are needed
OF_XFUSER = {"yunchang", "distvae"}  # its own requirements, imported only where xfuser imports it


def declared(text):
    """The names of the distributions in a list of requirements."""
    return {re.match(r"[\w-]+", line)[0] for line in text.splitlines() if line.strip() and not line.startswith("#")}


OF_PACKAGES = {"PIL": "pillow"}  # {module: its package, where that has another name}


def imported():
    """The top-level names of all modules that the package imports, but for Python's and its own."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]


def test_all_that_is_imported_is_declared_and_nothing_else():
    names = {OF_PACKAGES.get(name, name) for name in imported()} - set(sys.stdlib_module_names) - {"xdualparal", "__future__"}
    extra = declared(SETTINGS["options.extras_require"]["pictures"])
    assert names - OF_XFUSER - extra == declared(SETTINGS["options"]["install_requires"]) - NOT_IMPORTED


def test_all_that_is_declared_is_pinned_for_the_tests():
    pinned = {line.split("==")[0] for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines()}
    extras = SETTINGS["options.extras_require"]
    assert declared(SETTINGS["options"]["install_requires"]) | declared(extras["test"]) | declared(extras["pictures"]) <= pinned


def test_xfuser_has_the_extras_that_ours_name():
    named = re.findall(r"xfuser\[([\w-]+)\]", "".join(SETTINGS["options.extras_require"].values()))
    assert named and set(named) <= set(importlib.metadata.metadata("xfuser").get_all("Provides-Extra"))


def test_the_entry_points_are_there():
    points = [line for section in SETTINGS["options.entry_points"].values() for line in section.splitlines() if line.strip()]
    for point in points:
        module, attribute = point.split("=")[1].strip().split(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_the_readme_needs_no_file_beside_it():
    """But pictures, for which an index of packages shows their words."""
    text = (ROOT / "README.md").read_text()
    pictures, links = re.findall(r"!\[([^]]*)\]\(([^)]+)\)", text), re.findall(r"(?<!!)\[[^]]+\]\(([^)]+)\)", text)
    assert links and all(link.startswith("https://") for link in links)
    assert pictures and all(words and (ROOT / file).suffix == ".png" for words, file in pictures)


def test_the_demo_models_fit_in_the_package_and_name_no_place_of_this_machine():
    files = [file for file in (PACKAGE / "demo").rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    folders = {file.relative_to(PACKAGE / "demo").parts[0] for file in files}
    packed = {line.strip() for line in SETTINGS["options.package_data"]["xdualparal"].splitlines()}
    sizes = {folder: sum(file.stat().st_size for file in files if folder in file.parts) for folder in folders}
    assert sizes.pop("tiny-wan-i2v") < 12e6 and sum(sizes.values()) < 24e6  # issues 13 and 14
    assert {f"demo/{folder}/**/*" for folder in folders} <= packed
    assert not [file for file in files if file.suffix == ".json" and "_name_or_path" in file.read_text()]
