"""The command ``bench``: command lines, figures, tables; and a real one."""

import json
import re
import subprocess
import sys
import time

import pytest
from dualparal_testing.commands import is_running

from xdualparal.bench import runs
from xdualparal.bench.command import main, run_all
from xdualparal.bench.flags import bench_of, bench_parser
from xdualparal.bench.plot import draw
from xdualparal.bench.runs import Case, Run, launch_flags
from xdualparal.bench.summary import Range, growth_with_frames, growth_with_processes, read_summaries, summarize
from xdualparal.bench.table import as_text
from xdualparal.xdit.bench_models import unsuited_for

MIB = 2**20


def bench(*flags):
    return bench_of(bench_parser().parse_args(["--model", "tiny-wan", *flags]))


def made(strategy, frames, wall_s, processes=2, **figures):
    return Run(Case(strategy, processes, frames), ("xdit-dualparal",), wall_s=wall_s, **figures)


def test_all_runs_have_the_same_request():
    asked = bench("--seed", "7", "--num_inference_steps", "4", "--height", "32", "--flags", "--dualparal_stagger 2")
    ours, xdits = (launch_flags(asked, Case(name, 2, 65), "out") for name in ("dualparal", "xdit"))
    same = ["--model", "tiny-wan", "--prompt", "a red circle on a dark background", "--seed", "7", "--num_inference_steps", "4",
            "--height", "32", "--num_frames", "65", "--output_directory", "out"]
    assert xdits == [*same, "--ulysses_degree", "2"]
    assert ours == [*same, "--dualparal_degree", "2", "--dualparal_strategy", "dualparal", "--dualparal_stagger", "2", "--dualparal_trace", "out/trace.json"]
    full = launch_flags(asked, Case("full", 2, 65), "out")
    assert full == [*same, "--dualparal_degree", "1", "--dualparal_strategy", "full", "--dualparal_stagger", "2", "--ulysses_degree", "2"]


@pytest.mark.parametrize("flags, said", [
    (["--strategies", "dualparal,none"], "--strategies has 'none': give some of dualparal,"), (["--num_frames", "many"], "give whole numbers"),
    (["--num_frames", "0"], "--num_frames is 0"), (["--processes", "0"], "--processes is 0"), (["--runs", "0"], "--runs is 0"),
    (["--seed", "-2"], "--seed is -2"), (["--flags", "'"], "--flags is"), (["--timeout_s", "nan"], "--timeout_s is nan"),
    (["--json", "none/a.json"], "there is no folder none"), (["--plot", "a.jpg"], "ends in .jpg"), (["--keep", "none/a"], "there is no folder none"),
    (["--json", "mine"], "mine exists"), (["--plot", "mine.svg"], "mine.svg exists"), (["--keep", "mine"], "mine exists"), (["--unknown"], "unknown"),
])
def test_refuses_before_anything_runs(tmp_path, monkeypatch, capsys, flags, said):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mine.svg"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr("xdualparal.bench.command.run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as end:
        main(["--model", "tiny-wan", *flags])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and said in err and err.count("\n") == 1 and not out


def test_rounds_are_in_turn_and_what_failed_is_not_run_again(tmp_path):
    ran = []

    def run(bench, case, folder):
        ran.append((case.strategy, case.num_frames))
        return Run(case, (), failed="it does not fit") if case == Case("xdit", 2, 129) else made(case.strategy, case.num_frames, 1.0)

    rounds = run_all(bench("--strategies", "dualparal,xdit", "--num_frames", "129,65", "--runs", "2"), run)
    turn = [("dualparal", 65), ("xdit", 65), ("dualparal", 129), ("xdit", 129)]
    assert ran == turn + turn[:-1] and [len(each) for each in rounds] == [4, 3]


