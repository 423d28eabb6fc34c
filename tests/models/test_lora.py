"""LoRAs that are fused as their tensors are loaded, held against diffusers' and PEFT's own fusing."""

import json
import re
import shutil

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from dualparal_testing import loras
from dualparal_testing.checkpoints import write_checkpoint
from dualparal_testing.small_wan import small_pipeline, small_transformer
from safetensors.torch import load_file, save_file

from xdualparal.models import lora as lora_module
from xdualparal.models.lora import Adapters
from xdualparal.models.reading import Reader
from xdualparal.models.wan22 import Wan22Family
from xdualparal.models.weights import load_stage

BAR = 1e-6


def fused(adapters, transformer=None, names=None):
    """{name: tensor} of the transformer as ``adapters`` change it; ``names``: only these."""
    transformer = transformer or small_transformer()
    adapters.check(loras.sizes(transformer))
    return {name: adapters.change(name, tensor) for name, tensor in transformer.state_dict().items() if names is None or name in names}


def by_diffusers(*given):
    """{name: tensor} as diffusers fuses the files, [(path, weight)]."""
    pipeline = small_pipeline()
    for number, (path, _) in enumerate(given):
        pipeline.load_lora_weights(path, adapter_name=str(number))
    pipeline.set_adapters([str(number) for number in range(len(given))], [weight for _, weight in given])
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline.transformer.state_dict()


def assert_same(ours, expected):
    assert ours.keys() == expected.keys()
    assert max((ours[name] - expected[name]).abs().max() for name in expected) < BAR
    before = small_transformer().state_dict()
    assert max((ours[name] - before[name]).abs().max() for name in expected) > 0.01


MADE = loras.pairs(small_transformer())
TARGETS = ["attn1.to_q", "attn1.to_out.0", "attn2.to_k", "net.0.proj", "net.2"]
FILES = {  # {format: (tensors, PEFT settings)}
    "diffusers": (loras.diffusers_format(MADE), None),
    "diffusers, settings": (
        loras.diffusers_format(MADE),
        {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.target_modules": TARGETS, "transformer.alpha_pattern": {"to_q": 2, "blocks.1.ffn.net.2": 16}},
    ),
    "diffusers, rank-stabilized": (
        loras.diffusers_format(MADE),
        {"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.use_rslora": True, "transformer.target_modules": TARGETS},
    ),
    "original": (loras.original_format(MADE), None),
    "original, alpha": (loras.original_format(MADE, ("lora_down", "lora_up"), loras.ALPHA), None),
    "LightX2V": (loras.original_format(MADE, ("lora_down", "lora_up")) | {"diffusion_model.blocks.1.self_attn.q.diff_b": torch.linspace(-1, 1, 48)}, None),
    "kohya": (loras.kohya_format(loras.pairs(small_transformer(), loras.KOHYA)), None),
    "half precision": ({key: tensor.to(torch.bfloat16) for key, tensor in loras.original_format(MADE).items()}, None),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("weight", [1.0, -0.7])
def test_as_diffusers_fuses(name, weight, tmp_path):
    path = loras.write(tmp_path / "lora.safetensors", *FILES[name])
    assert_same(fused(Adapters([(path, weight)])), by_diffusers((path, weight)))


def test_a_relative_path_is_named_with_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^the LoRA {tmp_path.name}/a.safetensors is missing: give"):
        Adapters([("a.safetensors", 1.0)])


def test_several_are_added(tmp_path):
    given = [
        (loras.write(tmp_path / "a.safetensors", loras.original_format(MADE)), 0.5),
        (loras.write(tmp_path / "b.safetensors", loras.diffusers_format(loras.pairs(small_transformer(), seed=3, rank=2))), 1.5),
    ]
    assert_same(fused(Adapters(given)), by_diffusers(*given))


def test_as_diffusers_saves_it(tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = small_pipeline()
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["to_q", "ffn.net.2"], rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 3}, lora_bias=True, init_lora_weights=False)
    torch.manual_seed(4)
    pipeline.transformer.add_adapter(config)
    for name, tensor in pipeline.transformer.named_parameters():
        if "lora_B" in name and name.endswith("bias"):
            tensor.data.normal_()
    layers = get_peft_model_state_dict(pipeline.transformer)
    metadata = {name: list(value) if isinstance(value, set) else value for name, value in pipeline.transformer.peft_config["default"].to_dict().items()}
    WanPipeline.save_lora_weights(tmp_path / "pipeline", layers, transformer_lora_adapter_metadata=metadata)
    pipeline.transformer.save_lora_adapter(tmp_path / "model", safe_serialization=True)
    pipeline.transformer.fuse_lora()
    pipeline.transformer.unload_lora()
    for folder in ("pipeline", "model"):
        assert_same(fused(Adapters([(tmp_path / folder, 1.0)])), pipeline.transformer.state_dict())


def test_as_peft_saves_it(tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["to_v", "patch_embedding", "net.0.proj"], rank_pattern={r"blocks\.2\.attn1\.to_v": 3}, use_rslora=True, init_lora_weights=False)
    model = get_peft_model(small_transformer(), config)
    model.save_pretrained(tmp_path)
    assert any(key.startswith("base_model.model.patch_embedding") for key in load_file(tmp_path / "adapter_model.safetensors"))
    assert_same(fused(Adapters([(tmp_path, 1.0)])), model.merge_and_unload().state_dict())
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="is PEFT's and adapter_config.json, .*: put it there"):
        Adapters([(tmp_path, 1.0)])


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer.base_model.model.", "model.diffusion_model."])
@pytest.mark.parametrize("adapter", ["", ".default", ".anything"])
def test_prefixes_and_adapter_names_do_not_matter(prefix, adapter, tmp_path):
    config = {} if not prefix.startswith("base") else {"r": 4, "lora_alpha": 4}
    path = loras.write(tmp_path / "lora.safetensors", loras.diffusers_format(MADE, prefix, adapter), config)
    plain = loras.write(tmp_path / "plain.safetensors", loras.diffusers_format(MADE))
    expected = fused(Adapters([(plain, 1.0)]))
    assert all(map(torch.equal, fused(Adapters([(path, 1.0)])).values(), expected.values()))
    for keys in (loras.original_format(MADE, prefix=prefix), loras.kohya_format(MADE, float(loras.RANK)), loras.kohya_format(MADE, loras.RANK, "lora_unet__")):
        loras.write(path, keys, config)
        assert all(map(torch.equal, fused(Adapters([(path, 1.0)])).values(), expected.values()))


