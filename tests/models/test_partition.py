"""The tensors that the stages ask for are those of the checkpoint, each once: real sizes, on the meta device."""

import json
from collections import Counter

import pytest
from accelerate import init_empty_weights
from dualparal_testing.checkpoints import IMAGE_TO_VIDEO, SKYREELS, SKYREELS_IMAGES

from xdualparal.config import DualParalConfig
from xdualparal.models import SkyReelsDFFamily, SkyReelsI2VFamily, Wan21I2VFamily, Wan22Family, Wan22I2VFamily, WanFamily
from xdualparal.models.weights import stage_without_weights
from xdualparal.plan.partition import layer_ranges

# As published (transformer/config.json of the hub's Wan-AI models in diffusers' layout; DESIGN section 3).
COMMON = dict(
    _class_name="WanTransformer3DModel", added_kv_proj_dim=None, attention_head_dim=128, cross_attn_norm=True, eps=1e-06,
    freq_dim=256, image_dim=None, in_channels=16, out_channels=16, patch_size=[1, 2, 2], qk_norm="rms_norm_across_heads",
    rope_max_seq_len=1024, text_dim=4096,
)
SMALL = COMMON | dict(ffn_dim=8960, num_attention_heads=12, num_layers=30)
LARGE = COMMON | dict(ffn_dim=13824, num_attention_heads=40, num_layers=40)
MODELS = {"Wan2.1-T2V-1.3B": (WanFamily(), SMALL), "Wan2.1-T2V-14B": (WanFamily(), LARGE), "Wan2.2-T2V-A14B": (Wan22Family(), LARGE)}
MODELS |= {name: (Wan22I2VFamily() if len(parts) > 1 else Wan21I2VFamily(), parts["transformer"]) for name, parts in IMAGE_TO_VIDEO.items()}
MODELS |= {name: (SkyReelsDFFamily(), parts["transformer"]) for name, parts in SKYREELS.items()}
MODELS |= {name: (SkyReelsI2VFamily(), parts["transformer"]) for name, parts in SKYREELS_IMAGES.items()}
SHARED = ("condition_embedder.", "scale_shift_table", "fps_")  # what every stage needs, see weights.stage_without_weights


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    """(the family, a folder with only the configurations of its experts, the shapes of a whole transformer)."""
    family, config = MODELS[request.param]
    for part in family.facts.experts:
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    with init_empty_weights():
        whole = family.classes().transformer.from_config(config)
    return family, tmp_path, {name: one.shape for name, one in whole.state_dict().items()}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_stages_partition_the_checkpoint(model, count):
    family, folder, whole = model
    for part in family.facts.experts:
        num_layers = max(int(name.split(".")[1]) for name in whole if name.startswith("blocks.")) + 1
        asked = Counter()
        for index, layers in enumerate(layer_ranges(num_layers, DualParalConfig(), count)):
            stage, names = stage_without_weights(family, folder, part, index, count, layers)
            shapes = {names[name]: one.shape for name, one in stage.state_dict().items()}
            assert all(one.is_meta for one in stage.state_dict().values())
            assert shapes.items() <= whole.items()
            asked.update(list(shapes))
        assert asked == {name: count if name.startswith(SHARED) else 1 for name in whole}
