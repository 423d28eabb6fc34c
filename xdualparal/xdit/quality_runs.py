"""Makes a set of videos with the launcher, and measures them.

Knows: the launcher's command, prompts and seeds. Must not know: how a metric is computed.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from ..output.owners import spec_in_video
from ..quality.facts import facts_of
from ..quality.frames import frames_of
from ..quality.measure import measure_video
from ..quality.results import Results
from ..quality.statistics import summary
from ..quality.worlds import ONE_OBJECT, TWO_OBJECTS, parse_prompt, scene_of, world_of
from ..engine.progress_bar import ProgressBar

PROMPTS, SEEDS, NUM_FRAMES = 50, 2, 257
A_COMMAND_FRAMES = 10 * NUM_FRAMES  # of the videos of one command: what is lost when it is ended. Its start takes as long as some 100
_OWN = ("model", "prompt", "seed", "num_frames", "output_directory", "output", "dataset_path", "dualparal_output", "dualparal_checkpoint")
QUALITY, DEGREE = "--dualparal_quality", "--dualparal_degree"
OTHER_SEEDS = 1000
WORLDS = {"tiny-wan-2": TWO_OBJECTS}  # of which a model's evaluation prompts are; any other's: ONE_OBJECT
OF_IMAGES = ("tiny-wan-i2v",)  # models that make a video of a picture: the first frame of the prompt's true clip


def measure_model(flags, passed_on):
    """The summary of all videos that ``flags`` ask for; those that --json has not are made with the flags ``passed_on``.

    Without loss unless the user says otherwise: each block begins with a key frame, so that compression would show at seams. Raises
    ValueError for what cannot be made.
    """
    for argument in passed_on:
        if argument.split("=")[0].removeprefix("--") in _OWN:
            raise ValueError(f"{argument} follows --: give it before --, where quality has such a flag")
    given = [argument.split("=")[0] for argument in passed_on]
    for flag, default in ((QUALITY, "0"), (DEGREE, "1")):
        passed_on = passed_on if flag in given else [*passed_on, flag, default]
    frames = flags.num_frames or NUM_FRAMES
    results = Results(flags.json, dict(model=flags.model, num_frames=frames, flags=passed_on))
    prompts = read_prompts(flags.prompts, WORLDS.get(flags.model, ONE_OBJECT))
    wanted = [(prompt, first + seed) for seed in range(flags.seeds or SEEDS) for prompt, first in first_seeds(prompts)]
    missing = [pair for pair in wanted if not results.has(*pair)]
    with ProgressBar(len(wanted)) as bar:
        bar.show(len(wanted) - len(missing), f"{len(wanted) - len(missing)} of {len(wanted)} videos measured")
        for seed, batch in batches(missing, max(1, A_COMMAND_FRAMES // frames)):
            _make_and_measure(results, [sys.executable, "-P", "-m", "xdualparal.xdit.cli", "--model", flags.model], seed, batch, frames, passed_on)
            done = sum(results.has(*pair) for pair in wanted)
            bar.show(done, f"{done} of {len(wanted)} videos measured")
    return summary([video for video in results.videos if (video["prompt"], video["seed"]) in wanted])


def first_seeds(prompts):
    """Yields (prompt, its first seed): 0, and OTHER_SEEDS more each time that a prompt comes again, so that no video is made twice."""
    for number, prompt in enumerate(prompts):
        yield prompt, OTHER_SEEDS * prompts[:number].count(prompt)


def batches(pairs, most):
    """Yields (seed, prompts): at most ``most`` prompts of a seed, in order."""
    for seed in dict.fromkeys(seed for _, seed in pairs):
        prompts = [prompt for prompt, of in pairs if of == seed]
        for first in range(0, len(prompts), most):
            yield seed, prompts[first:first + most]


def read_prompts(given, world=ONE_OBJECT):
    """The prompts that --prompts names: a number of ``world``'s, or a file's lines; some may come again. Raises
    ValueError."""
    if given is None or given.isdecimal():
        count = PROMPTS if given is None else int(given)
        if not count:
            raise ValueError("--prompts is 0: give 1 or more")
        return world.prompts(count)
    try:
        lines = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts {given} cannot be read ({getattr(error, 'strerror', 'no UTF-8 text')}): give a number or a text file") from None
    prompts = list(filter(None, lines))
    if not prompts:
        raise ValueError(f"--prompts {given} has no prompt: write one a line")
    return prompts


def _make_and_measure(results, command, seed, prompts, frames, passed_on):
    with TemporaryDirectory(prefix="xdualparal-quality-") as folder:
        _make([
            *command, "--num_frames", str(frames), "--seed", str(seed), "--output_directory", folder, *passed_on, *_pictures(command[-1], prompts, seed, folder),
            "--prompt", *prompts,
        ])
        for path in sorted(Path(folder).rglob("*.mp4")):
            spec = spec_in_video(path)
            if spec is None:
                raise ValueError("the videos do not say their prompts: only those of a long-video strategy do, give its flags after --")
            results.add(spec.prompt, seed, measure_video(frames_of(path), facts_of(path), scene_of(spec.prompt)))


def _pictures(model, prompts, seed, folder):
    """Flags of a picture for each of ``prompts``, for a ``model`` that is of images; they are drawn into ``folder``. Raises ValueError for a prompt of which
    there is none."""
    if model not in OF_IMAGES:
        return []
    paths = [Path(folder, f"{number}.png") for number in range(len(prompts))]
    for path, prompt in zip(paths, prompts):
        scene = parse_prompt(prompt)
        Image.fromarray(world_of(scene).clip(scene, 1, seed)[0]).save(path)
    return ["--input_images", *map(str, paths)]


def _make(command):
    """Runs ``command``; when this process is interrupted, it is ended with all its processes. Raises ValueError when it fails."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            _, errors = launcher.communicate()
        except BaseException:
            launcher.terminate()
            raise
    if launcher.returncode:
        last = (errors.strip().splitlines() or ["nothing was said"])[-1].removeprefix("xdit-dualparal: error: ")
        raise ValueError(f"the videos could not be made, exit code {launcher.returncode}: {last}")