def test_whole_differences_are_added(tmp_path):
    transformer = small_transformer()
    made = loras.differences(transformer)
    path = loras.write(tmp_path / "lora.safetensors", {key: tensor for key, (_, tensor) in made.items() if key != "diffusion_model.blocks.2.modulation.diff"})
    expected, ours = transformer.state_dict(), fused(Adapters([(path, 0.5)]))
    expected = {name: tensor.clone() for name, tensor in expected.items()}
    for key, (name, tensor) in made.items():
        if key != "diffusion_model.blocks.2.modulation.diff":
            expected[name] += 0.5 * tensor
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    [(name, tensor)] = [one for key, one in made.items() if key == "diffusion_model.blocks.2.modulation.diff"]
    loras.write(path, {"diffusion_model.blocks.2.modulation.diff": tensor})
    assert torch.equal(fused(Adapters([(path, 1.0)]))[name], transformer.state_dict()[name] + tensor)


class NotingReader(Reader):
    """A Reader that notes the keys and the bytes that are read."""

    keys, num_bytes = [], 0

    def read(self, stored):
        """As Reader's."""
        tensor, before = super().read(stored), NotingReader.num_bytes
        NotingReader.keys, NotingReader.num_bytes = [*NotingReader.keys, stored.name], before + tensor.nbytes
        return tensor


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_a_stage_reads_its_own_keys_and_all_have_the_same_bits(stages, tmp_path, monkeypatch):
    transformer = small_transformer()
    keys = loras.original_format(MADE, alpha=loras.ALPHA) | {"diffusion_model.head.head.diff_b": torch.ones(64)}
    path = loras.write(tmp_path / "lora.safetensors", keys)
    whole = fused(Adapters([(path, 1.0)]))
    monkeypatch.setattr(lora_module, "Reader", NotingReader)
    for stage in range(stages):
        blocks = range(stage * 4 // stages, (stage + 1) * 4 // stages)
        own = {name for name in whole if any(name.startswith(f"blocks.{n}.") for n in blocks) or (name.startswith("proj_out") and stage == stages - 1)}
        NotingReader.keys, NotingReader.num_bytes = [], 0
        ours = fused(Adapters([(path, 1.0)]), transformer, own)
        assert all(torch.equal(ours[name], whole[name]) for name in own)
        expected = [key for key in keys if any(f".blocks.{n}." in key for n in blocks) or ("head" in key and stage == stages - 1)]
        assert sorted(NotingReader.keys) == sorted(expected) and NotingReader.num_bytes == sum(keys[key].nbytes for key in expected)


def test_a_file_of_torch_is_read_too(tmp_path):
    path = loras.write(tmp_path / "lora.safetensors", PLAIN)
    torch.save(PLAIN, tmp_path / "lora.pt")
    ours, expected = (fused(Adapters([(file, 1.0)])) for file in (tmp_path / "lora.pt", path))
    assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_what_no_lora_changes_is_left_as_it_is(tmp_path):
    path = loras.write(tmp_path / "lora.safetensors", loras.original_format(MADE))
    adapters, tensor = Adapters([(path, 1.0)]), torch.ones(48, dtype=torch.bfloat16)
    adapters.check(loras.sizes(small_transformer()))
    assert adapters.change("blocks.0.norm2.weight", tensor) is tensor
    weight = torch.ones(48, 48, dtype=torch.bfloat16)
    assert adapters.change("blocks.0.attn1.to_q.weight", weight).dtype == torch.float32 and torch.all(weight == 1)


@pytest.mark.parametrize("part", ["transformer", "transformer_2"])
def test_settings_of_diffusers_hold_for_the_expert_that_a_file_is_given_to(part, tmp_path):
    settings = {"r": 4, "lora_alpha": 8.0}
    plain = loras.write(tmp_path / "plain.safetensors", loras.original_format(MADE, alpha=8.0))
    both = {f"{one}.{name}": value for one in ("transformer", "transformer_2") for name, value in settings.items()}
    expected = fused(Adapters([(plain, 1.0)]))
    for number, metadata in enumerate([settings, {f"transformer.{name}": value for name, value in settings.items()}, both]):
        path = loras.write(tmp_path / f"{number}.safetensors", loras.diffusers_format(MADE), metadata)
        ours = fused(Adapters([(path, 1.0)], part, ("transformer", "transformer_2")))
        assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())


