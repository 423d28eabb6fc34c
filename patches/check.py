"""Says which patches still apply to an xfuser, and which it needs no longer: for a weekly look at new versions.

    python patches/check.py                    # the installed xfuser
    python patches/check.py --version 0.7.1    # that release; pip downloads it
    python patches/check.py --tree FOLDER      # a source tree, a clone of xDiT for example

Exit code: 0 when every patch applies or is not needed, 1 when one needs work, 2 when there is nothing to look at.

Knows: how to ask git and needed.py. Must not know: what the patches are for.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from trees import PATCHES, apply, copy_installed, git_apply

HERE = Path(__file__).resolve().parent


def main(argv=None):
    """Prints a line for each patch; returns the exit code."""
    arguments = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            tree = _tree(arguments, Path(folder))
        except (LookupError, OSError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"check.py: error: {error}\n")
            return 2
        states = states_of(tree, Path(folder))
    for patch, (state, why) in zip(PATCHES, states):
        sys.stdout.write(f"{patch.name:32} {state}{why and ': ' + why}\n")
    return int(any(state == NEEDS_WORK for state, _ in states))


APPLIES, ALREADY, UNNEEDED, NEEDS_WORK = "applies", "is there already", "is not needed", "DOES NOT APPLY"


def states_of(tree, folder):
    """[(state, why)] of each patch on ``tree``; ``folder``: where to work. The tree stays as it is."""
    series = Path(folder, "series")
    shutil.copytree(tree, series, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    lacks, unknown = _lacking(series)
    states = []
    for patch in PATCHES:
        states.append(_state(patch, series, lacks.get(patch.name[:4], [unknown])))
        if states[-1][0] == APPLIES:
            apply(patch, series)
    return states


def _state(patch, series, lacks):
    if git_apply(patch, series, "--check", "--reverse")[0]:
        return ALREADY, "as it stands here"
    if lacks == []:
        return UNNEEDED, "this xfuser can do it in its own way"
    fits, said = git_apply(patch, series, "--check")
    return (APPLIES, "") if fits else (NEEDS_WORK, said.splitlines()[0])


def _lacking(tree):
    """({number of a patch: what the xfuser in ``tree`` lacks}, or nothing with the reason why that is unknown)."""
    path = os.pathsep.join([str(tree), str(HERE.parent)])
    command = [sys.executable, str(HERE / "needed.py")]
    environment = dict(os.environ, PYTHONPATH=path, XDUALPARAL_WORKAROUNDS="on", RANK="0", WORLD_SIZE="1")
    asked = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if asked.returncode:
        return {}, (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
    return json.loads(asked.stdout.splitlines()[-1]), ""


def _tree(arguments, folder):
    if arguments.tree:
        if not Path(arguments.tree, "xfuser").is_dir():
            raise LookupError(f"{arguments.tree} holds no folder xfuser: give a source tree of xDiT")
        return Path(arguments.tree)
    if arguments.version:
        return _downloaded(arguments.version, folder)
    return copy_installed(folder / "installed")


def _downloaded(version, folder):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    done = subprocess.run([*command, f"xfuser=={version}"], capture_output=True, text=True)
    if done.returncode:
        raise LookupError(f"pip cannot download xfuser {version}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    wheel = next(folder.glob("xfuser*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def _parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", help="a release of xfuser, which pip downloads")
    which.add_argument("--tree", help="a folder with xfuser's source (default: a copy of the installed one)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
