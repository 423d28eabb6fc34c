"""``xdit-dualparal quality``: measures videos that are there, makes and measures a set of them, or compares two sets.

Knows: the flags, files and the launcher's command. Must not know: how a metric is computed.
"""

import json
from pathlib import Path

from ..launch.errors import refuse
from ..output.files import check_apart, check_replaceable, reason_of, write_whole
from ..quality.facts import facts_of
from ..quality.frames import frames_of
from ..quality.measure import metrics_of, watch_video
from ..plan.timeline import check_matplotlib
from ..quality.pictures import ContactSheet, save_plot
from ..quality.results import read_results
from ..quality.statistics import paired, table
from ..quality.worlds import WORLDS, parse_prompt, scene_of
from .quality_flags import parse_quality
from .quality_runs import measure_model


def main(argv):
    """Runs the command ``argv``. Ends with exit code 2, and one line, when it cannot."""
    flags, passed_on = parse_quality(argv)
    try:
        _check_outputs(flags)
        if flags.compare:
            estimates = paired(*(read_results(path)["videos"] for path in flags.compare))
            _write_json(flags, dict(compared=flags.compare, differences=estimates))
            print(table(estimates))
        elif flags.model:
            print(table(measure_model(flags, passed_on)))
        else:
            measured = {path: _measure_file(path, flags) for path in flags.files}
            _write_json(flags, dict(files=measured))
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}" if error.filename else reason_of(error))
    except ValueError as error:
        refuse(error)


def _check_outputs(flags):
    """Raises ValueError when a file cannot be written or must not be replaced, before anything is measured."""
    named = [(f"--{name}", Path(getattr(flags, name))) for name in ("json", "sheet", "plot") if getattr(flags, name)]
    check_apart([*named, *(("FILE", path) for path in (*flags.files, *(flags.compare or ())))])
    for what, path in named:
        check_replaceable(path, what, flags.overwrite or flags.model)  # with a model Results looks at its own file
    if flags.sheet or flags.plot:
        check_matplotlib()


def _measure_file(path, flags):
    """The metrics of the video ``path``, which are printed; writes its pictures."""
    facts = facts_of(
        path, block_latents=flags.block_latents, context_latents=flags.context_latents,
        frames_per_latent=flags.frames_per_latent, prompt=flags.prompt,
    )
    scene = parse_prompt(flags.prompt) if flags.prompt else _scene_that_fits(path, facts.prompt)
    sheet = ContactSheet()
    series, track = watch_video(frames_of(path), facts, scene, [sheet] if flags.sheet else [])
    metrics = metrics_of(series, track, facts)
    if flags.sheet:
        sheet.save(flags.sheet, Path(path).name)
    if flags.plot:
        save_plot(flags.plot, Path(path).name, series, track, facts.seams(len(series)))
    print("\n".join([str(path), *_told(facts, scene), *(f"  {name:<22}{_figure(value)}" for name, value in metrics.items())]))
    return dict(metrics=metrics, block_latents=facts.block_latents, context_latents=facts.context_latents, prompt=facts.prompt)


def _scene_that_fits(path, prompt):
    """The demo scene of ``prompt``, where the video has its world's shape."""
    scene = scene_of(prompt)
    if scene is None:
        return None
    try:
        watch_video([next(iter(frames_of(path)))], facts_of(path), scene)
    except (ValueError, StopIteration):
        return None
    return scene


def _told(facts, scene):
    """What was not measured, or not well, and why."""
    if facts.block_latents is None and facts.clips is None:
        yield "  no seams: the file does not say how its blocks are cut (--block_latents, --context_latents)"
    elif facts.rate_factor != 0:
        yield "  compressed: key frames at seams may add some hundredths to their ratios (--dualparal_quality 0 makes videos without loss)"
    if scene is None:
        yield f"  no objects: those are measured in a demo world's videos, of a prompt that says all of one, as {WORLDS[0].example!r} does (--prompt)"


def _figure(value):
    return "not known" if value is None else f"{value:.4g}"


def _write_json(flags, content):
    if flags.json:
        write_whole(Path(flags.json), json.dumps(content, indent=1).encode() + b"\n")
