"""The prompts of a command: text that says something, from flags or a csv file."""

import codecs

import pytest

from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import make_parser
from xdualparal.xdit.prompts import many_prompts_line, prompts_of, read_prompts


def command(*extra):
    """A good command's flags, as a dict, but for the prompt."""
    return vars(make_parser().parse_args(["--model", "tiny-wan", "--dualparal_degree", "1", *extra]))


@pytest.mark.parametrize("prompts, words", [
    ([""], "--prompt is '', which says nothing: give what the video shows"),
    (["   "], "says nothing"), (["\n\t"], "says nothing"), (["\u200b"], "says nothing"),
    (["a", ""], "--prompt 2 of 2 is '', which says nothing"),
    (["a \udcff b"], "--prompt 'a .udcff b' has bytes that are no UTF-8 text"),
    (["\0"], "says nothing"), (["a\0"], "has a NUL character"),
    ([], "the prompt is missing"),
])
def test_a_prompt_that_says_nothing_is_refused(tmp_path, monkeypatch, prompts, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as error:
        check_command(command("--prompt", *prompts), 1)
    str(error.value).encode()  # can be printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("negative", ["\udcff", "a\0"])
def test_a_negative_prompt_is_text(negative):
    with pytest.raises(ValueError, match="--negative_prompt .* has"):
        check_command(command("--prompt", "a", "--negative_prompt", negative), 1)
    check_command(command("--prompt", "a", "--negative_prompt", ""), 1)


@pytest.mark.parametrize("prompts, line", [
    (["a red circle"], ""),
    (["a", "red", "circle"], "3 prompts, 3 videos: 'a', 'red', 'circle'; if they are one prompt, put it in quotes"),
    (["a ship", "a circle"], "2 prompts, 2 videos: 'a ship', 'a circle'"),
    (["x" * 99, *"abcde"], "6 prompts, 6 videos: '" + "x" * 37 + "...', 'a', 'b', 'c', 'd', ...; if they are one prompt, put it in quotes"),
])
def test_several_prompts_are_said(prompts, line):
    assert many_prompts_line(command("--prompt", *prompts)) == line


@pytest.mark.parametrize("prompt", ["a\nb", "x " * 100_000, "emoji \U0001f6a2", "--dashes inside", "1"])
def test_odd_prompts_that_are_text_are_taken(prompt):
    assert prompts_of(command(f"--prompt={prompt}")) == [prompt]
    check_command(command(f"--prompt={prompt}"), 1)


GOOD = "prompt\na red circle\n\"a ship, in a storm\"\n"


@pytest.mark.parametrize("content", [
    GOOD.encode(), codecs.BOM_UTF8 + GOOD.encode(), GOOD.replace("\n", "\r\n").encode(), GOOD.replace("\n", "\n\n").encode(),
    b"number,prompt\n1,a red circle\n2,\"a ship, in a storm\"",
])
def test_a_file_of_prompts(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert read_prompts(tmp_path / "a.csv") == ["a red circle", "a ship, in a storm"]


@pytest.mark.parametrize("letter", "\x0b\x0c\x1c\x85\u2028\u2029")
def test_other_separators_do_not_end_a_line(tmp_path, letter):
    (tmp_path / "a.csv").write_text(f"prompt\na{letter}b\n", encoding="utf-8")
    assert read_prompts(tmp_path / "a.csv") == [f"a{letter}b"]


def test_a_prompt_of_several_lines(tmp_path):
    (tmp_path / "a.csv").write_text('prompt\n"a ship\nin a storm"\n')
    assert read_prompts(tmp_path / "a.csv") == ["a ship\nin a storm"]


@pytest.mark.parametrize("content, words", [
    (b"prompt,negative_prompt\na,b\n", "has a column 'negative_prompt', which would be ignored: give --negative_prompt for all"),
    (b"prompt, Seed\na,3\n", "has a column ' Seed', which would be ignored"), (b"prompt,prompt\na,b\n", "has more than one column 'prompt'"),
    (b"", "has no column 'prompt'"), (b"\n\n", "has no column 'prompt'"), (b"a red circle\na ship\n", "has no column 'prompt'"),
    (b"prompt", "has no row below its first line"), (codecs.BOM_UTF8 + b"prompt\r\n\r\n", "has no row below"),
    (GOOD.encode("utf-16"), "is no UTF-8 text: give a csv file, saved as UTF-8"),
    (GOOD.encode("utf-16-le"), "a.csv.* (has no column|is no csv|NUL)"), ("prompt\ncaf\xe9\n".encode("latin-1"), "is no UTF-8 text"),
    (bytes(range(256)), "is no UTF-8 text"), (b"prompt\n\0\0\n", "(is no csv|says nothing)"),
    (b"prompt\na\n  \nb\n", "line 3, has a prompt that says nothing: give what the video shows, or delete the line"),
    (b"prompt\n\"\"\n", "line 2, has a prompt that says nothing"), (b"number,prompt\n3\n", "line 2, has a prompt that says nothing"),
    (b"prompt\na ship, in a storm\n", "line 2, has more columns than the first line: put a prompt with commas in double quotes"),
    (b"prompt\n\"never closed\n", "is no csv after line 1 .unexpected end.*: give a csv file"),
    (b"prompt\n" + b"x" * 200_000, "is no csv after line 1 .field larger"),
])
def test_a_file_that_is_none_of_prompts_is_refused(tmp_path, content, words):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=words) as error:
        check_command(command("--dataset_path", str(tmp_path / "a.csv")), 1)
    assert str(error.value).startswith("--dataset_path ") and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_folder_and_two_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--dataset_path .* is no file: give a csv file"):
        check_command(command("--dataset_path", str(tmp_path)), 1)
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(ValueError, match="--prompt and --dataset_path are given"):
        check_command(command("--dataset_path", str(tmp_path / "a.csv"), "--prompt", "a"), 1)
    check_command(command("--dataset_path", str(tmp_path / "a.csv"), "--output_directory", str(tmp_path)), 1)