def test_medians_and_ratios_are_of_rounds():
    rounds = [
        [made("a", 100, one, peak_bytes=(MIB, 3 * MIB), pass_s=0.1), made("b", 100, two, peak_bytes=(2 * MIB, peak * MIB)), Run(Case("c", 2, 100), (), failed="why")]
        for one, two, peak in ((1.0, 3.0, 5), (2.0, 2.0, 7), (4.0, 20.0, 6))
    ]
    a, b, c = summarize(rounds)
    assert (a.wall_s, a.ratio, a.pass_s, a.first_s) == (Range(2.0, 1.0, 4.0), Range(1.0, 1.0, 1.0), Range(0.1, 0.1, 0.1), None)
    assert (b.wall_s, b.ratio, b.peak_bytes) == (Range(3.0, 2.0, 20.0), Range(3.0, 1.0, 5.0), (2 * MIB, 7 * MIB))
    assert (c.wall_s, c.ratio, c.peak_bytes, c.failed) == (None, None, None, "why")
    text = as_text([a, b, c], [], [])
    rows = [line.split() for line in text.splitlines()]
    assert rows[1][:6] == ["a", "2", "100", "2.00", "(1.00-4.00)", "1.00"] and rows[2][-2:] == ["2", "7"]
    assert text.splitlines()[-1] == "no video: c, 2 processes, 100 frames: why"


def test_growth():
    """b's time is quadratic and its memory doubles; a frame of a takes what it took, without fill and drain."""
    one = [made(name, frames, seconds, processes, **more) for name, frames, processes, seconds, more in (
        ("a", 100, 1, 10.0, {}), ("a", 100, 2, 6.0, dict(steady_s_per_frame=0.05)), ("a", 400, 2, 20.0, dict(steady_s_per_frame=0.051)),
        ("b", 100, 2, 2.0, dict(peak_bytes=(MIB, 2 * MIB))), ("b", 400, 2, 32.0, dict(peak_bytes=(4 * MIB, MIB))),
    )]
    a, b = growth_with_frames([one])
    assert (b.time.median, b.exponent, b.memory, b.steady_per_frame) == (16.0, pytest.approx(2.0), 2.0, None)
    assert (a.first.processes, a.steady_per_frame.median) == (2, pytest.approx(1.02)) and a.memory is None
    [processes] = growth_with_processes([one])
    assert processes.time.median == pytest.approx(0.6) and processes.first == Case("a", 1, 100) and processes.last == Case("a", 2, 100)
    text = as_text(summarize([one]), [a, b], [processes])
    assert "4.00 times the frames (100 to 400) take 16.00 times the time (frames to the power of 2.00), 2.00 times the memory" in text
    assert "2 processes are 1.67 times as fast as 1" in text


def test_growth_is_of_pairs_in_one_round():
    """A machine that is three times as slow in the second round, and what was not run in both."""
    rounds = [[made("a", 100, slow * 1.0), made("a", 200, slow * seconds)] for slow, seconds in ((1.0, 2.0), (3.0, 2.2))]
    [growth] = growth_with_frames([*rounds, [made("a", 100, 50.0)]])
    assert (growth.time.median, growth.time.least, growth.time.greatest) == pytest.approx((2.1, 2.0, 2.2))


def test_a_command_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LAUNCHER", ("-c", "import time; time.sleep(600)"))
    start = time.monotonic()
    done = runs.run(bench("--timeout_s", "0.5"), Case("dualparal", 2, 65), tmp_path / "run")
    assert done.failed == "it took more than 0.5 s" and time.monotonic() - start < 60


