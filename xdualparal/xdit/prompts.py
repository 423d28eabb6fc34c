"""The prompts of a command.

Knows: the flags of prompts and the file of prompts. Must not know: how a prompt is encoded.
"""

import csv
from io import StringIO
from pathlib import Path

from ..call_checks import check_is_text, is_blank

_SHOWN_PROMPTS, _SHOWN_LETTERS = 5, 40  # in a message
# Settings that a column might be thought to give for each prompt.
_SETTINGS = ("negative_prompt", "seed", "height", "width", "num_frames", "num_inference_steps", "guidance_scale", "flow_shift")


class NumberedPrompt(str):
    """A prompt that knows its place among all prompts, by which its video's file is named, and its negative prompt:
    xDiT hands lists of prompts to replicas and batches."""

    def __new__(cls, text, number, negative_prompt):
        prompt = super().__new__(cls, text)
        prompt.number, prompt.negative_prompt = number, negative_prompt
        return prompt

    def __getnewargs__(self):
        return str(self), self.number, self.negative_prompt


def as_list(prompts):
    """One prompt or a list of them as a list."""
    return prompts if isinstance(prompts, list) else [prompts]


def check_prompts(args):
    """Raises ValueError for prompts that say nothing, and for numbers of prompts that do not fit each other."""
    if args["dataset_path"] and as_list(args["prompt"] or []):
        raise ValueError("--prompt and --dataset_path are given and one would be ignored: leave one out")
    prompts = prompts_of(args)
    if not args["dataset_path"]:
        _check_texts("--prompt", prompts)
    negative = as_list(args["negative_prompt"] or [])
    for text in negative:
        check_is_text("--negative_prompt", text)
    replicas = args["data_parallel_degree"]
    if len(negative) not in (0, 1, len(prompts)):
        raise ValueError(
            f"{len(negative)} negative prompts are given and there are {len(prompts)} prompts: give one for all, in quotes, or "
            "one for each"
        )
    if len(prompts) < replicas:
        raise ValueError(
            f"--data_parallel_degree is {replicas} and there are {len(prompts)} prompts: every replica needs one, give "
            f"{replicas} prompts or a degree of {len(prompts)}"
        )


def prompts_of(args):
    """The prompts that a command makes videos of, in order. Raises ValueError for a file that cannot be used."""
    return read_prompts(args["dataset_path"]) if args.get("dataset_path") else as_list(args["prompt"])


def many_prompts_line(args):
    """What should be said of several prompts, in one line, or "" for one: words without quotes are a prompt each."""
    prompts = prompts_of(args)
    if len(prompts) == 1:
        return ""
    single_words = not args.get("dataset_path") and not any(" " in prompt for prompt in prompts)
    hint = "; if they are one prompt, put it in quotes" if single_words else ""
    return f"{len(prompts)} prompts, {len(prompts)} videos: {_shown(prompts)}{hint}"


def not_begun_line(prompts, begun):
    """What should be said of those of ``prompts``, NumberedPrompts, whose numbers are not in ``begun``, in one line, or "" for none."""
    left = [prompt for prompt in prompts if prompt.number not in begun]
    were = "prompt was" if len(left) == 1 else "prompts were"
    return f"stopped: {len(left)} {were} not begun: {_shown(left)}" if left else ""


def _shown(prompts):
    shown = ", ".join(repr(_shortened(prompt)) for prompt in prompts[:_SHOWN_PROMPTS])
    return shown + (", ..." if len(prompts) > _SHOWN_PROMPTS else "")


def _check_texts(name, texts):
    for number, text in enumerate(texts):
        place = f" {number + 1} of {len(texts)}" if len(texts) > 1 else ""
        if is_blank(text):
            raise ValueError(f"{name}{place} is {_shortened(text)!r}, which says nothing: give what the video shows")
        check_is_text(f"{name}{place}", text)


def _shortened(text):
    return text if len(text) <= _SHOWN_LETTERS else text[:_SHOWN_LETTERS - 3] + "..."


def read_prompts(path):
    """The column "prompt" of the csv file ``path``, UTF-8 with or without a byte order mark; a line that is quite empty is
    left out. Raises ValueError for any other file, and for a row that has no prompt or more columns than the first line."""
    name = f"--dataset_path {path}"
    prompts = _column(name, _read_text(name, Path(path)))
    if not prompts:
        raise ValueError(f"{name} has no row below its first line: add a prompt a line")
    return prompts


def _read_text(name, path):
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{name} is no file: give a csv file")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{name} cannot be read ({error.strerror}): give a csv file") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is no UTF-8 text: give a csv file, saved as UTF-8") from None


def _column(name, text):
    reader = csv.DictReader(StringIO(text), strict=True)  # not splitlines: a form feed, say, does not end a line
    try:
        _check_columns(name, reader.fieldnames or [])
        return [_prompt(f"{name}, line {reader.line_num},", row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{name} is no csv after line {reader.line_num} ({error}): give a csv file") from None


def _check_columns(name, columns):
    if columns.count("prompt") != 1:
        count = "no" if "prompt" not in columns else "more than one"
        raise ValueError(f"{name} has {count} column 'prompt': name the prompts' column so in the first line")
    for column in columns:
        if column.strip().lower() in _SETTINGS:
            raise ValueError(
                f"{name} has a column {column!r}, which would be ignored: give --{column.strip().lower()} for all prompts, and delete it"
            )


def _prompt(place, row):
    if None in row:
        raise ValueError(f"{place} has more columns than the first line: put a prompt with commas in double quotes")
    prompt = row["prompt"]
    if prompt is None or is_blank(prompt):
        raise ValueError(f"{place} has a prompt that says nothing: give what the video shows, or delete the line")
    check_is_text(place, prompt)
    return prompt
