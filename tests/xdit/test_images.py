"""The image that a video begins with: files, sizes, and what the launcher makes of it (Wan2.2-TI2V)."""

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from dualparal_testing.checkpoints import write_checkpoint
from dualparal_testing.commands import run
from dualparal_testing.pictures import encoded, picture
from dualparal_testing.sequential import sequential_latents
from PIL import Image
from xfuser.core.utils.runner_utils import resize_and_crop_image, resize_image_to_max_area

from xdualparal import initial_noise
from xdualparal.output.latents_file import read_latents
from xdualparal.xdit.checks import check_command
from xdualparal.xdit.flags import command_settings, dualparal_config, make_parser, value_of
from xdualparal.xdit.images import images_of
from xdualparal.xdit.outputs import video_paths

MODEL, PROMPT, STEPS, BLOCK, CONTEXT = "Wan2.2-TI2V", "a red circle", 4, 4, 2
COMMON = ["--model", MODEL, "--prompt", PROMPT, "--height", "64", "--width", "64", "--num_inference_steps", str(STEPS), "--guidance_scale", "1",
          "--seed", "7", "--dualparal_block_latents", str(BLOCK), "--dualparal_context_latents", str(CONTEXT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("ti2v") / "model", MODEL)


def checked(folder, *flags):
    """(the flags, the model's class) of a command that passes its checks."""
    argv = [*COMMON, "--model_path", folder, "--dualparal_degree", "1", "--output_directory", folder.parent, *flags]
    args = vars(make_parser().parse_args(list(map(str, argv))))
    return args, check_command(args, 1)


def size_of(args, model):
    return tuple(value_of(args, model, name) for name in ("height", "width"))


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (97, 330), (640, 480), (33, 31)])
@pytest.mark.parametrize("area", [(64, 64), (128, 96), (256, 160)])
def test_the_size_and_the_pixels_are_xdits(tmp_path, folder, size, area, monkeypatch):
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "1")  # xDiT's log asks for them
    path = picture(tmp_path / "a.png", *size)
    sides = ["--height", area[0], "--width", area[1], "--input_images", path]
    for flags, theirs in (([], resize_image_to_max_area(Image.open(path), *area, 32)),
                          (["--resize_input_images"], resize_and_crop_image(Image.open(path), *area, 32))):
        if 0 in theirs.size:
            continue
        args, model = checked(folder, *sides, *flags)
        ours = images_of(args, model, [0])[0]
        assert size_of(args, model) == (theirs.height, theirs.width) == (ours.height, ours.width)
        assert ours.tobytes() == theirs.tobytes()


