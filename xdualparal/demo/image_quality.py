"""Measures demo clips that begin with an image; `python -m xdualparal.demo.image_quality` measures `tiny-wan-i2v` alone.

Knows: quality.py's measures, where an object is in an image, and diffusers' stock pipeline. Must not know: DualParal.

Prompt and image agree: the image is the first frame of a drawn clip of the prompt's scene. Which way the object goes and how fast is
the model's choice. Images are (32, 32, 3), videos (frames, 32, 32, 3), both float arrays in 0..1.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from . import quality
from . import scenes as demo

CHECKPOINT = Path(__file__).parent / "tiny-wan-i2v"
LARGEST_PLACE_ERROR_PX = 1.5
FIRST_STEPS = 8  # the frames of two latent frames: where a video that leaves its image does so
LONGEST_FIRST_STEP_PX = 3.0
SPEED_TOLERANCE_PX = 0.25  # what a right clip's speed may be beyond the world's range: the demo models' error within a clip


@dataclass(frozen=True)
class ImageMeasures:
    """One clip against its prompt and image: ``clip`` against the prompt, and in pixels how far from its place in the image the object
    begins and the longest of its first steps; NaN where there is no object."""

    clip: quality.Measures
    place_error_px: float
    first_step_px: float

    @property
    def looks_right(self) -> bool:
        """Whether one object is there in every frame, and looks as the prompt says as quality.py judges it."""
        return self.clip.one_object == 1 and min(self.clip.colour, self.clip.shape, self.clip.background) >= quality.ONE_OBJECT_SHARE

    @property
    def place_right(self) -> bool:
        """Whether the object begins where the image has it, and goes on from there."""
        return self.place_error_px <= LARGEST_PLACE_ERROR_PX and self.first_step_px <= LONGEST_FIRST_STEP_PX

    @property
    def motion_right(self) -> bool:
        """Whether the object moves at a speed of its world, and never jumps."""
        slowest, fastest = demo.SPEED_RANGE_PX
        in_range = slowest - SPEED_TOLERANCE_PX <= self.clip.speed_px <= fastest + SPEED_TOLERANCE_PX
        return in_range and self.clip.longest_step_px <= quality.LONGEST_STEP_PX

    @property
    def all_right(self) -> bool:
        """Whether looks, place and motion are."""
        return self.looks_right and self.place_right and self.motion_right


def measure(video: np.ndarray, prompt: str, image: np.ndarray) -> ImageMeasures:
    """Computes the ImageMeasures of one clip. Raises ValueError as `parse_prompt` does."""
    centres = quality.centroids(quality.largest_objects(video[: FIRST_STEPS + 1])[1])
    place = quality.centroids(quality.largest_objects(image[None])[1])[0]
    return ImageMeasures(
        clip=quality.measure(video, prompt),
        place_error_px=float(np.linalg.norm(centres[0] - place)),
        first_step_px=float(np.linalg.norm(np.diff(centres, axis=0), axis=1).max()),
    )


def summary(measured: list[ImageMeasures]) -> dict[str, float]:
    """Averages over clips: the shares of clips in which all, looks, place and motion are right, the place's errors, and quality.py's averages."""
    judged = {name: np.mean([getattr(m, name) for m in measured]) for name in ("all_right", "looks_right", "place_right", "motion_right")}
    errors = {name: np.nanmean([getattr(m, name) for m in measured]) for name in ("place_error_px", "first_step_px")}
    of_clips = quality.summary([m.clip for m in measured])
    return {"clips": of_clips.pop("clips"), **{n: float(v) for n, v in {**judged, **errors}.items()}, "prompt_all_right": of_clips.pop("all_right"), **of_clips}


def image_of(scene: demo.Scene, seed: int) -> np.ndarray:
    """Draws the first frame of a clip, (32, 32, 3) uint8. Equal seeds give equal images."""
    return demo.drawn_frames(scene, 1, seed)[0].numpy()


def generate(pipeline, scenes: list[demo.Scene], args: argparse.Namespace) -> list[np.ndarray]:
    """Makes a video of each scene's prompt and image with a stock WanImageToVideoPipeline; scene i has seed args.seed + i for both."""
    from PIL import Image

    size, videos = demo.FRAME_SIZE_PX, []
    for i, scene in enumerate(scenes):  # one by one: the pipeline takes one image
        seed = args.seed + i
        result = pipeline(
            image=Image.fromarray(image_of(scene, seed)), prompt=scene.prompt, height=size, width=size, num_frames=args.frames,
            num_inference_steps=args.steps, guidance_scale=args.guidance, generator=torch.Generator().manual_seed(seed), output_type="np",
        )
        videos.append(result.frames[0])
    return videos


def contact_sheet(images: list[np.ndarray], videos: list[np.ndarray], columns: int = 12, scale: int = 2) -> np.ndarray:
    """Puts each image in a row with the first two and evenly spaced frames of its video, (height, width, 3) uint8."""
    rows = []
    for image, video in zip(images, videos):
        shown = [0, *np.linspace(1, len(video) - 1, columns - 2).round().astype(int)]
        frames = [image, *(np.clip(video[shown] * 255, 0, 255).round().astype(np.uint8))]
        rows.append(np.concatenate([np.pad(frame, ((1, 1), (1, 1), (0, 0)), constant_values=255) for frame in frames], axis=1))
    return np.concatenate(rows).repeat(scale, axis=0).repeat(scale, axis=1)


def model_command(args: argparse.Namespace) -> dict:
    """Generates args.prompts clips with the stock pipeline and measures them."""
    from diffusers import WanImageToVideoPipeline  # heavy, and measuring clips does not need it
    from PIL import Image

    pipeline = WanImageToVideoPipeline.from_pretrained(args.checkpoint, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    scenes = demo.evaluation_scenes(args.prompts)
    images, videos = [image_of(scene, args.seed + i) for i, scene in enumerate(scenes)], generate(pipeline, scenes, args)
    measured = [measure(v, scene.prompt, image / 255) for v, scene, image in zip(videos, scenes, images)]
    groups = {"all": measured, "held_out": [m for m, scene in zip(measured, scenes) if scene in demo.HELD_OUT]}
    groups = {name: summary(group) for name, group in groups.items() if group}
    print(quality.table(list(groups.values()), list(groups)))
    if args.sheet:
        Image.fromarray(contact_sheet(images, videos)).save(args.sheet)
    settings = {name: value for name, value in vars(args).items() if isinstance(value, (int, float))}
    return {"settings": settings, **groups, "clips": [{**asdict(m), "all_right": m.all_right} for m in measured]}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command in `arguments`, by default the process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m xdualparal.demo.image_quality", description="Generates with a stock WanImageToVideoPipeline, and measures.",
    )
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    for name, default in (("prompts", 50), ("frames", 81), ("steps", 25), ("guidance", 1.5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also draw each image and frames of its video")
    args = parser.parse_args(arguments)
    result = model_command(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
