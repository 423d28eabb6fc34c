"""Writes 0006-dualparal.patch: this package as a part of xDiT. Run it when a module of the package has changed.

Knows: which modules go where, and the few places where they speak of being a package of their own. Must not know: what the
modules do.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from trees import PATCHES, apply, copy_installed

HERE = Path(__file__).resolve().parent
PACKAGE, TESTS = HERE.parent / "xdualparal", HERE.parent / "tests"
PATCH = HERE / "0006-dualparal.patch"

# In the package, in xfuser/dualparal: xdit's place is the runner.
MODULES = (
    "attention checkpoint comm config course decode decoding feature_cache groups latents latents_file meter noise pipeline "
    "render report request run runtime saving schedule sharding simulate stage stopping tracing validate video "
    "models/__init__ models/base models/wan"
).split()
RUNNER_MODULES = "__init__ checks flags models plugin registry watch weights".split()
TEST_MODULES = (
    "test_course test_latents test_noise test_pipeline test_schedule "
    "dualparal_testing/__init__ dualparal_testing/preload dualparal_testing/processes dualparal_testing/runs "
    "dualparal_testing/sequential dualparal_testing/small_wan"
).split()

# (file in the package, text, text in xDiT): there is nothing to work around there, no demo model, no launcher.
CHANGES = [
    ("pipeline.py", "        complete_xfuser()\n        # These import xfuser, which must wait: ``enable_host_platform`` may be "
     "called after this module is imported.\n", ""),
    ("pipeline.py", "from .upstream import complete_xfuser\n", ""),
    ("config.py", '; xdit-dualparal decode FILE makes the video "\n        "of them"', '"'),
    ("xdit/flags.py", '"xdit-dualparal: error: "', '"xdit: error: "'),
    ("xdit/registry.py", "from .demo_model import TinyWanModel\n", ""),
    ("xdit/registry.py", '    "tiny-wan": TinyWanModel,\n', ""),
    ("xdit/flags.py", "from ..upstream import add_missing_flags\n", ""),
    ("xdit/flags.py", "    add_missing_flags(parser, xFuserArgs)\n", ""),
    ("xdit/flags.py", '''        prog="xdit-dualparal",
        description="xDiT with DualParal: long videos, pipelined over GPUs. Takes every flag of xdit; "
        "--dualparal_degree turns DualParal on. --nnodes, --node_rank, --master_addr, --master_port and "
        "--nproc_per_node start it on several machines, as with torchrun. xdit-dualparal decode FILE decodes latents that "
        "were kept.",
''', '        prog="xdit",\n'),
    ("xdit/plugin.py", '"""DualParal in plain ``xdit``, for an xfuser that finds plugins by their entry points (patches/0002).\n',
     '"""DualParal in ``xdit``: a plugin that is always there.\n'),
]
MESSAGE = """DualParal: training-free long videos for Wan

What: a parallel strategy that makes Wan2.1 text-to-video videos of any length, with the transformer split over
pipeline stages and memory that does not grow with the length. `xdit --model Wan2.1-T2V-1.3B --dualparal_degree 4
--num_frames 801 --prompt "..."`.

Why: issues 490 and 585 ask for pipeline parallelism for video models. PipeFusion is for images; sequence
parallelism keeps all weights on every GPU, and no strategy makes more frames than a model was trained on.

How: xfuser/dualparal is a plugin (xfuser/plugins.py) that is always there. The schedule is pure data
(schedule.py); runtime.py carries it out, simulate.py and render.py draw it. It uses xDiT's groups, USP, attention
backends and runner; the next block's keys and values go in at the cache manager (feature_cache.py), the edges
are those of make_edge_groups. docs/methods/dualparal.md explains the method and how to use it.

Tests: tests/dualparal: the executor against a plain sequential program in real processes over gloo, within 1e-5,
with 1, 2 and 4 stages, which agree bit for bit; the schedule, the noise, the block store.

    python -m pytest --import-mode=importlib tests/dualparal
"""


def main():
    """Writes the patch."""
    with tempfile.TemporaryDirectory() as folder:
        PATCH.write_text(strategy_patch(folder))


def strategy_patch(folder):
    """The patch's text; ``folder``: an empty one to work in."""
    tree = copy_installed(Path(folder, "xfuser"))
    for patch in PATCHES:
        if patch != PATCH:
            apply(patch, tree)
    _git(tree, "init", "--quiet"), _commit(tree, "before")
    add_strategy(tree)
    _commit(tree, MESSAGE)
    options = ("--zero-commit", "--no-signature", "--no-stat", "--stdout", "-1", "--subject-prefix=PATCH 6/6")
    return _git(tree, "format-patch", *options)


def add_strategy(tree):
    """Puts the strategy into ``tree``, xfuser's, with the other patches applied."""
    for name in MODULES:
        _write(tree / "xfuser/dualparal" / f"{name}.py", _changed(f"{name}.py"))
    for name in RUNNER_MODULES:
        _write(tree / "xfuser/dualparal/runner" / f"{name}.py", _changed(f"xdit/{name}.py"))
    for name in TEST_MODULES:
        _write(tree / "tests/dualparal" / f"{name}.py", _changed_test((TESTS / f"{name}.py").read_text()))
    shutil.copytree(TESTS / "golden", tree / "tests/dualparal/golden")
    shutil.copytree(HERE / "strategy", tree, dirs_exist_ok=True)
    _replace(
        tree / "xfuser/plugins.py", '    """One instance of each installed plugin, in the order of their names.',
        '    """xFuser\'s own, then one instance of each installed plugin, in the order of their names.',
    )
    _replace(
        tree / "xfuser/plugins.py", "    plugins = []\n",
        "    from xfuser.dualparal.runner.plugin import DualParalPlugin\n\n    plugins = [DualParalPlugin()]\n",
    )
    runner_page = tree / "docs/runner/runner.md"
    _replace(
        runner_page, "| `--tensor_parallel_degree` |",
        "| `--dualparal_degree` | [DualParal](../methods/dualparal.md) pipeline stages, for long Wan2.1 T2V videos | off |\n"
        "| `--tensor_parallel_degree` |",
    )


def _changed(name):
    text = (PACKAGE / name).read_text()
    for file, old, new in CHANGES:
        if file == name:
            text = _with(text, old, new, name)
    return re.sub(r"DESIGN('s table| section \d)", "docs/methods/dualparal.md", text)


def _changed_test(text):
    text = text.replace("from xdualparal import enable_host_platform\n\n", "").replace("enable_host_platform()\n", "")
    return text.replace("from xdualparal", "from xfuser.dualparal").replace("import xdualparal", "import xfuser.dualparal")


def _replace(path, old, new):
    path.write_text(_with(path.read_text(), old, new, path))


def _with(text, old, new, name):
    if text.count(old) != 1:
        raise LookupError(f"{name} has {text.count(old)} times {old!r}: change CHANGES in {__file__} to what it has now")
    return text.replace(old, new)


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _commit(tree, message):
    _git(tree, "add", "--all", "--force")
    _git(tree, "commit", "--quiet", "--message", message)


def _git(tree, *command):
    who = {f"GIT_{role}_{field}": value for role in ("AUTHOR", "COMMITTER") for field, value in (
        ("NAME", "xdualparal"), ("EMAIL", "xdualparal@users.noreply.github.com"), ("DATE", "2026-11-21T12:00:00+0000"),
    )}
    alone = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(["git", *command], cwd=tree, env=os.environ | who | alone, check=True, capture_output=True, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