def test_turned_as_its_camera_says_and_without_transparency(tmp_path, folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    args, model = checked(folder, "--input_images", picture(tmp_path / "turned.jpg", 128, 32, exif=exif))
    assert size_of(args, model) == (128, 32)
    Image.new("RGBA", (64, 64), (200, 30, 40, 0)).save(tmp_path / "clear.png")
    args, model = checked(folder, "--input_images", tmp_path / "clear.png")
    assert images_of(args, model, [0])[0].getpixel((5, 5)) == (200, 30, 40)


@pytest.mark.parametrize("flags, words", [
    (["--input_images", "none.png"], "--input_images none.png is no file: give an image"),
    (["--input_images", "https://example.org/a.png"], "is an address: download it"),
    (["--input_images", "BROKEN"], "--input_images .* cannot be read as an image .*: give another"),
    (["--input_images", "CUT"], "--input_images .* cannot be read as an image .*: give another"),
    (["--input_images", "GOOD", "GOOD"], "2 images are given and there are 1 prompts: give one for all, or one for each"),
    (["--input_images", "GOOD", "WIDE", "--prompt", "a", "b"], "leads to frames of 64 x 64 pixels and .* to 128 x 32: give --resize_input_images"),
    (["--input_images", "LONG"], "an image of 2000 x 4 pixels is too long .*: give --resize_input_images, or cut it"),
    (["--resize_input_images"], "--resize_input_images is given and there is no image"),
    (["--task", "i2v"], "--task is i2v and no image is given: leave --task out, or give --input_images"),
    (["--task", "t2v", "--input_images", "GOOD"], "--task is t2v and an image is given: leave --task out, or --input_images"),
    (["--task", "t2i"], "--task is 't2i': give one of t2v, i2v"),
    (["--input_images", "GOOD", "--dualparal_strategy", "fifo", "--dualparal_block_latents", "8", "--dualparal_context_latents", "4"], "an image is given and strategy is fifo, which takes none: choose dualparal or full"),
    (["--input_images", "GOOD", "--height", "0"], "--height is 0"),
    (["--input_images", "GOOD", "--dualparal_context_noise", "20", "--dualparal_context_timestep", "true"], "an image is given, which is clean in Wan2.2 text-and-image-to-video, and context_noise is 20: leave one of them out"),
])
def test_refused(tmp_path, folder, flags, words):
    places = {"GOOD": picture(tmp_path / "good.png", 64, 64), "WIDE": picture(tmp_path / "wide.png", 128, 32), "BROKEN": tmp_path / "broken.png",
              "LONG": picture(tmp_path / "long.png", 2000, 4), "CUT": tmp_path / "cut.png"}
    places["BROKEN"].write_text("no image")
    places["CUT"].write_bytes(places["GOOD"].read_bytes()[:-200])
    with pytest.raises(ValueError, match=words) as error:
        checked(folder, *(places.get(flag, flag) for flag in flags))
    assert "\n" not in str(error.value)


def test_a_model_of_text_alone_refuses_an_image(tmp_path):
    argv = ["--model", "tiny-wan", "--prompt", "a", "--dualparal_degree", "1", "--output_directory", str(tmp_path)]
    for flags, words in ((["--input_images", str(picture(tmp_path / "a.png", 32, 32))], "tiny-wan makes videos of text only: give --model Wan2.2-I2V or Wan2.2-TI2V"),
                         (["--task", "t2v"], "--task is t2v and tiny-wan has one task")):
        with pytest.raises(ValueError, match=words):
            check_command(vars(make_parser().parse_args(argv + flags)), 1)


def test_another_image_is_another_file(tmp_path, folder):
    names = []
    for seed in (1, 2, 1):
        args, model = checked(folder, "--input_images", picture(tmp_path / f"{seed}.png", 64, 64, seed))
        names += video_paths(args, model, dualparal_config(args, model), command_settings(args))
    assert names[0] != names[1] and names[0] == names[2]


# By the launcher.

def launched(tmp_path, folder, name, image, num_frames, *flags):
    """The latents of a command."""
    latents = tmp_path / f"{name}.latents"
    code, output = run([*COMMON, "--model_path", folder, "--num_frames", num_frames, "--input_images", image, *flags, "--dualparal_latents_out",
                        latents, "--output_directory", tmp_path / name], tmp_path / "log", "float32")
    assert code == 0, output
    return torch.cat([block for _, block in read_latents(latents)], dim=2)


@pytest.mark.processes
def test_one_block_is_the_ordinary_pipelines(tmp_path, folder):
    path = picture(tmp_path / "a.png", 96, 48)  # frames of 64 x 32
    made = launched(tmp_path, folder, "one", path, 21, "--dualparal_degree", "2", "--task", "i2v")
    expected = WanImageToVideoPipeline.from_pretrained(folder)(
        Image.open(path).convert("RGB").resize((64, 32)), PROMPT, None, 32, 64, 21, STEPS, 1.0, generator=torch.Generator().manual_seed(7), output_type="latent",
    ).frames
    torch.testing.assert_close(made, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


@pytest.mark.processes
def test_many_blocks_are_the_sequential_programs(tmp_path, folder):
    path, pipeline = picture(tmp_path / "a.png", 64, 64), WanPipeline.from_pretrained(folder)
    with torch.no_grad():
        text, _ = pipeline.encode_prompt(PROMPT, None, False, max_sequence_length=512, device="cpu")
    noise = initial_noise(4, BLOCK, CONTEXT, (48, 4, 4), torch.Generator().manual_seed(7), 15)
    make_scheduler = lambda: type(pipeline.scheduler).from_config(pipeline.scheduler.config)  # noqa: E731
    given = encoded(pipeline, Image.open(path))
    expected = sequential_latents([pipeline.transformer], make_scheduler, STEPS, noise, [text], 1.0, BLOCK, CONTEXT, image=given)
    made = [launched(tmp_path, folder, f"{n}", path, 57, *flags) for n, flags in enumerate((
        ["--dualparal_degree", "1"], ["--dualparal_degree", "4"], ["--dualparal_degree", "2", "--ulysses_degree", "2"],
    ))]
    for latents in made:
        torch.testing.assert_close(latents, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
        torch.testing.assert_close(latents[:, :, :1], given, atol=1e-6, rtol=0)
    assert torch.equal(made[0], made[1])


@pytest.mark.processes
def test_an_image_for_each_of_several_prompts(tmp_path, folder):
    """Each video is to the byte what it is alone."""
    images = [picture(tmp_path / f"{n}.png", 64, 64, n) for n in (1, 2)]
    common = [*COMMON, "--model_path", folder, "--num_frames", 33, "--dualparal_degree", "2"]
    for n, image in enumerate(images):
        code, output = run([*common, "--input_images", image, "--prompt", f"video {n}", "--dualparal_output", tmp_path / f"alone{n}.mp4"], tmp_path / "log", "float32")
        assert code == 0, output
    code, output = run([*common, "--prompt", "video 0", "video 1", "--input_images", *images, "--dualparal_videos_in_flight", 2, "--output_directory",
                        tmp_path / "both"], tmp_path / "log", "float32")
    assert code == 0, output
    made = sorted((tmp_path / "both").glob("*.mp4"))
    assert [file.read_bytes() for file in made] == [(tmp_path / f"alone{n}.mp4").read_bytes() for n in (0, 1)]
