"""``xdit-dualparal quality``: what it prints, writes and refuses. In this process, but for one run of the launcher."""

import json
import subprocess
import sys

import numpy as np
import pytest
from dualparal_testing.drawn import SCENE, drawn

from xdualparal.output.mp4 import VideoWriter
from xdualparal.output.tags import tags_of
from xdualparal.quality.results import Results
from xdualparal.quality.worlds import TWO_OBJECTS, scene_of
from xdualparal.run_spec import RunSpec
from xdualparal.xdit import quality_command, quality_flags, quality_runs


def mp4(path, frames, **facts):
    """An mp4 as a run writes it."""
    with VideoWriter(path, 16, tags=tags_of(RunSpec(**facts).as_json())) as file:
        file.write(frames)
    return str(path)


@pytest.fixture(scope="module")
def perfect(tmp_path_factory):
    return mp4(tmp_path_factory.mktemp("video") / "v.mp4", drawn(SCENE, 129), prompt=SCENE.prompt, block_latents=8, context_latents=4)


def refused(capsys, *argv):
    """The one line that the command ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        quality_command.main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("xdit-dualparal: error: ") and error.count("\n") == 1
    return error


def test_a_video_says_how_it_is_cut_and_what_it_shows(perfect, tmp_path, capsys):
    out = {name: str(tmp_path / name) for name in ("v.json", "sheet.png", "plot.png")}
    quality_command.main([perfect, "--json", out["v.json"], "--sheet", out["sheet.png"], "--plot", out["plot.png"]])
    told = json.loads((tmp_path / "v.json").read_text())["files"][perfect]
    assert told["metrics"]["seams"] == 3 and told["metrics"]["prompt"] == 1 and told["prompt"] == SCENE.prompt
    assert "seam_first_ratio" in capsys.readouterr().out
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("sheet.png", "plot.png"))
    assert "exists: give another name, or add --overwrite" in refused(capsys, perfect, "--json", out["v.json"])
    quality_command.main([perfect, "--json", out["v.json"], "--overwrite"])


def test_a_video_of_the_second_world_is_measured_by_its_own_metrics(tmp_path, capsys):
    scene = scene_of(TWO_OBJECTS.example)
    path = mp4(tmp_path / "v.mp4", TWO_OBJECTS.clip(scene, 65, 1), quality=0, prompt=scene.prompt, block_latents=4, context_latents=2)
    out = {name: str(tmp_path / name) for name in ("v.json", "sheet.png", "plot.png")}
    quality_command.main([path, "--json", out["v.json"], "--sheet", out["sheet.png"], "--plot", out["plot.png"]])
    told = json.loads((tmp_path / "v.json").read_text())["files"][path]["metrics"]
    assert told["all_right"] == told["prompt"] == told["texture"] == 1 and "loop_excess" in told and told["seams"] == 3
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("sheet.png", "plot.png"))
    quality_command.main([path, "--prompt", scene.prompt.replace("left", "right")])
    assert "texture               1\n" in (said := capsys.readouterr().out) and "pan_px                -0.5" in said and "all_right             0\n" in said
    assert "back_colour 'orange' is not in the demo world" in refused(capsys, path, "--prompt", scene.prompt.replace("blue", "orange"))


def test_flags_say_what_a_file_does_not(perfect, tmp_path, capsys):
    plain = mp4(tmp_path / "plain.mp4", drawn(SCENE, 129))
    quality_command.main([plain])
    assert "no seams: the file does not say" in (said := capsys.readouterr().out) and "no objects" in said and "compressed" not in said
    quality_command.main([plain, "--block_latents", "4", "--context_latents", "0", "--prompt", "a blue circle on a dark background"])
    said = capsys.readouterr().out
    assert "seams                 8" in said and "colour                0\n" in said


def test_the_report_beside_a_file_says_it_too(tmp_path, capsys):
    plain = mp4(tmp_path / "plain.mp4", drawn(SCENE, 129))
    (tmp_path / "plain.json").write_text(json.dumps(dict(spec=dict(block_latents=8, context_latents=0))))
    quality_command.main([plain])
    assert "seams                 4" in capsys.readouterr().out


@pytest.mark.parametrize("facts, words", [
    (dict(strategy="chunks", chunk_latents=11), "seams                 2"), (dict(strategy="full"), "no seams"),
])
def test_the_other_strategies_are_cut_otherwise(tmp_path, capsys, facts, words):
    """Chunks of 11 latent frames: of 33, the second and third one begin at seams."""
    quality_command.main([mp4(tmp_path / "v.mp4", drawn(SCENE, 129), **facts)])
    assert words in capsys.readouterr().out


def test_any_video(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    quality_command.main([mp4(tmp_path / "v.mp4", noise, prompt=SCENE.prompt)])  # the demo's prompt, and not its size
    assert "no objects" in (said := capsys.readouterr().out) and "luminance_drift" in said


@pytest.mark.parametrize("quality, is_said", [(18, True), (0, False)])
def test_compression_is_said(tmp_path, capsys, quality, is_said):
    quality_command.main([mp4(tmp_path / "v.mp4", drawn(SCENE, 65), quality=quality, block_latents=8, context_latents=4)])
    assert ("compressed: key frames" in capsys.readouterr().out) == is_said


@pytest.mark.parametrize("argv, words", [
    ([], "0 of FILE, --model and --compare"), (["a", "--model", "m"], "2 of FILE, --model"), (["none.mp4"], "cannot be read"),
    (["V", "--prompt", "a ship"], "must name exactly one"), (["V", "--block_latents", "4"], "give the other one too"), (["V", "--seeds", "2"], "--seeds does nothing with FILE"),
    (["V", "V", "--sheet", "s.png"], "give one FILE"), (["V", "--", "--x"], "no video is made"), (["--model", "m", "--plot", "p"], "--plot does nothing with --model"),
    (["--model", "m", "--seeds", "0"], "--seeds is 0"), (["--model", "m", "--prompts", "0"], "--prompts is 0"), (["--model", "m", "--prompts", "none"], "cannot be read"),
    (["--model", "m", "--", "--seed", "3"], "--seed follows --"), (["V", "--json", "no/a.json"], "no folder"), (["V", "--json", "V"], "are one file"),
    (["--compare", "a", "b"], "cannot be read"), (["V", "--foo"], "unrecognized arguments: --foo"), (["--model", "m", "--frames_per_latent", "2"], "does nothing with --model"),
])
def test_what_cannot_work(perfect, tmp_path, capsys, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *[perfect if word == "V" else word for word in argv])
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_video(tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("text")
    assert "give a video file" in refused(capsys, tmp_path / "text.mp4")


def test_without_matplotlib(perfect, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'xdualparal[pictures]'" in refused(capsys, perfect, "--plot", tmp_path / "p.png")


def test_prompts_that_come_again_have_other_seeds():
    prompts = quality_runs.read_prompts("50")
    wanted = list(quality_runs.first_seeds(prompts))
    assert len(set(wanted)) == 50 and wanted[:48] == [(prompt, 0) for prompt in prompts[:48]] and wanted[48] == (prompts[0], 1000)


def test_prompts_are_of_the_models_world():
    assert quality_runs.read_prompts("3", quality_runs.WORLDS["tiny-wan-2"]) == TWO_OBJECTS.prompts(3)


def test_batches_are_of_one_seed():
    pairs = [(str(prompt), seed) for seed in (0, 1) for prompt in range(12)]
    found = list(quality_runs.batches(pairs, 10))
    assert [(seed, prompt) for seed, prompts in found for prompt in prompts] == [(seed, prompt) for prompt, seed in pairs]
    assert [len(prompts) for _, prompts in found] == [10, 2, 10, 2]


def test_the_help_needs_nothing_heavy():
    code = "import sys, xdualparal.xdit.quality_flags; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'av')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert quality_flags.parse_quality(["a.mp4"])[0].files == ["a.mp4"]


def test_compare(tmp_path, capsys):
    for name, shift in (("a", 0.0), ("b", 0.5)):
        results = Results(tmp_path / f"{name}.json", dict(name=name))
        for prompt in "xyz":
            results.add(prompt, 0, dict(frozen_share=shift + ord(prompt)))
    quality_command.main(["--compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "frozen_share" in (said := capsys.readouterr().out) and "0.5 to 0.5" in said


def test_a_launcher_that_fails(capsys):
    with pytest.raises(ValueError, match="could not be made, exit code 3: no space"):
        quality_runs._make([sys.executable, "-c", "import sys; sys.stderr.write('more\\nxdit-dualparal: error: no space\\n'); sys.exit(3)"])


@pytest.mark.processes
def test_videos_are_made_measured_and_not_made_again(tmp_path, capsys, monkeypatch):
    """2 videos by the launcher, as a user starts it; the second command makes the third one only."""
    argv = ["--model", "tiny-wan", "--num_frames", "33", "--json", str(tmp_path / "r.json")]
    steps = ["--", "--num_inference_steps", "1", "--dualparal_block_latents", "4", "--dualparal_context_latents", "2"]
    quality_command.main([*argv, "--prompts", "2", "--seeds", "1", *steps])
    first = json.loads((tmp_path / "r.json").read_text())
    assert [(v["seed"], v["metrics"]["seams"]) for v in first["videos"]] == [(0, 1), (0, 1)]
    made = []
    monkeypatch.setattr(quality_runs, "_make_and_measure", lambda results, command, seed, prompts, *_: made.append((seed, prompts)))
    quality_command.main([*argv, "--prompts", "3", "--seeds", "1", *steps])
    assert made == [(0, quality_runs.read_prompts("3")[2:])]
    assert "flags was" in refused(capsys, *argv, "--prompts", "2", "--", "--num_inference_steps", "2")
