"""The images of a command: files that the videos begin with, or end with.

Knows: the flags of images, and xDiT's rules for their sizes (xDiT 0.7.0, runner_models/wan.py). Must not know: what a model makes of one.
"""

import math
from functools import lru_cache
from pathlib import Path

from diffusers.utils import load_image
from PIL import Image, UnidentifiedImageError

from ..limits import SIDE
from ..models.identity import sample_of
from ..run_spec import short_digest
from .flags import value_of
from .prompts import prompts_of

TASKS = TEXT, IMAGE = "t2v", "i2v"  # xDiT's names


def with_image_size(args, model, is_planned=False):
    """``model``, the class, for frames of the size that the images of ``args`` lead to, or itself without any, as it may be where a command ``is_planned``.

    Raises ValueError, one line, for images that cannot be used: of a model of text alone, missing or broken ones, another number than prompts, sizes that
    differ.
    """
    _check_task(args, model)
    paths, facts = args["input_images"], model.family.facts
    _check_last_images(args, model, is_planned)
    if not paths:
        if facts.conditioned and not is_planned:
            _check_no_first(args, facts)
        if args["resize_input_images"]:
            raise ValueError("--resize_input_images is given and there is no image: give --input_images, or leave it out")
        return model
    if not facts.takes_images:
        raise ValueError(f"--input_images is given and {args['model']} makes videos of text only: give --model Wan2.2-I2V or Wan2.2-TI2V, or leave it out")
    _check_count(paths, args, "images")
    sizes = {path: _fitted(_size_of(path), args, model) for path in paths}
    (first, size), *others = sizes.items()
    for path, other in others:
        if other != size:
            raise ValueError(
                f"--input_images {first} leads to frames of {_shown(size)} pixels and {path} to {_shown(other)}: give --resize_input_images, "
                "or a command for each"
            )
    return type(model.__name__, (model,), dict(image_size=size))


def _check_no_first(args, facts):
    """Raises ValueError for a video of an image without one, unless it continues another and nothing sees the image."""
    if not args["dualparal_continue_from"]:
        raise ValueError(f"--input_images is missing: {args['model']} makes a video of an image, add --input_images FILE")
    if facts.sees_images:
        raise ValueError(f"--input_images is missing: {args['model']} sees its image in all passes, add the one that the video began with")


def images_of(args, model, numbers, paths=None):
    """{number of the prompt: its PIL image, of the size of the frames}, of the prompts ``numbers``; {} without. ``paths``: of the images, by default those
    that videos begin with."""
    paths = args["input_images"] if paths is None else paths
    return {} if not paths else {number: _image(paths[number if len(paths) > 1 else 0], args, model) for number in numbers}


def last_images_of(args, model, numbers):
    """As ``images_of``, of those that videos end with; {} without."""
    return images_of(args, model, numbers, _last_images(args))


def images_digests(args):
    """A short text for each image that tells its file from others."""
    return [short_digest(repr(sample_of(Path(path))).encode()) for path in all_images(args)]


def all_images(args):
    """The files of the images that videos begin or end with."""
    return [*args["input_images"], *_last_images(args)]


def _last_images(args):
    return args["dualparal_last_image"] or []


def _check_last_images(args, model, is_planned):
    paths = _last_images(args)
    if not paths:
        if model.needs_last_image and args["input_images"] and not is_planned:
            raise ValueError(f"--dualparal_last_image is missing: {args['model']} makes a video between two images, add it")
        return
    if not model.family.facts.conditioned:
        raise ValueError(f"--dualparal_last_image is given and {args['model']} takes no last image: give --model Wan2.2-I2V, or leave it out")
    if model.family.facts.sees_images and not model.needs_last_image:  # diffusers' pipeline cannot take it either
        raise ValueError(f"--dualparal_last_image is given and {args['model']} sees a first image alone: give --model Wan2.1-FLF2V or Wan2.2-I2V, or leave it out")
    if not args["input_images"] and not args["dualparal_continue_from"]:
        raise ValueError("--dualparal_last_image is given and no first image is: give --input_images too")
    _check_count(paths, args, "last images")
    for path in paths:
        _size_of(path, "--dualparal_last_image")


def _check_count(paths, args, what):
    prompts = len(prompts_of(args))
    if len(paths) not in (1, prompts):
        raise ValueError(f"{len(paths)} {what} are given and there are {prompts} prompts: give one for all, or one for each")


def _check_task(args, model):
    task = args["task"]
    if task is None:
        return
    if not model.family.facts.takes_images:
        raise ValueError(f"--task is {task} and {args['model']} has one task, text to video: leave it out")
    if task not in TASKS:
        raise ValueError(f"--task is {task!r}: give one of {', '.join(TASKS)}, or leave it out")
    if (task == IMAGE) != bool(args["input_images"]):
        raise ValueError(f"--task is {task} and {'an image' if args['input_images'] else 'no image'} is given: leave --task out, or {_MENDED[task]}")


_MENDED = {TEXT: "--input_images", IMAGE: "give --input_images"}


@lru_cache(maxsize=256)
def _size_of(path, flag="--input_images"):
    """(height, width) in pixels, as the image is to be seen. Reads all of it: a broken one shows now."""
    image = _read(path, flag)
    return image.height, image.width


def _read(path, flag="--input_images"):
    """As xDiT does: turned as its EXIF orientation says, in RGB, transparency dropped."""
    name = f"{flag} {path}"
    if "://" in path:
        raise ValueError(f"{name} is an address: download it, and give the file")
    if not Path(path).is_file():
        raise ValueError(f"{name} is no file: give an image")
    try:
        return load_image(path)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be read as an image ({type(error).__name__}): give another, a PNG or JPEG say") from None


def _image(path, args, model):
    """The image at the size of the frames; with --resize_input_images scaled until it covers them, and its middle cut out.

    Not by xDiT's resize_and_crop_image, which rounds some sizes down to a pixel less than the frame (49 pixels to 64, say) and fills it with black.
    """
    image, (height, width) = _read(path), (value_of(args, model, side) for side in ("height", "width"))
    if not args["resize_input_images"]:
        return image.resize((width, height))
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, int(image.width * scale)), max(height, int(image.height * scale))))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _fitted(size, args, model):
    """(height, width) of the frames: about the area of --height and --width, in the image's shape, or with --resize_input_images those."""
    height, width = (SIDE.of(f"--{name}", value_of(args, model, name)) for name in ("height", "width"))
    unit = model.pixel_multiple()
    if args["resize_input_images"]:
        return height // unit * unit, width // unit * unit
    shape = size[0] / size[1]
    fitted = tuple(round(math.sqrt(height * width * ratio)) // unit * unit for ratio in (shape, 1 / shape))
    if min(fitted) == 0:
        raise ValueError(f"an image of {_shown(size)} pixels is too long for frames of the area of {_shown((height, width))}: give --resize_input_images, or cut it")
    return fitted


def _shown(size):
    return f"{size[1]} x {size[0]}"