def test_a_bench_that_is_ended_ends_its_command(tmp_path):
    pid = tmp_path / "pid"
    (tmp_path / "sleeps.py").write_text(f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    script = (
        f"from xdualparal.bench import command, runs; runs.LAUNCHER = ({str(tmp_path / 'sleeps.py')!r},); "
        "command.main(['--model', 'tiny-wan'])"
    )
    bench = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not pid.exists() or not pid.read_text():
            assert bench.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        bench.terminate()
        assert bench.wait(60) == 130 and not is_running(int(pid.read_text()))
    finally:
        bench.kill()


def test_the_reason_is_the_launchers_line(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "LAUNCHER", ("-c", "import sys; sys.exit('xdit-dualparal: error: no room')"))
    assert runs.run(bench(), Case("dualparal", 2, 65), tmp_path / "run").failed == "exit code 1: no room"


def test_help_needs_no_torch(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    from xdualparal.xdit.cli import main as launcher

    with pytest.raises(SystemExit) as end:
        launcher(["bench", "--help"])
    assert end.value.code == 0 and "--strategies" in capsys.readouterr().out


def test_what_cannot_run_the_model_is_left_out_and_refused_by_name(monkeypatch):
    asked = bench_parser().parse_args(["--model", "tiny-wan"])
    reasons = unsuited_for("tiny-wan")
    assert bench_of(asked, reasons).strategies == ("dualparal", "chunks", "full", "video_infinity", "fifo")
    with pytest.raises(ValueError, match="^--strategies has xdit and model tiny-wan runs with DualParal only: leave it out$"):
        bench_of(bench_parser().parse_args(["--model", "tiny-wan", "--strategies", "full,xdit"]), reasons)
    assert unsuited_for("Wan2.1-T2V") == {} and "an expert for some" in unsuited_for("Wan2.2-T2V")["fifo"]
    with pytest.raises(ValueError, match="is not known"):
        unsuited_for("tiny-wam")


@pytest.mark.parametrize("frames, processes, labels", [
    ((65, 129), (1,), ["video frames"]), ((65,), (1, 2), ["processes"]), ((65, 129), (1, 2), ["video frames", "processes"]), ((65,), (1,), ["video frames"]),
])
def test_the_plot_is_against_what_differs(tmp_path, frames, processes, labels):
    runs = [made("full", count, 1.0 + count / number, number, peak_bytes=(MIB,) * number) for count in frames for number in processes]
    [svg] = draw(summarize([runs]), tmp_path / "b.svg", "about")
    texts = [line for line in svg.read_text().splitlines() if "<text" in line]
    assert [label for label in ("video frames", "processes") if any(f">{label}<" in text for text in texts)] == labels


def test_the_axis_of_processes_has_the_measured_counts(tmp_path):
    runs = [made("full", 65, 1.0 + 1 / number, number) for number in (1, 2, 3)]
    [svg] = draw(summarize([runs]), tmp_path / "b.svg", "about")
    ticks = re.findall(r'id="xtick_\d+">.*?<text[^>]*>([^<]*)</text>', svg.read_text(), re.DOTALL)
    assert ticks == ["1", "2", "3"] * 2


@pytest.mark.processes
def test_a_real_bench(tmp_path, capsys):
    """A strategy that makes videos and one that cannot: 3 processes do not divide the model's 4 heads."""
    flags = ["--num_frames", "161", "--strategies", "dualparal,full", "--processes", "3", "--runs", "1", "--num_inference_steps", "3"]
    main(["--model", "tiny-wan", *flags, "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b"), "--keep", str(tmp_path / "kept")])
    out, _ = capsys.readouterr()
    known = json.loads((tmp_path / "b.json").read_text())
    ours, other = known["runs"]
    assert 0 < ours["first_s"] <= ours["wall_s"] < ours["command_s"] and ours["failed"] is None and ours["steady_s_per_frame"] > 0
    assert len(ours["peak_bytes"]) == 3 and min(ours["peak_bytes"]) > 100 * MIB and ours["pass_s"] > 0
    assert "exit code 2" in other["failed"] and "no video: full, 3 processes, 161 frames: exit code 2" in out
    assert known["machine"]["processor"] in out.splitlines()[0]
    assert as_text(read_summaries(known), [], []) in out
    assert len(list((tmp_path / "kept").rglob("*.mp4"))) == 1 and (tmp_path / "b.svg").exists() and (tmp_path / "b.png").exists()
