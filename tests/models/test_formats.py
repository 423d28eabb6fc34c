"""Whatever files a transformer's weights are in, a stage gets the same bits as from the plain one."""

import json
import shutil

import pytest
import torch
from diffusers import WanTransformer3DModel
from dualparal_testing.small_wan import small_transformer
from safetensors.torch import load_file, save_file

from xdualparal.models import WanFamily
from xdualparal.models.checkpoint_files import Weights, tensors_of, variant_of
from xdualparal.models.names import original_name
from xdualparal.models.weights import load_transformer_stage

STEM = "diffusion_pytorch_model"
FFN_DIM = 160  # more than a block of scales


def whole():
    """A transformer that is made once for a test."""
    return small_transformer(ffn_dim=FFN_DIM)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A folder with the transformer in one safetensors file."""
    folder = tmp_path_factory.mktemp("plain")
    whole().save_pretrained(folder / "transformer")
    return folder


def stages_of(source, dtype=torch.bfloat16):
    """The weights of two stages."""
    ranges = [range(0, 3), range(3, 4)]
    return [load_transformer_stage(WanFamily(), source, "transformer", n, 2, one, dtype).state_dict() for n, one in enumerate(ranges)]


def assert_same(source, other):
    """Both give the same bits."""
    for dtype in (torch.bfloat16, torch.float32):
        for ours, theirs in zip(stages_of(source, dtype), stages_of(other, dtype), strict=True):
            assert ours.keys() == theirs.keys()
            assert all(ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours)


def sharded(folder):
    """Several safetensors files and their index."""
    whole().save_pretrained(folder, max_shard_size="100KB")


def variant(folder):
    """One file of the variant fp16, whose numbers are float32 all the same."""
    whole().save_pretrained(folder, variant="fp16")


def sharded_variant(folder):
    """As diffusers writes it today."""
    whole().save_pretrained(folder, variant="fp16", max_shard_size="100KB")


def old_sharded_variant(folder):
    """As diffusers wrote it before 0.32: the variant stands before the shard's number."""
    sharded_variant(folder)
    index = folder / f"{STEM}.safetensors.index.fp16.json"
    content = json.loads(index.read_text())
    for file in set(content["weight_map"].values()):
        (folder / file).rename(folder / old_name(file))
    content["weight_map"] = {name: old_name(file) for name, file in content["weight_map"].items()}
    index.write_text(json.dumps(content))


def old_name(file):
    return f"{STEM}.fp16{file.removeprefix(STEM).replace('.fp16', '')}"


def pickled(folder):
    """torch's format."""
    whole().save_pretrained(folder, safe_serialization=False)


def sharded_and_pickled(folder):
    """torch's format, with an index."""
    whole().save_pretrained(folder, safe_serialization=False, max_shard_size="100KB")


def variant_pickled(folder):
    """torch's format, a variant."""
    whole().save_pretrained(folder, safe_serialization=False, variant="fp16")


def in_the_hubs_cache(folder):
    """Links to files without endings."""
    sharded(folder)
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / f"{number:064x}")
        file.symlink_to(f"../blobs/{number:064x}")


def both_plain_and_a_variant(folder):
    """The plain one is taken."""
    whole().save_pretrained(folder)
    small_transformer(ffn_dim=FFN_DIM, num_layers=4).to(torch.float16).save_pretrained(folder, variant="fp16")


FOLDERS = [
    sharded, variant, sharded_variant, old_sharded_variant, pickled, sharded_and_pickled, variant_pickled, in_the_hubs_cache,
    both_plain_and_a_variant,
]


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_folders(plain, tmp_path, make):
    make(tmp_path / "transformer")
    if not (tmp_path / "transformer" / "config.json").exists():
        shutil.copy(plain / "transformer" / "config.json", tmp_path / "transformer")
    assert_same(tmp_path, plain)
    assert variant_of(Weights(tmp_path), "transformer") == ("fp16" if "variant" in make.__name__ and "both" not in make.__name__ else None)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("own_names", [True, False])
@pytest.mark.parametrize("end", [".safetensors", ".pth"])
def test_single_files(plain, tmp_path, prefix, own_names, end):
    """Wan's own and LightX2V's names, and ComfyUI's prefixes."""
    tensors = {prefix + (original_name(name) if own_names else name): tensor for name, tensor in whole().state_dict().items()}
    file = tmp_path / f"wan_high_noise{end}"
    save_file(tensors, file) if end == ".safetensors" else torch.save(tensors, file)
    assert_same(Weights(plain, {"transformer": file}), plain)


