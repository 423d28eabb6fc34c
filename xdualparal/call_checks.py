"""What a call's prompts, embeddings and generators must be.

Knows: their types and shapes. Must not know: the models, or what is made of them.
"""

import html

import torch
from PIL.Image import Image

_INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"  # fillers of Hangul and Braille, which Unicode calls letters and symbols


def check_prompts(prompt, negative_prompt, prompt_embeds, negative_prompt_embeds):
    """Raises ValueError unless there are prompts or embeddings, not both, of the right types, and one negative one for all or
    one for each."""
    for name, text, embeds in (
        ("prompt", prompt, prompt_embeds), ("negative_prompt", negative_prompt, negative_prompt_embeds),
    ):
        if text is not None and embeds is not None:
            raise ValueError(f"{name} and {name}_embeds are given: give one of them")
        _check_texts(name, text)
    if prompt is None and prompt_embeds is None:
        raise ValueError('the prompt is missing: give prompt="what the video shows", or prompt_embeds')
    for text in prompt if isinstance(prompt, list) else [prompt] * (prompt is not None):
        if is_blank(text):
            raise ValueError(f"a prompt is {text[:40]!r}, which says nothing: give what the video shows")
    count = len(prompt) if isinstance(prompt, list) else 1 if prompt is not None else len(prompt_embeds)
    if isinstance(negative_prompt, list) and len(negative_prompt) not in (1, count):
        raise ValueError(f"{len(negative_prompt)} negative prompts are given and there are {count} prompts: give one for all, or one for each")


def is_blank(text):
    """Whether nothing in ``text`` can be seen, when the HTML in it is read, as diffusers' prompt_clean does (twice)."""
    plain = html.unescape(html.unescape(text))
    return not any(letter.isprintable() and not letter.isspace() and letter not in _INVISIBLE for letter in plain)


def _check_texts(name, value):
    if value is None:
        return
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        what = f"a list of {', '.join(sorted({type(text).__name__ for text in texts})) or 'nothing'}" if isinstance(value, list) else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {what}: give a str, or a list of str")
    for text in texts:
        check_is_text(name, text)


def check_is_text(name, text):
    """Raises ValueError for a str that is no text: half a character, which a shell may give, or a NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} {ascii(text[:40])} has bytes that are no UTF-8 text: give it in UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{name} {ascii(text[:40])} has a NUL character: give text")


def check_image_latents(name, latents, latent_shape, num_videos, at_least=None):
    """Raises ValueError unless ``latents``, the argument ``name``, are finite floating latents (images, channels, frames, height, width) of
    ``latent_shape``, (channels, height, width), one image for all videos or one for each; of 1 frame, or of ``at_least`` frames or more."""
    channels, height, width = latent_shape
    wanted = f"(1 or {num_videos}, {channels}, {'1' if at_least is None else f'{at_least} or more'}, {height}, {width})"
    _check_latents(name, latents, wanted, lambda shape: (
        shape[0] in (1, num_videos) and (shape[1], *shape[3:]) == latent_shape and (shape[2] == 1 if at_least is None else shape[2] >= at_least)
    ))


def check_last_image(num_frames, frames_per_latent, is_continued):
    """Raises ValueError unless a last image can be the last frame of a video of ``num_frames``: of a whole latent frame, and not the first. The first
    latent frame is one frame, but for a video that ``is_continued``, from another one."""
    if num_frames == 0:
        raise ValueError("a last image is given and num_frames is 0, for a video without end: give a number of frames")
    alone = 0 if is_continued else 1
    if num_frames == alone or num_frames % frames_per_latent != alone % frames_per_latent:
        fitting = max(1, num_frames // frames_per_latent) * frames_per_latent + alone
        others = f"another multiple of {frames_per_latent}{'' if is_continued else ' and 1'}"
        raise ValueError(f"a last image is given and num_frames is {num_frames}: give {fitting}, or {others}")


def check_image_embeds(embeds, config, num_videos):
    """Raises ValueError unless ``embeds`` are what CLIP says of the images, (videos, tokens, dim) of a transformer's ``config``."""
    dim, tokens = config.image_dim, config.pos_embed_seq_len
    wanted = f"(1 or {num_videos}, {tokens or 'tokens'}, {dim})"
    if not isinstance(embeds, torch.Tensor) or embeds.dim() != 3 or not embeds.is_floating_point():
        raise ValueError(f"image_embeds is {type(embeds).__name__}: give a floating tensor {wanted}, or the image alone")
    shape = tuple(embeds.shape)
    if shape[0] not in (1, num_videos) or shape[2] != dim or tokens not in (None, shape[1]):
        what = ": the model takes a first and a last image, give both" if tokens == 2 * shape[1] else f": give {wanted}"
        raise ValueError(f"image_embeds is {shape}{what}")
    if not embeds.isfinite().all():
        raise ValueError("image_embeds has a NaN or an infinity: give those of a right image")


