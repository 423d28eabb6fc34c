"""Writes this package as a part of xDiT: ``python patches/make_strategy.py FOLDER`` fills FOLDER/xfuser/dualparal.

FOLDER is a source tree of xDiT, or an empty folder. The modules are copied as they are, folder by folder: inside the
package they import each other by relative names. Only the package's own absolute name is replaced. What is left to do by
hand: on a host without an accelerator it needs patch 0001, and plain ``xdit`` finds it once xDiT's own metadata declares
the entry point dualparal of the group xfuser.plugins (patch 0002), as setup.cfg does here.

Knows: the package's name and place, here and there. Must not know: which modules there are.
"""

import re
import shutil
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "xdualparal"
NAME = "xfuser.dualparal"


def main(argv=None):
    """Copies; returns the exit code, 2 for a folder that cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write("make_strategy.py: error: give one folder: a source tree of xDiT, or an empty folder\n")
        return 2
    try:
        sys.stdout.write(f"{build(argv[0])}\n")
    except OSError as error:
        sys.stderr.write(f"make_strategy.py: error: {error}\n")
        return 2
    return 0


def build(folder):
    """Copies the package to ``folder``/xfuser/dualparal, which must not be there yet; returns that path."""
    target = Path(folder, *NAME.split("."))
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file in target.rglob("*.py"):
        file.write_text(in_xdit(file.read_text()))
    return target


def in_xdit(text):
    """A module's ``text`` with the package's name there in place of its name here, where that is a module's."""
    return re.sub(rf"\b{PACKAGE.name}(?=\.\w| import\b)|(?<=import ){PACKAGE.name}\b", NAME, text)


if __name__ == "__main__":
    sys.exit(main())
