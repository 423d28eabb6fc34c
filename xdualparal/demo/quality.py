"""Measures demo clips against their prompts; `python -m xdualparal.demo.quality` measures the demo model alone.

Knows: what demo clips show, and diffusers' stock pipeline. Must not know: DualParal.

Backgrounds are grey and objects are not, so the chroma of a pixel (its largest channel minus its smallest) says how
much of it the object covers, whatever the object's colour. Everything else follows from that coverage: how many
objects there are, where they are, how they move, their colour and their shape. Videos are float32 arrays
(frames, height, width, 3) in 0..1; positions are in pixels of a 32-pixel frame.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from . import scenes as demo

CHECKPOINT = Path(__file__).parent / "tiny-wan"
OBJECT_CHROMA = 0.3  # half of the palest object's (green, 0.59); backgrounds stay below 0.02
SMALLEST_OBJECT_PX = 6  # fewer pixels are an artefact; an object has about 160
COLOUR_TOLERANCE = 0.3  # largest RGB distance to the palette; neighbours in it are 0.6 apart
BACKGROUND_TOLERANCE = 0.1  # mean absolute error; the nearest two backgrounds are 0.17 apart
# E[x2 y2] / (E[x2] E[y2]) about the centre is 1 for a square and 2/3 for a disc, of any size.
SQUARE_MOMENT = 5 / 6
WALL_ZONE_PX = 1.5  # a change of direction nearer than this to where the centre turns is a bounce, elsewhere a fault
LONGEST_STEP_PX = 2.0  # twice the fastest object's
ONE_OBJECT_SHARE = 0.95


@dataclass(frozen=True)
class Measures:
    """One clip against its prompt. All but `_px`, pixels a frame, are shares of frames, 0 to 1."""

    prompt: str
    one_object: float
    colour: float
    shape: float
    background: float
    speed_px: float
    speed_error_px: float
    longest_step_px: float

    @property
    def all_right(self) -> bool:
        """Whether one object is there throughout, looks as the prompt says in most frames, and never jumps."""
        looks = min(self.colour, self.shape, self.background) > 0.5
        return self.one_object >= ONE_OBJECT_SHARE and looks and self.longest_step_px <= LONGEST_STEP_PX


def connected_labels(mask: np.ndarray) -> np.ndarray:
    """Labels a mask (frames, h, w) bool: int, 0 outside; pixels with a common side get one label within a frame."""
    labels = np.where(mask, np.arange(1, mask[0].size + 1).reshape(mask[0].shape), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        sides = [padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2]]
        spread = np.where(mask, np.maximum(labels, np.max(sides, axis=0)), 0)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def chroma(video: np.ndarray) -> np.ndarray:
    """Computes the chroma of each pixel, (frames, h, w) in 0..1."""
    return video.max(axis=-1) - video.min(axis=-1)


def largest_objects(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts the objects of each frame, (frames,); also the coverage (frames, h, w) of its largest, in 0..1."""
    colourful = chroma(video)
    labels = connected_labels(colourful > OBJECT_CHROMA)
    counts, coverage = np.zeros(len(video), dtype=int), np.zeros(colourful.shape, dtype=np.float32)
    for i, frame in enumerate(labels):
        names, areas = np.unique(frame[frame > 0], return_counts=True)
        counts[i] = (areas >= SMALLEST_OBJECT_PX).sum()
        if counts[i]:
            inside = frame == names[areas.argmax()]
            coverage[i] = np.clip(colourful[i] / np.median(colourful[i][inside]), 0, 1) * grown(inside)
    return counts, coverage


def grown(mask: np.ndarray) -> np.ndarray:
    """Grows a mask (h, w) by a pixel on each side, where an antialiased edge ends."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.max([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def centroids(coverage: np.ndarray) -> np.ndarray:
    """Computes the object's centre, (frames, 2), x and y in pixels; NaN where there is no object."""
    total = coverage.sum(axis=(1, 2))
    y, x = np.indices(coverage.shape[1:]) + 0.5
    sums = [(coverage * axis).sum(axis=(1, 2)) for axis in (x, y)]
    return np.stack(sums, axis=1) / np.where(total > 0, total, np.nan)[:, None]


