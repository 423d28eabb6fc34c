"""The files of a command: their names, whether they may be written, and that one run at a time writes them.

Knows: the flags that name files, and that a name carries what tells videos apart. Must not know: how a file is written.
"""

import json
import os
import re
import unicodedata
from contextlib import ExitStack
from pathlib import Path

from ..models.identity import sample_of
from ..output.files import check_apart, check_regular, remove_left_beside
from ..output.lock import FileLock
from ..output.owners import check_owner, spec_in_json, spec_in_latents, spec_in_video
from ..run_spec import short_digest
from .experts import PATHS, files_of_experts
from .flags import command_settings, dualparal_config
from .folders import folders_of
from .images import all_images, images_digests
from .loras import lora_files
from .prompts import prompts_of
from .resume import known_values

_WORDS = 40  # characters of the prompt in a name
# Flags that decide a video and are no fields of a RunSpec, or of which a RunSpec has what they lead to.
_MORE = ("flow_shift", "enable_tiling", "enable_slicing", "use_parallel_vae", "task", "use_vae_channels_last_format", "vae_tile_size_height",
         "vae_tile_size_width")


def video_paths(args, model, config, command):
    """The mp4 of each prompt, a list of Paths.

    ``<the prompt's first words>_<seed>_<8 digits>.mp4``: the digits are a digest of all that decides the video, of the prompt,
    the settings and the weights' folder or hub name, but not of the degrees: a run that is resumed with others finds its
    file. --use_parallel_vae gives all frames at once, and so other key frames and another file. A prompt that comes again has its count behind.
    """
    if command.output is not None:
        return [Path(command.output)]
    more = {name: args.get(name) for name in _MORE}
    given = [path for path in (command.continue_from, command.append_to) if path]
    given += images_digests(args)
    weights = [_weights(name) for name in (model.settings.model_name, *files_of_experts(args).values(), *given)]
    names, paths = {}, []
    for values in known_values(args, model, config, command):
        digest = short_digest(json.dumps([values, more, weights], sort_keys=True, default=str).encode())[:8]
        name = f"{_first_words(values['prompt'])}_{values['seed']}_{digest}"
        names[name] = names.get(name, 0) + 1
        again = f"_{names[name]}" if names[name] > 1 else ""
        paths.append(Path(args["output_directory"], f"{name}{again}.mp4"))
    return paths


def report_path(video):
    """The file of the report on ``video``."""
    return Path(video).with_suffix(".json")


def claim_outputs(args, model):
    """Checks the command's files and locks them until the ExitStack that it returns is closed. On the last process, which writes
    the video where there is one; nothing on the others: one rank finds out, not all at once, what another run has changed
    meanwhile. Raises ValueError as ``check_owners`` and ``lock_outputs`` do."""
    if args["dualparal_degree"] is None or int(os.environ["RANK"]) != int(os.environ["WORLD_SIZE"]) - 1:
        return ExitStack()
    settings = args, model, dualparal_config(args, model), command_settings(args)
    locks = lock_outputs(*settings)
    with locks:
        check_owners(*settings)
        return locks.pop_all()


def check_names(args, model, config, command):
    """Raises ValueError for names that cannot be: two of one file, an input's, one that is long, no file. Reads no file."""
    if command.output is not None and len(prompts_of(args)) > 1:
        raise ValueError(f"--dualparal_output {command.output} is one file and there are several prompts: give one prompt")
    files = [(what, path) for what, path, *_ in _files(args, model, config, command)]
    _check_places(args, model, config, command, files)
    _check_no_folder(args, files)
    for what, path in files:
        check_regular(path, what)


def check_owners(args, model, config, command):
    """Raises ValueError for a file that is there and not of this command, as far as that is known before the model is loaded."""
    for what, path, spec_in, values in _files(args, model, config, command):
        check_owner(path, what, spec_in, values, config.overwrite)


def _files(args, model, config, command):
    """(how a message names it, path, where it says whose it is, what is known of the run) of each file that is written."""
    all_values = known_values(args, model, config, command)
    for path, values in zip(video_paths(args, model, config, command), all_values):
        yield "the video", path, spec_in_video, values
        yield "the report", report_path(path), spec_in_json, values
    for name, spec_in in (("latents_out", spec_in_latents), ("trace", spec_in_json)):
        if getattr(config, name):
            yield f"--dualparal_{name}", Path(getattr(config, name)), spec_in, all_values[0]


def lock_outputs(args, model, config, command):
    """Keeps other runs from the command's files and its checkpoint until the ExitStack that it returns is closed. Raises
    ValueError, with the owner, when another run has one. The folders are there already."""
    locked = [("the video", path) for path in video_paths(args, model, config, command)]
    locked += [(f"--dualparal_{name}", getattr(config, name)) for name in ("checkpoint", "latents_out", "trace") if getattr(config, name)]
    with ExitStack() as locks:
        for what, path in locked:
            locks.enter_context(_lock(path, what))
        for what, path in locked:
            if not Path(path).is_dir():
                remove_left_beside(path)
        return locks.pop_all()


def _lock(path, what):
    try:
        return FileLock(path, what)
    except OSError as error:
        raise ValueError(f"{what} {path} cannot be locked ({error.strerror}): give another folder") from None


def _check_places(args, model, config, command, named):
    """That no two files are one, none is an input, and none is where states are saved."""
    inputs = [(f"--{name}", args[name]) for name in ("dataset_path", *PATHS.values()) if args.get(name)]
    inputs += [(f"--dualparal_{name}", path) for name in ("continue_from",) if (path := getattr(command, name))]
    check_apart([*named, *inputs])
    for image in all_images(args):  # one may be there for several prompts
        check_apart([*named, ("the image", image)])
    if command.append_to:
        check_apart([*named, ("--dualparal_append_to", command.append_to)])
    for lora in lora_files(model, command):  # one of them may be there twice
        check_apart([*named, ("--lora", lora)])
    folders = {"the model's folder": model.settings.model_name} if os.path.isdir(model.settings.model_name) else {}
    if config.checkpoint:
        folders |= {"the checkpoint": Path(config.checkpoint, str(number)) for number in range(len(prompts_of(args)))}
        check_apart([*named, ("--dualparal_checkpoint", config.checkpoint)])
    for what, path in named:
        for other, folder in folders.items():
            if Path(os.path.realpath(folder)) in (Path(os.path.realpath(path)), *Path(os.path.realpath(path)).parents):
                raise ValueError(f"{what} {path} is in {folder}, {other}: give another folder")


def _check_no_folder(args, named):
    """That no file has the name of a folder that the command makes."""
    for folder, name in folders_of(args):
        place = Path(os.path.realpath(folder))
        for what, path in named:
            if Path(os.path.realpath(path)) in (place, *place.parents):
                raise ValueError(f"{what} {path} is the folder {folder} of {name} too, or around it: give it another name")


def _first_words(prompt):
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall("[a-z0-9]+", plain))
    return words[:_WORDS].strip("-") or "video"


def _weights(name):
    """What is known of the weights without reading them all: a hub name, or of a folder the size of each file and some of its
    bytes, so that it may be moved."""
    if os.path.isfile(name):
        return sample_of(Path(name))
    if not os.path.isdir(name):
        return name
    return [(str(file.relative_to(name)), *sample_of(file)) for file in sorted(Path(name).rglob("*.safetensors"))]
