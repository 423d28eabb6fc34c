"""``xdit-dualparal decode FILE``: the video of latents that ``--dualparal_latents_out`` kept.

Knows: the file of latents, the models' VAEs, and the mp4. Must not know: how latents were made. One process does it.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.video_processor import VideoProcessor
from xfuser.core.utils.runner_utils import log

from ..engine.progress_bar import ProgressBar, frames_text
from ..launch.errors import refuse
from ..limits import FRAME_RATE, RATE_FACTOR
from ..models.finite import is_finite
from ..models.folder import check_vae
from ..models.wan_vae import StreamingDecoder
from ..models.weights import checkpoint_folder, load_vae
from ..models.identity import digest_of_parts, dtype_name, part_sums, tiling_of
from ..output.files import check_apart, reason_of, remove_left_beside
from ..output.latents_file import read_before, read_latents
from ..output.lock import FileLock
from ..output.owners import check_owner, spec_in_video
from ..output.mp4 import VideoWriter
from ..output.tags import tags_of
from ..output.writer import ThreadedWriter, to_uint8
from ..run_spec import RunSpec
from . import screen
from .decode_flags import decode_parser
from .registry import DUALPARAL_MODELS


def main(argv):
    """Decodes the file in ``argv``. Ends with exit code 2, and one line, when it cannot."""
    arguments = decode_parser().parse_args(argv)
    screen.set_up(with_dualparal=True)
    output = Path(arguments.output or Path(arguments.file).with_suffix(".mp4"))
    try:
        RATE_FACTOR.of("--quality", arguments.quality)
        if arguments.fps is not None:
            FRAME_RATE.of("--fps", arguments.fps)
        facts, _ = next(read_latents(arguments.file))  # what is wrong shows before the VAE is loaded
        model = _model(arguments.model or facts.get("model"))
        folder = Path(arguments.model_path) if arguments.model_path else checkpoint_folder(model.settings.model_name)
        check_vae(model.family, folder)
        check_latents(arguments.file)
        spec = replace(_spec_in(facts), quality=arguments.quality, fps=arguments.fps or model.settings.fps)
        known = {**spec.of_latents().as_json(), "quality": spec.quality, "fps": spec.fps}
        check_output(arguments, output, {name: value for name, value in known.items() if value is not None})
        with FileLock(output, "--output"):
            remove_left_beside(output)
            frames = decode(arguments, model.family, folder, spec, output)
    except OSError as error:
        refuse(f"{error.filename}: {error.strerror}" if error.filename else reason_of(error))
    except (ValueError, FloatingPointError) as error:
        refuse(error)
    log(f"{frames} frames saved to {output}", log_from_all_processes=True)
    print(output)


def check_output(arguments, output, values):
    """Raises ValueError when ``output`` must not be written: it is the input, no mp4, or another run's video."""
    check_apart([("the file of latents", arguments.file), ("--output", output)])
    if output.suffix != ".mp4":
        raise ValueError(f"--output is {output}: give a file that ends in .mp4")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"--output is {output} and there is no folder {output.parent}: make it first, or give another file")
    try:
        check_owner(output, "--output", spec_in_video, values, arguments.overwrite)
    except ValueError as error:
        raise ValueError(str(error).replace("--dualparal_overwrite (overwrite=True)", "--overwrite")) from None


def _spec_in(facts):
    """The RunSpec of the run that made the latents."""
    try:
        int(facts["num_frames"])
        return RunSpec.from_json(json.loads(facts["spec"]))
    except (KeyError, ValueError, TypeError):
        raise ValueError("the file of latents does not say which run made it: give one that --dualparal_latents_out wrote") from None


def _model(name):
    if name not in DUALPARAL_MODELS:
        raise ValueError(f"model {name!r} is not known: give --model, one of {', '.join(DUALPARAL_MODELS)}")
    return DUALPARAL_MODELS[name]


def check_latents(file):
    """Raises ValueError when the latents in ``file`` have a NaN or an infinity."""
    for number, (_, latents) in enumerate(read_latents(file)):
        if not is_finite(latents):
            raise ValueError(f"block {number} of {file} has a NaN or an infinity, no frames: give a file of a run that was right")


@torch.no_grad()
def decode(arguments, family, folder, spec, output):
    """Decodes all whole blocks of the file; returns how many frames they made. ``folder``: of the model's weights. ``spec``: of
    the run that made them."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    vae = load_vae(family, folder, device, dtype=getattr(torch, arguments.vae_precision))
    if arguments.enable_tiling:
        vae.enable_tiling()
    digest = digest_of_parts([part_sums(dict(vae=vae), 0)])["vae"]
    spec = replace(spec, vae=digest, vae_precision=dtype_name(vae.dtype), tiling=tiling_of(vae), one_segment=None, output_type="uint8")
    check_output(arguments, output, spec.as_json())
    missing, tags = spec.num_frames or None, tags_of(spec.as_json())
    file = VideoWriter(output, spec.fps, spec.quality, label=spec.digest(), tags=tags, overwrite=output.exists())
    try:
        return _write(file, _segments(arguments, vae, missing), missing)
    except FloatingPointError:
        if file.frames_written:
            output.unlink()  # it would look finished
        raise


def _write(file, segments, missing):
    """Writes ``segments`` to ``file``, which it closes; returns how many frames they had. ``missing``: how many are to come, if known."""
    with ThreadedWriter(file) as writer, ProgressBar(missing) as bar:
        given = 0
        for frames in segments:
            writer.write(frames)
            given += len(frames)
            bar.show(given, frames_text(given, missing))
    return writer.frames_written


def _segments(arguments, vae, missing):
    """Yields each block's frames, (frames, height, width, 3) uint8; ``missing`` in all, if that is not None."""
    processor, decoder = VideoProcessor(vae_scale_factor=vae.config.scale_factor_spatial), StreamingDecoder(vae)
    if (before := read_before(arguments.file)) is not None:  # of the video that this one continues
        decoder.warm_up(before.to(vae.device))
    for _, latents in read_latents(arguments.file):
        if latents.dim() != 5 or latents.shape[1] != vae.config.z_dim:
            raise ValueError(f"{arguments.file} has latents of {latents.shape[1:2]} channels and the VAE {vae.config.z_dim}: give its own --model")
        frames = decoder.decode(latents.to(vae.device))[:, :, :missing]
        missing = None if missing is None else missing - frames.shape[2]
        yield to_uint8(processor.postprocess_video(frames, output_type="pt")[0])