def test_each_expert_takes_its_own(tmp_path):
    parts = ("transformer", "transformer_2")
    first, second = loras.pairs(small_transformer(), seed=6), loras.pairs(small_transformer(), seed=7)
    both = loras.write(tmp_path / "both.safetensors", loras.diffusers_format(first) | loras.diffusers_format(second, "transformer_2."))
    alone = {part: loras.write(tmp_path / f"{part}.safetensors", loras.diffusers_format(made)) for part, made in zip(parts, (first, second))}
    for part in parts:
        ours, expected = (fused(Adapters([(path, 1.0)], part, parts)) for path in (both, alone[part]))
        assert all(torch.equal(ours[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match=r"holds transformer_2.* more of a second transformer and this model has one"):
        Adapters([(both, 1.0)])
    only = loras.write(tmp_path / "only.safetensors", loras.diffusers_format(second, "transformer_2."))
    with pytest.raises(ValueError, match=r"holds keys of transformer_2 only: give it for that one"):
        Adapters([(only, 1.0)], *("transformer", parts))


PLAIN = loras.original_format(MADE)
A_KEY = "diffusion_model.blocks.2.ffn.2.lora_{}.weight"
REFUSED = {
    "unknown module": (PLAIN | {"diffusion_model.blocks.2.ffn.3.lora_A.weight": torch.ones(4, 4)}, None, r"diffusion_model.blocks.2.ffn.3.lora_A.weight, which matches nothing"),
    "a block too many": (PLAIN | {"diffusion_model.blocks.4.ffn.2.lora_A.weight": torch.ones(4, 4)}, None, r"blocks.4.ffn.2.lora_A.weight, which matches nothing"),
    "image-to-video": (PLAIN | {"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(4, 48)}, None, "k_img.lora_A.weight, which matches nothing"),
    "unknown key": (PLAIN | {"diffusion_model.blocks.2.ffn.2.scale": torch.ones(1)}, None, r"blocks.2.ffn.2.scale, which is no key of a LoRA that is known"),
    "text encoder": (PLAIN | {"lora_te_encoder_0.lora_down.weight": torch.ones(4, 4)}, None, r"lora_te_encoder_0.lora_down.weight, which matches nothing"),
    "no up": ({key: one for key, one in PLAIN.items() if key != A_KEY.format("B")}, None, r"blocks.2.ffn.2.lora_A.weight without its up"),
    "no down": ({key: one for key, one in PLAIN.items() if key != A_KEY.format("A")}, None, r"blocks.2.ffn.2.lora_B.weight without its down"),
    "only alpha": (PLAIN | {"diffusion_model.blocks.2.cross_attn.q.alpha": torch.tensor(1.0)}, None, r"cross_attn.q.alpha without its down and up"),
    "only a bias": (PLAIN | {"diffusion_model.blocks.2.cross_attn.q.lora_B.bias": torch.ones(48)}, None, r"cross_attn.q.lora_B.bias without its down and up"),
    "shape of down": (PLAIN | {A_KEY.format("A"): torch.ones(4, 63)}, None, r"ffn.2.lora_A.weight of shape \[4, 63\], which does not fit blocks.2.ffn.net.2.weight of \[48, 64\]"),
    "shape of up": (PLAIN | {A_KEY.format("B"): torch.ones(48, 5)}, None, r"ffn.2.lora_B.weight of shape \[48, 5\], which does not fit"),
    "shape of a difference": (PLAIN | {"diffusion_model.head.head.diff_b": torch.ones(63)}, None, r"head.head.diff_b of shape \[63\]"),
    "alpha that is a list": (PLAIN | {"diffusion_model.blocks.2.ffn.2.alpha": torch.ones(2)}, None, r"ffn.2.alpha of shape \[2\]"),
    "two of one": (PLAIN | {"blocks.2.ffn.net.2.lora_down.weight": torch.ones(4, 64)}, None, r"which change the same tensor"),
    "whole numbers": (PLAIN | {A_KEY.format("A"): torch.ones(4, 64, dtype=torch.int8)}, None, r"holds I8 numbers .*ffn.2.lora_A.weight.*: give float32"),
    "DoRA": (PLAIN | {"diffusion_model.blocks.2.ffn.2.dora_scale": torch.ones(48, 1)}, None, r"is DoRA .*dora_scale.*not supported"),
    "PEFT's DoRA": (PLAIN | {"transformer.blocks.2.ffn.net.2.lora_magnitude_vector": torch.ones(48)}, None, r"is DoRA .*lora_magnitude_vector"),
    "LoKr": ({"diffusion_model.blocks.2.ffn.2.lokr_w1": torch.ones(4, 4)}, None, r"is LoKr .*lokr_w1"),
    "LoHa": ({"lora_unet_blocks_2_ffn_2.hada_w1_a": torch.ones(4, 4)}, None, r"is LoHa .*hada_w1_a"),
    "no tensors": ({}, None, "holds no tensors"),
    "DoRA by its settings": (PLAIN, {"use_dora": True}, "is DoRA by its metadata"),
    "another method by its settings": (PLAIN, {"peft_type": "LOHA"}, "is LOHA by its metadata"),
    "PiSSA": (PLAIN, {"init_lora_weights": "pissa"}, "was begun with pissa by its metadata"),
    "another rank": (PLAIN, {"r": 8, "lora_alpha": 8}, "rank 4 and its metadata says 8"),
    "alpha that is no number": (PLAIN, {"r": 4, "lora_alpha": "8"}, "has lora_alpha '8' by its metadata"),
    "no alpha in its settings": (PLAIN, {"r": 4}, "has no lora_alpha by its metadata, so its scale is not known"),
    "a pattern that is none": (PLAIN, {"r": 4, "lora_alpha": 4, "alpha_pattern": {"(": 4}}, r"has the pattern '\(' by its metadata"),
    "a pattern without a number": (PLAIN, {"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_q": None}}, "has lora_alpha None by its metadata"),
    "patterns that are none": (PLAIN, {"r": 4, "rank_pattern": [4]}, r"has r \[4\] by its metadata"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_fused_is_refused_by_its_headers(name, tmp_path, monkeypatch):
    keys, settings, message = REFUSED[name]
    path = loras.write(tmp_path / "some_lora.safetensors", keys, settings)
    monkeypatch.setattr(lora_module, "Reader", None)  # no tensor is read
    with pytest.raises(ValueError, match=message) as caught:
        Adapters([(path, 1.0)]).check(loras.sizes(small_transformer()))
    assert "some_lora.safetensors" in str(caught.value) and "\n" not in str(caught.value) and ": give " in str(caught.value)


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def cut_off(path):
    loras.write(path, PLAIN)
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "a git-lfs pointer": (pointer, "git-lfs pointer"), "empty": (lambda path: path.write_bytes(b""), "is empty"), "missing": (lambda path: None, "is missing"),
    "cut off": (cut_off, "is cut off or damaged"), "no safetensors file": (lambda path: torch.save({"a": torch.ones(1)}, path), "is cut off or damaged"),
    "a folder with nothing": (lambda path: path.mkdir(), "holds none of pytorch_lora_weights.safetensors and adapter_model.safetensors"),
    "metadata that is no JSON": (lambda path: save_file(PLAIN, path, {"lora_adapter_metadata": "{"}), "is damaged: lora_adapter_metadata"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_none_is_refused(name, tmp_path):
    make, message = BROKEN[name]
    make(tmp_path / "some_lora.safetensors")
    with pytest.raises(ValueError, match=message) as caught:
        Adapters([(tmp_path / "some_lora.safetensors", 1.0)])
    assert "some_lora.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [0, float("nan"), float("inf"), 1000, True, "1"])
def test_a_weight_that_is_none_is_refused(weight, tmp_path):
    path = loras.write(tmp_path / "lora.safetensors", PLAIN)
    with pytest.raises(ValueError, match=f"the weight of the LoRA {path} is "):
        Adapters([(path, weight)])


@pytest.mark.parametrize("key", [A_KEY.format("A"), "diffusion_model.blocks.2.ffn.2.alpha"])
def test_a_number_that_is_none_is_named(key, tmp_path):
    keys = PLAIN | {"diffusion_model.blocks.2.ffn.2.alpha": torch.tensor(4.0)}
    keys[key] = torch.full_like(keys[key], float("nan"))
    path = loras.write(tmp_path / "lora.safetensors", keys)
    with pytest.raises(ValueError, match=f"{path.name} has a NaN or an infinity .{key}"):
        fused(Adapters([(path, 1.0)]))


def test_the_identity_is_of_contents_and_weights(tmp_path):
    path = loras.write(tmp_path / "lora.safetensors", PLAIN)
    other = loras.write(tmp_path / "other.safetensors", loras.original_format(loras.pairs(small_transformer(), seed=9)))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(path, tmp_path / "elsewhere" / "renamed.safetensors")
    [own] = Adapters([(path, 1.0)]).identity()
    assert Adapters([(tmp_path / "elsewhere" / "renamed.safetensors", 1)]).identity() == (own,) and own.endswith(":1")
    assert Adapters([(path, 0.5)]).identity() != (own,) != Adapters([(other, 1.0)]).identity()
    assert Adapters([]).identity() == () and not Adapters([])
    peft = tmp_path / "adapter_model.safetensors"
    shutil.copy(path, peft)
    digests = []
    for alpha in (4, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        digests += Adapters([(peft, 1.0)]).identity()
    assert digests[0] != digests[1]


def loaded(folder, stages, changes):
    """[the pipeline of each stage], whose transformers are changed as they are loaded."""
    bounds = [round(index * 5 / stages) for index in range(stages + 1)]
    ranges = [range(*ends) for ends in zip(bounds, bounds[1:])]
    return ranges, [load_stage(Wan22Family(), folder, index, stages, layers, torch.float32, False, changes=changes) for index, layers in enumerate(ranges)]


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_stages_that_are_loaded_of_both_experts_are_diffusers_with_its_loras_fused(stages, tmp_path):
    folder = write_checkpoint(tmp_path / "model", "Wan2.2-T2V")
    whole, parts = WanPipeline.from_pretrained(folder), Wan22Family.facts.experts
    changes, before = {}, {part: WanTransformer3DModel.from_config(getattr(whole, part).config) for part in parts}
    for number, part in enumerate(parts):
        path = loras.write(tmp_path / f"{part}.safetensors", loras.original_format(loras.pairs(getattr(whole, part), seed=number), alpha=loras.ALPHA))
        whole.load_lora_weights(path, adapter_name=part, load_into_transformer_2=bool(number))
        adapters = Adapters([(path, 1.0)], part, parts)
        adapters.check(loras.sizes(before[part]))
        changes[part] = adapters.change
    whole.fuse_lora(components=list(parts))
    whole.unload_lora_weights()
    ranges, made = loaded(folder, stages, changes)
    _, alone = loaded(folder, 1, changes)
    for part in parts:
        expected, once = getattr(whole, part).state_dict(), getattr(alone[0], part).state_dict()
        seen = set()
        for layers, pipeline in zip(ranges, made):
            for name, tensor in getattr(pipeline, part).state_dict().items():
                full = re.sub(r"^blocks\.(\d+)", lambda match: f"blocks.{int(match[1]) + layers.start}", name)
                assert torch.equal(tensor, once[full]) and (tensor - expected[full]).abs().max() < BAR
                seen.add(full)
        assert seen == expected.keys()
