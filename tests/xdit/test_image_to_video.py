"""Wan2.1-I2V, Wan2.1-FLF2V, Wan2.2-I2V and SkyReels-V2-I2V by the launcher and from Python, from small checkpoints in the real format."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from dualparal_testing.checkpoints import write_checkpoint
from dualparal_testing.commands import run
from dualparal_testing.processes import run_ranks
from dualparal_testing.runs import engine_config
from dualparal_testing.sequential import sequential_latents
from PIL import Image
from safetensors.torch import load_file, save_file

from xdualparal import DualParalConfig, DualParalPipeline, initial_noise
from xdualparal.images import encode_images
from xdualparal.models import family_of
from xdualparal.models.wan_vae import encoder_memory_latents
from xdualparal.models.weights import load_image_encoder
from xdualparal.output.latents_file import read_latents
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.cli import main
from xdualparal.xdit.flags import make_parser

PROMPT, STEPS, BLOCK, CONTEXT, SIZE = "a red circle", 4, 4, 2, 32
MODELS = ("Wan2.1-I2V", "Wan2.1-FLF2V", "Wan2.2-I2V", "SkyReels-V2-I2V-1.3B")
COMMON = ["--prompt", PROMPT, "--height", SIZE, "--width", SIZE, "--num_inference_steps", STEPS, "--guidance_scale", 3, "--seed", 7, "--negative_prompt", "",
          "--dualparal_block_latents", BLOCK, "--dualparal_context_latents", CONTEXT]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {model: write_checkpoint(place / model, model) for model in MODELS}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of two pictures of random colours."""
    place, files = tmp_path_factory.mktemp("images"), []
    for seed in (1, 2):
        colours = torch.randint(0, 256, (5, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        files.append(place / f"{seed}.png")
        Image.fromarray(colours.numpy()).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(files[-1])
    return files


def given(model, images, count=None):
    """The flags of the images that ``model`` takes: a first one, or a first and a last one."""
    first, last = images
    takes_last = model == "Wan2.1-FLF2V" if count is None else count == 2
    return ["--input_images", first, *(["--dualparal_last_image", last] if takes_last else [])]


def launched(tmp_path, folders, model, num_frames, *flags):
    """The latents of a command."""
    latents = tmp_path / "made.latents"
    latents.unlink(missing_ok=True)
    code, output = run(["--model", model, *COMMON, "--model_path", folders[model], "--num_frames", num_frames, *flags, "--dualparal_latents_out", latents,
                        "--output_directory", tmp_path, "--dualparal_overwrite"], tmp_path / "log", "float32")
    assert code == 0, output
    return torch.cat([block for _, block in read_latents(latents)], dim=2)


def ordinary(folder, images, num_frames, last=None, **options):
    """What diffusers' pipeline makes of the same arguments."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    first, last = Image.open(images[0]), last and Image.open(last)
    return pipeline(first, PROMPT, "", SIZE, SIZE, num_frames, STEPS, 3.0, last_image=last, generator=torch.Generator().manual_seed(7), output_type="latent", **options).frames


def is_near(latents, expected):
    torch.testing.assert_close(latents, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.processes
@pytest.mark.parametrize("model, count", [("Wan2.1-I2V", 1), ("Wan2.1-FLF2V", 2), ("Wan2.2-I2V", 1), ("Wan2.2-I2V", 2), ("SkyReels-V2-I2V-1.3B", 1)])
def test_one_block_is_the_ordinary_pipelines(tmp_path, folders, images, model, count):
    made = launched(tmp_path, folders, model, 21, *given(model, images, count), "--dualparal_degree", 2)
    is_near(made, ordinary(folders[model], images, 21, images[1] if count == 2 else None))


@pytest.mark.processes
def test_a_long_video_as_one_block_is_the_ordinary_pipelines(tmp_path, folders, images):
    """Longer than the VAE remembers the image: its frames are not all encoded."""
    made = launched(tmp_path, folders, "Wan2.2-I2V", 113, *given("", images, 2), "--dualparal_degree", 2, "--dualparal_strategy", "full",
                    "--dualparal_block_latents", 8, "--dualparal_context_latents", 4)
    is_near(made, ordinary(folders["Wan2.2-I2V"], images, 113, images[1]))


def whole_condition(pipeline, images, num_frames, last):
    """As diffusers' pipeline makes it, of all frames: (1, 20, latent frames, rows, columns)."""
    first, last = (one and pipeline.video_processor.preprocess(Image.open(one), height=SIZE, width=SIZE) for one in (images[0], last))
    _, condition = pipeline.prepare_latents(first, 1, 16, SIZE, SIZE, num_frames, torch.float32, "cpu", torch.Generator(), None, last)
    return condition


def video_noise(latent_frames):
    """The blocks' noise of a command."""
    blocks = 1 + max(0, -(-(latent_frames - BLOCK - CONTEXT) // BLOCK))
    return initial_noise(blocks, BLOCK, CONTEXT, (16, SIZE // 8, SIZE // 8), torch.Generator().manual_seed(7), latent_frames)


def expected_latents(folder, images, num_frames, last, before=None):
    """By the sequential program. ``before``: the latents of a video that is continued, whose image is ``images[0]``."""
    pipeline, latent_frames = DiffusionPipeline.from_pretrained(folder), CONTEXT + num_frames // 4 if before is not None else (num_frames + 2) // 4 + 1
    sees_images = pipeline.image_encoder is not None
    with torch.no_grad():
        texts = pipeline.encode_prompt(PROMPT, "", True, max_sequence_length=512, device="cpu")
        condition = whole_condition(pipeline, images, 4 * latent_frames - 3, last)
        if before is not None:  # all is as it is long behind an image
            condition = whole_condition(pipeline, images, 129, None)[:, :, -1:].repeat(1, 1, latent_frames, 1, 1)
            assert condition[:, :4].abs().max() == 0
        embeds = pipeline.encode_image([Image.open(one) for one in (images[0], last) if one], "cpu") if sees_images else None
    transformers = [one for one in (pipeline.transformer, getattr(pipeline, "transformer_2", None)) if one is not None]
    boundary = None if len(transformers) == 1 else 900
    make_scheduler = lambda: type(pipeline.scheduler).from_config(pipeline.scheduler.config)  # noqa: E731
    given = {} if before is None else dict(given=before[:, :, -CONTEXT:], its_noise=torch.cat(video_noise(before.shape[2]), dim=2)[:, :, -CONTEXT:])
    return sequential_latents(transformers, make_scheduler, STEPS, video_noise(latent_frames), texts, 3.0 if boundary is None else (3.0, 3.0), BLOCK, CONTEXT,
                              boundary=boundary, condition=condition, image_embeds=embeds, **given)


@pytest.mark.processes
@pytest.mark.parametrize("model", MODELS)
def test_many_blocks_are_the_sequential_programs(tmp_path, folders, images, model):
    """Over more latent frames than the VAE remembers the image."""
    flags = given(model, images)
    expected = expected_latents(folders[model], images, 117, images[1] if "FLF" in model else None)
    made = [launched(tmp_path, folders, model, 117, *flags, *degrees) for degrees in (
        ["--dualparal_degree", 1], ["--dualparal_degree", 4], ["--dualparal_degree", 2, "--ulysses_degree", 2],
        ["--dualparal_degree", 1, "--ring_degree", 2, "--use_cfg_parallel"],
    )]
    for latents in made:
        is_near(latents, expected)
    assert torch.equal(made[0], made[1])


@pytest.mark.processes
@pytest.mark.parametrize("model, needed", [("Wan2.2-I2V", 0), ("Wan2.1-I2V", 1)])
def test_a_video_goes_on(tmp_path, folders, images, model, needed):
    """Its image is not given again but for what CLIP says of it."""
    before, kept = launched(tmp_path, folders, model, 41, *given(model, images, 1), "--dualparal_degree", 1), tmp_path / "first.latents"
    (tmp_path / "made.latents").rename(kept)
    made = [launched(tmp_path, folders, model, 40, *["--input_images", images[0]][:2 * needed], "--dualparal_continue_from", kept, "--dualparal_degree", degree)
            for degree in (1, 2)]
    is_near(made[0], expected_latents(folders[model], images, 40, None, before))
    assert torch.equal(*made)


@pytest.mark.processes
def test_the_image_matters_and_each_prompt_has_its_own(tmp_path, folders, images):
    common = ["--model", "Wan2.2-I2V", *COMMON, "--model_path", folders["Wan2.2-I2V"], "--num_frames", 33, "--dualparal_degree", 2]
    for n, image in enumerate(images):
        code, output = run([*common, "--input_images", image, "--dualparal_output", tmp_path / f"alone{n}.mp4"], tmp_path / "log", "float32")
        assert code == 0, output
    code, output = run([*common, "--prompt", PROMPT, PROMPT, "--input_images", *images, "--dualparal_videos_in_flight", 2, "--output_directory", tmp_path / "both"],
                       tmp_path / "log", "float32")
    assert code == 0, output
    alone = [(tmp_path / f"alone{n}.mp4").read_bytes() for n in (0, 1)]
    assert alone[0] != alone[1] and sorted(alone) == sorted(file.read_bytes() for file in (tmp_path / "both").glob("*.mp4"))


@pytest.mark.parametrize("model, flags, words", [
    ("Wan2.2-I2V", [], "--input_images is missing: Wan2.2-I2V makes a video of an image, add --input_images FILE"),
    ("Wan2.1-FLF2V", ["--input_images", "A"], "--dualparal_last_image is missing: Wan2.1-FLF2V makes a video between two images, add it"),
    ("Wan2.2-I2V", ["--dualparal_last_image", "A"], "--dualparal_last_image is given and no first image is: give --input_images too"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_last_image", "none.png"], "--dualparal_last_image none.png is no file: give an image"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_last_image", "A", "--dualparal_last_image", "A"], "2 last images are given and there are 1 prompts"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_last_image", "A", "--num_frames", "31"], "a last image is given and num_frames is 31: give 29, or another multiple of 4 and 1"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_last_image", "A", "--num_frames", "0"], "a last image is given and num_frames is 0, for a video without end"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_strategy", "chunks"], "an image is given and strategy is chunks, which takes none"),
    ("Wan2.2-I2V", ["--input_images", "A", "--task", "t2v"], "--task is t2v and an image is given"),
    ("Wan2.2-I2V", ["--input_images", "A", "--dualparal_continue_from", "A"], "--input_images and --dualparal_continue_from are given and both are the video's first"),
    ("Wan2.1-I2V", ["--dualparal_continue_from", "A"], "--input_images is missing: Wan2.1-I2V sees its image in all passes, add the one that the video began with"),
    ("SkyReels-V2-I2V-1.3B", [], "--input_images is missing: SkyReels-V2-I2V-1.3B makes a video of an image, add --input_images FILE"),
    ("SkyReels-V2-I2V-1.3B", ["--input_images", "A", "--dualparal_last_image", "A"], "SkyReels-V2-I2V-1.3B sees a first image alone: give --model Wan2.1-FLF2V or Wan2.2-I2V, or"),
    ("Wan2.1-I2V", ["--input_images", "A", "--max_sequence_length", "256"], "max_sequence_length is 256 and the model's attention tells text from image by a length of 512: give 512"),
])
def test_refused(tmp_path, folders, images, model, flags, words):
    sizes = [] if "chunks" not in flags else ["--dualparal_block_latents", 8, "--dualparal_context_latents", 4]
    argv = ["--model", model, *COMMON, *sizes, "--model_path", folders[model], "--dualparal_degree", 1, "--output_directory", tmp_path, *(
        images[0] if flag == "A" else flag for flag in flags)]
    with pytest.raises(ValueError, match=words) as error:
        check_command(vars(make_parser().parse_args(list(map(str, argv)))), 1)
    assert "\n" not in str(error.value)


def test_a_last_image_is_refused_where_none_is_taken(tmp_path, images):
    argv = ["--model", "tiny-wan", "--prompt", "a", "--dualparal_degree", "1", "--output_directory", str(tmp_path), "--dualparal_last_image", str(images[0])]
    with pytest.raises(ValueError, match="--dualparal_last_image is given and tiny-wan takes no last image: give --model Wan2.2-I2V, or leave it out"):
        check_command(vars(make_parser().parse_args(argv)), 1)


@pytest.mark.parametrize("how, words", [
    (lambda folder: (folder / "image_processor" / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
    (lambda folder: next((folder / "image_encoder").glob("*.safetensors")).unlink(), "image_encoder has no .safetensors file"),
    (lambda folder: shutil.rmtree(folder / "image_encoder"), "image_encoder/config.json is missing"),
])
def test_a_folder_that_is_not_whole_is_refused(tmp_path, folders, images, how, words):
    folder = shutil.copytree(folders["Wan2.1-I2V"], tmp_path / "model")
    how(folder)
    argv = ["--model", "Wan2.1-I2V", *COMMON, "--model_path", folder, "--dualparal_degree", 1, "--output_directory", tmp_path, "--input_images", images[0]]
    with pytest.raises(ValueError, match=words):
        check_command(vars(make_parser().parse_args(list(map(str, argv)))), 1)


def test_an_image_encoder_with_a_tensor_too_few_or_a_nan_is_refused(tmp_path, folders):
    folder = shutil.copytree(folders["Wan2.1-I2V"], tmp_path / "model")
    [file] = (folder / "image_encoder").glob("*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if "q_proj.weight" in name)
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, file, dict(format="pt"))
    with pytest.raises(ValueError, match="the weights of the image_encoder lack .*q_proj.weight"):
        load_image_encoder(folder)
    save_file(tensors | {name: tensors[name] * float("nan")}, file, dict(format="pt"))
    with pytest.raises(ValueError, match="q_proj.weight of the image_encoder in .* has a NaN"):
        load_image_encoder(folder)


# From Python.

def from_python(rank, folder, files, how):
    """(the latents of a call with images, of one with what the model sees of them; the messages of calls that cannot work)."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    first, *others = (Image.open(file) for file in files)
    last = dict(last_image=others[0]) if others else {}
    config, engine = DualParalConfig(BLOCK, CONTEXT), engine_config(2)
    encoded = encode_images(pipeline, family_of(pipeline), [first], SIZE, SIZE, 11, others or None)
    dualparal = DualParalPipeline(pipeline, engine, config)
    call = lambda **options: dualparal(  # noqa: E731
        PROMPT, negative_prompt="", **dict(height=SIZE, width=SIZE, num_frames=41) | options, num_inference_steps=STEPS, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7), output_type="latent",
    )
    made, messages = [call(image=first, **last), call(**encoded)], []
    for options in how:
        with pytest.raises(ValueError) as caught:
            call(**{name: encoded[name] if value == "ENCODED" else first if value == "FIRST" else value for name, value in options.items()})
        messages.append(str(caught.value))
    return [one and one.frames.numpy() for one in made], messages


GIVEN = torch.zeros(1, 16, 2, 4, 4)
REFUSED = {  # {words of the message: what is given}
    "the image is missing": {}, "image is not: give both": dict(last_image="FIRST"), "one thing: leave one out": dict(image="FIRST", image_latents="ENCODED"),
    "image is str": dict(image="not one"), "give (1 or 1, 16, 11 or more, 4, 4)": dict(image_latents=torch.zeros(1, 16, 2, 4, 4)),
    "num_frames is -1": dict(image="FIRST", num_frames=-1), "num_frames is 30: give 29, or another": dict(image="FIRST", last_image="FIRST", num_frames=30),
    "height is 40": dict(image="FIRST", height=40),
}
CONTINUED = {
    "Wan2.2-I2V": {"both are the video's first frames": dict(image="FIRST", continue_latents=GIVEN)},
    "Wan2.1-FLF2V": {"continue_latents are given and image is not": dict(continue_latents=GIVEN)}, "SkyReels-V2-I2V-1.3B": {},
}
ONE_IMAGE = {"last_image is given and the model's cross-attention knows one image alone: leave it out": dict(image="FIRST", last_image="FIRST")}


@pytest.mark.processes
@pytest.mark.parametrize("model, count, refused", [("Wan2.1-FLF2V", 2, REFUSED), ("Wan2.2-I2V", 2, REFUSED), ("SkyReels-V2-I2V-1.3B", 1, ONE_IMAGE)])
def test_from_python(folders, images, model, count, refused):
    refused = refused | CONTINUED[model]
    *_, (made, messages) = run_ranks(from_python, 2, folders[model], images[:count], [*refused.values()])
    expected = expected_latents(folders[model], images, 41, images[1] if count == 2 else None)
    for latents in made:
        is_near(torch.from_numpy(latents), expected)
    assert all(words in message for message, words in zip(messages, refused, strict=True)), messages


def test_the_small_vae_remembers_as_far_as_the_numbers_say(folders):
    pipeline = DiffusionPipeline.from_pretrained(folders["Wan2.2-I2V"])
    vae, memory = pipeline.vae.double(), encoder_memory_latents(pipeline.vae)
    video = torch.zeros(1, 3, 1 + 4 * (memory + 3), SIZE, SIZE, dtype=torch.double)
    video[:, :, 0] = torch.randn(3, SIZE, SIZE)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode()
    differences = (latents - latents[:, :, -1:]).abs().amax(dim=(0, 1, 3, 4))
    assert differences[memory] > 1e-9 and differences[memory + 1:].max() < 1e-14


@pytest.mark.parametrize("model, flags", [("Wan2.2-I2V", ["--input_images", "IMAGE"]), ("SkyReels-V2-I2V-14B", ["--input_images", "IMAGE"]), ("Wan2.1-FLF2V", ["--input_images", "IMAGE", "--dualparal_last_image", "IMAGE"])])
def test_the_planner_needs_no_image(tmp_path, model, flags):
    main(["plan", "--model", model, "--num_frames", "81", "--num_gpus", "2", "--gpu", "h100", "--json", str(tmp_path / "plan.json")])
    commands = [way["command"] for way in json.loads((tmp_path / "plan.json").read_text())["ways"]]
    assert commands and all(" ".join(flags) in command for command in commands)