def looks_square(coverage: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Tells squares from discs by the mixed fourth moment, (frames,) bool."""
    y, x = np.indices(coverage.shape[1:]) + 0.5
    dx2 = (x[None] - centres[:, 0, None, None]) ** 2
    dy2 = (y[None] - centres[:, 1, None, None]) ** 2
    total = coverage.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        mixed, x2, y2 = ((coverage * m).sum(axis=(1, 2)) / total for m in (dx2 * dy2, dx2, dy2))
        return mixed / (x2 * y2) > SQUARE_MOMENT


def right_colour(video: np.ndarray, coverage: np.ndarray, colour: str) -> np.ndarray:
    """Checks that the object's mean colour is nearest to `colour` of the palette, and near it: (frames,) bool."""
    names, palette = list(demo.COLOURS), np.array(list(demo.COLOURS.values())) / 255
    core = (coverage > 0.8)[..., None]
    mean = (video * core).sum(axis=(1, 2)) / np.maximum(core.sum(axis=(1, 2)), 1)
    distance = np.linalg.norm(mean[:, None] - palette[None], axis=-1)
    return (distance.argmin(axis=1) == names.index(colour)) & (distance.min(axis=1) < COLOUR_TOLERANCE)


def right_background(video: np.ndarray, background: str) -> np.ndarray:
    """Checks that the pixels without object are nearest to `background`, and near it: (frames,) bool."""
    names = list(demo.BACKGROUNDS)
    images = [demo.background_image(name, video.shape[1]).permute(1, 2, 0).numpy() for name in names]
    outside = (chroma(video) < 0.1)[..., None]
    area = outside.sum(axis=(1, 2, 3))
    errors = np.array([(np.abs(video - image) * outside).sum(axis=(1, 2, 3)) for image in images]) / (3 * area + 1e-9)
    return (errors.argmin(axis=0) == names.index(background)) & (errors.min(axis=0) < BACKGROUND_TOLERANCE) & (area > 0)


def bounces(centres: np.ndarray, half_size_px: float, size: int) -> np.ndarray:
    """Finds steps that a bounce shortens, per axis, (frames - 1, 2) bool: the direction changes next to a wall."""
    steps = np.diff(centres, axis=0)
    at_wall = (centres < half_size_px + WALL_ZONE_PX) | (centres > size - half_size_px - WALL_ZONE_PX)
    near = at_wall[:-1] | at_wall[1:]
    turns = np.sign(steps[1:]) != np.sign(steps[:-1])
    changed = np.pad(turns, ((1, 0), (0, 0))) | np.pad(turns, ((0, 1), (0, 0)))
    return near & changed


def speeds(centres: np.ndarray, half_size_px: float, size: int = demo.FRAME_SIZE_PX) -> tuple[float, float, float]:
    """Computes speed, its mean error and the longest step, in pixels a frame; NaN for a clip of under two steps.

    Between bounces an object keeps |dx| and |dy|; the error is their mean absolute distance from their medians.
    """
    steps = np.diff(centres, axis=0)
    if np.isfinite(steps).all(axis=1).sum() < 2:
        return float("nan"), float("nan"), float("nan")
    free = np.where(bounces(centres, half_size_px, size), np.nan, np.abs(steps))
    if np.isnan(free).all(axis=0).any():  # a sliver of a clip that is all bounce
        free = np.abs(steps)
    typical = np.nanmedian(free, axis=0)
    longest = float(np.nanmax(np.linalg.norm(steps, axis=1)))
    return float(np.linalg.norm(typical)), float(np.nanmean(np.abs(free - typical))), longest


def measure(video: np.ndarray, prompt: str) -> Measures:
    """Computes the Measures of one clip, (frames, 32, 32, 3) float in 0..1. Raises ValueError as `parse_prompt` does."""
    scene = demo.parse_prompt(prompt)
    counts, coverage = largest_objects(video)
    centres, seen = centroids(coverage), counts > 0
    square = looks_square(coverage, centres)
    speed, error, longest = speeds(centres, demo.half_sizes([scene]).item(), video.shape[1])
    return Measures(
        prompt=prompt,
        one_object=float((counts == 1).mean()),
        colour=float((right_colour(video, coverage, scene.colour) & seen).mean()),
        shape=float(((square == (scene.shape == "square")) & seen).mean()),
        background=float(right_background(video, scene.background).mean()),
        speed_px=speed,
        speed_error_px=error,
        longest_step_px=longest,
    )


def summary(measured: list[Measures]) -> dict[str, float]:
    """Averages over clips; an accuracy is the share of clips that are right in most frames."""

    values = {
        "all_right": [m.all_right for m in measured],
        "one_object_clips": [m.one_object >= ONE_OBJECT_SHARE for m in measured],
    }
    for name in ("colour", "shape", "background"):
        values[f"{name}_accuracy"] = [getattr(m, name) > 0.5 for m in measured]
    for name in ("one_object", "colour", "shape", "background", "speed_px", "speed_error_px", "longest_step_px"):
        values[name] = [getattr(m, name) for m in measured]
    known = {name: np.array(v, dtype=float)[np.isfinite(v)] for name, v in values.items()}
    return {"clips": len(measured), **{n: float(v.mean()) if len(v) else float("nan") for n, v in known.items()}}


def table(rows: list[dict], names: list[str]) -> str:
    """Formats one line per measure and one column per row; numbers with three decimals."""
    lines = [" " * 22 + "".join(f"{name:>16}" for name in names)]
    lines += [f"{key:<22}" + "".join(f"{row[key]:>16.3f}" for row in rows) for key in rows[0]]
    return "\n".join(lines)


def to_demo_size(video: np.ndarray, size: int = demo.FRAME_SIZE_PX) -> np.ndarray:
    """Averages squares of pixels to `size` a side; raises ValueError where that does not divide the side."""
    frames, height, width, _ = video.shape
    if height != width or height % size:
        raise ValueError(f"frames are {width} x {height}; the demo's are square with a side that {size} divides")
    factor = height // size
    return video.reshape(frames, size, factor, size, factor, 3).mean(axis=(2, 4))


def generate(pipeline, prompts: list[str], args: argparse.Namespace, batch: int = 10) -> list[np.ndarray]:
    """Makes videos with a stock WanPipeline; prompt i has seed args.seed + i, whatever the batch."""
    videos = []
    for first in range(0, len(prompts), batch):
        chosen = prompts[first : first + batch]
        seeds = [torch.Generator().manual_seed(args.seed + first + i) for i in range(len(chosen))]
        videos += list(
            pipeline(
                prompt=chosen, height=demo.FRAME_SIZE_PX, width=demo.FRAME_SIZE_PX, num_frames=args.frames,
                num_inference_steps=args.steps, guidance_scale=args.guidance, generator=seeds, output_type="np",
            ).frames
        )
    return videos


@torch.no_grad()
def vae_psnr(vae, num_frames: int, clips: int, seed: int) -> dict[str, float]:
    """PSNR in dB of reconstructed clips: of all pixels, of the object's, and of the object's in the last 32 frames."""
    generator = torch.Generator().manual_seed(seed)
    truth, coverage = demo.make_clips(demo.evaluation_scenes(clips), num_frames, generator)
    error = (vae.decode(vae.encode(truth).latent_dist.mode()).sample - truth).square() / 4  # the range -1..1 is 2 wide
    object_error, end = error * coverage, slice(-32, None)
    mean_square = {
        "all": error.mean(),
        "object": object_error.sum() / (3 * coverage.sum()),
        "object_end": object_error[:, :, end].sum() / (3 * coverage[:, :, end].sum()),
    }
    return {name: -10 * value.log10().item() for name, value in mean_square.items()}


def model_command(args: argparse.Namespace) -> dict:
    """Generates args.prompts clips with the stock pipeline and measures them; also the VAE alone."""
    from diffusers import WanPipeline  # heavy, and measuring a file does not need it

    pipeline = WanPipeline.from_pretrained(args.checkpoint, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    scenes = demo.evaluation_scenes(args.prompts)
    measured = [measure(v, s.prompt) for v, s in zip(generate(pipeline, [s.prompt for s in scenes], args), scenes)]
    groups = {"all": measured, "held_out": [], "trained": []}
    for m, scene in zip(measured, scenes):
        groups["held_out" if scene in demo.HELD_OUT else "trained"].append(m)
    groups = {name: summary(group) for name, group in groups.items() if group}
    psnr = {f"{n}_frames": vae_psnr(pipeline.vae, n, clips, args.seed) for n, clips in ((81, 16), (257, 6))}
    print(table(list(groups.values()), list(groups)))
    print("\nVAE PSNR, dB\n" + table(list(psnr.values()), list(psnr)))
    settings = {name: value for name, value in vars(args).items() if isinstance(value, (int, float))}
    return {"settings": settings, "vae_psnr_db": psnr, **groups, "clips": [asdict(m) for m in measured]}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command in `arguments`, by default the process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m xdualparal.demo.quality",
        description="Generates with a stock WanPipeline, measures, and measures the VAE. For a video file: xdit-dualparal quality FILE.",
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    for name, default in (("prompts", 50), ("frames", 81), ("steps", 25), ("guidance", 1.5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    args = parser.parse_args(arguments)
    result = model_command(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