def test_a_folder_or_an_index_in_the_place_of_a_part(plain, tmp_path):
    sharded(tmp_path)
    assert_same(Weights(plain, {"transformer": tmp_path}), plain)
    assert_same(Weights(str(plain), {"transformer": str(tmp_path / f"{STEM}.safetensors.index.json")}), plain)


def test_views_of_one_storage(plain, tmp_path):
    """torch's files keep tensors that share memory once."""
    tensors = whole().state_dict()
    together = torch.cat([tensors[f"blocks.0.attn1.to_{one}.weight"] for one in "qkv"])
    tensors |= {f"blocks.0.attn1.to_{one}.weight": part for one, part in zip("qkv", together.chunk(3))}
    torch.save(tensors, tmp_path / "file.bin")
    assert_same(Weights(plain, {"transformer": tmp_path / "file.bin"}), plain)


E4M3 = torch.float8_e4m3fn


def quantized(weight, *shape, blocks=False):
    """(float8, scales of ``shape``) of a weight, with scales that are no powers of two."""
    generator = torch.Generator().manual_seed(weight.numel())
    scales = torch.rand(shape, generator=generator) / 300 + 0.001
    if blocks:
        rows, columns = (torch.arange(size) // 128 for size in weight.shape)
        wide = scales[rows][:, columns]
    else:
        wide = scales
        while 0 < wide.dim() < weight.dim():
            wide = wide.unsqueeze(-1)
    eight = (weight / wide).clamp(-448, 448).to(E4M3)
    return eight, scales, eight.float() * wide


def rows(weight):
    return (len(weight), 1)


LAYOUTS = {  # name: (what is beside the weight, shape of its scale, what else is there)
    "ComfyUI's first": ("scale_weight", lambda _: (), dict(scale_input=torch.ones(())), dict(scaled_fp8=torch.zeros(2).to(E4M3))),
    "ComfyUI's": ("weight_scale", lambda _: (), dict(input_scale=torch.ones(()), comfy_quant=torch.zeros(9, dtype=torch.uint8)), {}),
    "one number": ("scale_weight", lambda _: (1,), {}, dict(scaled_fp8=torch.zeros(0).to(E4M3))),
    "LightX2V's": ("weight_scale", rows, {}, {}),
    "a number a row": ("weight_scale", lambda weight: (len(weight),), {}, {}),
    "blocks": ("weight_scale_inv", lambda weight: tuple(-(-size // 128) for size in weight.shape), {}, {}),
}


def float8_files(layout, prefix=""):
    """(the tensors of a float8 file with Wan's own names, those of the plain one with what they mean)."""
    end, shape, beside, whole_file = LAYOUTS[layout]
    eight, plain = {prefix + name: tensor for name, tensor in whole_file.items()}, {}
    for name, tensor in whole().state_dict().items():
        own = prefix + original_name(name)
        if not (name.startswith("blocks.") and name.endswith(".weight") and tensor.dim() == 2):
            eight[own] = plain[name] = tensor
            continue
        start = own.removesuffix("weight")
        eight[own], eight[start + end], plain[name] = quantized(tensor, *shape(tensor), blocks=layout == "blocks")
        eight |= {start + other: value.clone() for other, value in beside.items()}
    return eight, plain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_float8(plain, tmp_path, layout, prefix):
    eight, meant = float8_files(layout, prefix)
    assert sum(one.dtype == E4M3 and one.dim() == 2 for one in eight.values()) == 4 * 10
    save_file(eight, tmp_path / "eight.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    assert_same(Weights(plain, {"transformer": tmp_path / "eight.safetensors"}), Weights(plain, {"transformer": tmp_path / "meant.safetensors"}))


def test_float8_scales_in_another_shard(plain, tmp_path):
    eight, meant = float8_files("LightX2V's")
    shards = [{name: one for name, one in eight.items() if name.endswith("_scale") == scales} for scales in (False, True)]
    where = {}
    for number, shard in enumerate(shards):
        save_file(shard, tmp_path / f"block_{number}.safetensors")
        where |= dict.fromkeys(shard, f"block_{number}.safetensors")
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(json.dumps(dict(weight_map=where)))
    save_file(meant, tmp_path / "meant.safetensors")
    assert_same(Weights(plain, {"transformer": tmp_path}), Weights(plain, {"transformer": tmp_path / "meant.safetensors"}))


def refused(plain, file):
    """Why a file is refused."""
    with pytest.raises(ValueError) as error:
        tensors_of(Weights.of(Weights(plain, {"transformer": file})), "transformer")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_quantized_numbers_that_cannot_be_used(plain, tmp_path):
    file = tmp_path / "file.safetensors"
    weight = "blocks.0.ffn.0.weight"
    eight, _ = float8_files("LightX2V's")
    for change, words in (
        ({weight: eight[weight].float().to(torch.int8)}, "holds I8 numbers"),
        ({weight: eight[weight].float().to(torch.float8_e5m2)}, "holds F8_E5M2 numbers"),
        ({weight + "_scale": torch.ones(3, 1)}, r"blocks.0.ffn.0.weight_scale, F32 [3, 1], is no scale of a weight [160, 48]"),
        ({weight + "_scale": torch.ones(160, 1, dtype=torch.int32)}, "I32 [160, 1], is no scale"),
        ({weight + "_scale": None}, "holds F8_E4M3 numbers without scales (blocks.0.ffn.net.0.proj.weight)"),
        ({"blocks.0.ffn.0.bias": eight["blocks.0.ffn.0.bias"].to(E4M3)}, "holds F8_E4M3 numbers without scales"),
    ):
        save_file({name: one for name, one in (eight | change).items() if one is not None}, file)
        assert words in refused(plain, file)


def test_a_text_encoder_in_float8_is_refused(tmp_path):
    """transformers would read it without its scales."""
    (tmp_path / "text_encoder").mkdir()
    eight = {"shared.weight": torch.ones(2, 2).to(E4M3), "shared.weight_scale": torch.ones(2, 1)}
    save_file(eight, tmp_path / "text_encoder" / "model.safetensors")
    with pytest.raises(ValueError, match=r"text_encoder/model.safetensors holds F8_E4M3 numbers without scales \(shared.weight\)"):
        tensors_of(Weights(tmp_path), "text_encoder")


def test_files_that_cannot_be_read(plain, tmp_path):
    tensors = whole().state_dict()
    file = tmp_path / "file.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    assert "cut off or damaged, or in torch's format from before 1.6" in refused(plain, file)
    torch.save(dict(state_dict=tensors), file)
    assert "holds no dict of tensors" in refused(plain, file)
    torch.save(dict(tensors, other=print), file)
    assert "holds more than tensors, or is damaged" in refused(plain, file)
    torch.save(dict(tensors, **{"proj_out.weight": tensors["proj_out.weight"].t()}), file)
    assert "the numbers of proj_out.weight are not one after the other" in refused(plain, file)
    torch.save(tensors, file)
    whole_size = file.stat().st_size
    with open(file, "rb+") as opened:
        opened.truncate(whole_size // 2)
    assert "cut off or damaged" in refused(plain, file)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "is a git-lfs pointer" in refused(plain, file)
    other = file.rename(tmp_path / "file.gguf")
    assert "its name must end in .safetensors or .bin" in refused(plain, other)
    assert "none.safetensors is missing" in refused(plain, tmp_path / "none.safetensors")
    save_file({"head.head.bias": torch.ones(1), "proj_out.bias": torch.ones(2)}, tmp_path / "twice.safetensors")
    assert "holds proj_out.bias twice" in refused(plain, tmp_path / "twice.safetensors")


def test_several_sets_are_refused(plain, tmp_path):
    place = tmp_path / "transformer"
    variant(place)
    whole().save_pretrained(place, variant="bf16")
    with pytest.raises(ValueError, match="transformer has two sets of weights, .*bf16.safetensors and .*fp16.safetensors: delete"):
        tensors_of(Weights(tmp_path), "transformer")


def test_an_index_of_the_only_file(plain, tmp_path):
    shutil.copytree(plain / "transformer", tmp_path / "transformer")
    file = f"{STEM}.safetensors"
    where = dict.fromkeys(load_file(tmp_path / "transformer" / file), file)
    (tmp_path / "transformer" / f"{file}.index.json").write_text(json.dumps(dict(weight_map=where)))
    assert_same(tmp_path, plain)


def test_as_diffusers_reads_the_plain_one(plain):
    theirs = WanTransformer3DModel.from_pretrained(plain / "transformer", dtype=torch.bfloat16).state_dict()
    ours = load_transformer_stage(WanFamily(), plain, "transformer", 0, 1, range(4), torch.bfloat16).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def test_the_bytes_that_are_read_are_the_stages_own(plain):
    told = []
    stage = load_transformer_stage(WanFamily(), plain, "transformer", 1, 2, range(2, 4), torch.float32, tell=told.append)
    assert sum(told) == sum(one.numel() * 4 for one in stage.state_dict().values())