def check_text_length(max_sequence_length, prompt_embeds, wanted):
    """Raises ValueError for text of another length than ``wanted``, on which attention counts where it sees images."""
    name, length = ("max_sequence_length", max_sequence_length) if prompt_embeds is None else ("the length of prompt_embeds", prompt_embeds.shape[1])
    if length != wanted:
        raise ValueError(f"{name} is {length} and the model's attention tells text from image by a length of {wanted}: give {wanted}")


def check_images(name, images, num_videos):
    """Raises ValueError unless ``images``, the argument ``name`` as a list, are PIL images, one for all videos or one for each."""
    for image in images:
        if not isinstance(image, Image):
            raise ValueError(f"{name} is {type(image).__name__}: give a PIL image, or a list of one for each prompt")
    if len(images) not in (1, num_videos):
        what = f"{len(images)} images" if name == "image" else f"{name}: {len(images)} images"
        raise ValueError(f"{what} are given and there are {num_videos} prompts: give one for all, or one for each")


def check_given_latents(name, latents, latent_shape):
    """Raises ValueError unless ``latents``, the argument ``name``, are finite floating latents (1, channels, frames, height, width) of
    ``latent_shape``, (channels, height, width)."""
    channels, height, width = latent_shape
    _check_latents(name, latents, f"(1, {channels}, frames, {height}, {width})", lambda shape: (
        shape[2] > 0 and shape == (1, channels, shape[2], height, width)
    ))


def _check_latents(name, latents, wanted, suits):
    if not isinstance(latents, torch.Tensor) or latents.dim() != 5 or not latents.is_floating_point():
        raise ValueError(f"{name} is {type(latents).__name__}: give a floating tensor {wanted}, as output_type 'latent' has them")
    if not suits(tuple(latents.shape)):
        raise ValueError(f"{name} is {tuple(latents.shape)}: give {wanted}, or the height and width of what they are of")
    if not latents.isfinite().all():
        raise ValueError(f"{name} has a NaN or an infinity: give latents of a run that was right")


def check_embeds(prompt_embeds, negative_prompt_embeds, dim):
    """Raises ValueError unless embeddings are finite floating tensors (videos, length, ``dim``), alike, one negative row for
    all or one for each."""
    for name, rows in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
        if rows is not None:
            _check_rows(name, rows, dim)
    if prompt_embeds is None or negative_prompt_embeds is None:
        return
    videos, *sizes = prompt_embeds.shape
    if negative_prompt_embeds.shape not in {(videos, *sizes), (1, *sizes)}:
        raise ValueError(
            f"negative_prompt_embeds are {tuple(negative_prompt_embeds.shape)} and prompt_embeds "
            f"{tuple(prompt_embeds.shape)}: give equal shapes, or one negative row for all"
        )


def _check_rows(name, rows, dim):
    if not isinstance(rows, torch.Tensor) or not rows.is_floating_point():
        what = rows.dtype if isinstance(rows, torch.Tensor) else f"a {type(rows).__name__}"
        raise ValueError(f"{name} is {what}: give a tensor of floating-point numbers, (videos, length, {dim})")
    if rows.dim() != 3 or rows.shape[2] != dim or 0 in rows.shape:
        raise ValueError(f"{name} has the shape {tuple(rows.shape)}: give (videos, length, {dim})")
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} has numbers that are not finite: encode the prompt anew")


def check_generators(generators, num_videos):
    """Raises ValueError unless there is a CPU generator, or a list of one for each video."""
    listed = generators if isinstance(generators, list) else [generators]
    if len(listed) not in (1, num_videos):
        raise ValueError(f"{len(listed)} generators were given for {num_videos} videos: give one, or one for each")
    for generator in listed:
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"generator is a {type(generator).__name__}: give torch.Generator().manual_seed(...)")
        if generator.device.type != "cpu":
            raise ValueError(
                f"the generator is on {generator.device}: give one on the CPU, torch.Generator().manual_seed(...), so "
                "that every rank draws the same noise"
            )
