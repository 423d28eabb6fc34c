"""Measures what a machine does in a second: the rates of a plan.device.DeviceProfile.

Knows: a stage alone (lone_stage.py), torch's clocks. Must not know: flags, files, degrees.

Passes of a stage of a few layers are timed as a run does them, for windows of several lengths. Least squares give what a token costs, what each token that
another sees costs, and what a layer costs besides. What a token costs is divided between products and elementwise work by the time of products alone.
"""

import statistics
from itertools import combinations

import torch

from ..engine.lone_stage import random_inputs, random_transformer, seconds_of
from ..engine.sharding import SpatialShard
from ..engine.stage import Stage, StageRun
from ..models.wan_vae import StreamingDecoder, decoder_operations
from ..plan.actions import FORWARD
from ..plan.cost import layer_operations, shape_of
from ..plan.durations import EAGER
from ..plan.layout import Layout
from ..strategies.dualparal import DualParalPlan

LAYERS = 3  # of the stage that is timed, without embedding and head
_LAYOUTS = ((8, 4), (4, 2), (16, 4), (8, 0))  # B, C
_STEPS, _TEXT_TOKENS, _REPEATS = 2, 512, 9
_NOTHING = 1e18  # a rate that makes a share of the time nothing


def layer_rates(family, model, config, dtype, device, size):
    """Of the layers: a dict of matrix_per_s, attention_per_s, memory_per_s and layer_s of a DeviceProfile.

    ``model``: ModelNumbers. ``config``: of the transformer, a dict. ``size``: (height, width) in pixels.
    """
    points = [point for layout in _LAYOUTS for point in _timed_passes(family, model, config, dtype, device, size, layout)]
    token_s, attention_s, layer_s = _fit([((tokens, attention, 1), seconds) for tokens, attention, seconds in points])
    tokens = max(point[0] for point in points)
    operations = layer_operations(model, tokens, 0, 0).matrix
    touched = EAGER * tokens * model.dim * model.number_bytes
    products_s = operations / _matrix_rate(model, tokens, dtype, device)
    elementwise_s = token_s * tokens - products_s
    if elementwise_s <= 0:  # products take all of it
        elementwise_s, products_s = touched / _NOTHING, token_s * tokens or products_s
    return dict(
        matrix_per_s=operations / products_s, attention_per_s=1 / attention_s if attention_s else _NOTHING, memory_per_s=touched / elementwise_s,
        layer_s=layer_s,
    )


def _timed_passes(family, model, config, dtype, device, size, layout):
    """[(tokens, attention operations, median seconds)] of a layer, for each shape of pass of a video with blocks of (B, C) ``layout``."""
    stage = Stage(family, [random_transformer(device, config, LAYERS, dtype)], 1, 3, range(LAYERS))
    plan = DualParalPlan(None, _STEPS, 1, layout=Layout(*layout))
    shard = SpatialShard(tuple(side // model.pixels_per_latent for side in size), (model.pixels_per_token // model.pixels_per_latent,) * 2, 0, 1)
    text = torch.randn(1, _TEXT_TOKENS, stage.config.text_dim, device=device, dtype=dtype)
    seconds = {}
    with torch.no_grad():
        run = StageRun(stage, torch.linspace(1000, 500, _STEPS, device=device), (0,), {0: text}, shard)
        with run.context.installed():
            for action in (one for wave in range(_STEPS + _REPEATS) for one in plan.actions(0, wave) if one.kind == FORWARD):
                spec = plan.spec(action.one)
                inputs = random_inputs(run, stage, spec, shard, device)
                took = seconds_of(lambda: run.forward(action, spec, inputs), device)
                seconds.setdefault(shape_of(plan, action.one), []).append(took / LAYERS)
        run.end()
    shapes = [(shape, took) for shape, took in seconds.items() if len(took) > 2]  # those of the first block come once
    return [
        (shape.window * shard.frame_tokens, _attention(model, shape, shard.frame_tokens), statistics.median(took[1:])) for shape, took in shapes
    ]


def _attention(model, shape, frame_tokens):
    return layer_operations(model, shape.window * frame_tokens, shape.seen * frame_tokens, _TEXT_TOKENS).attention


def _fit(points):
    """Costs of 0 or more, by least squares of relative errors. ``points``: [(amounts, seconds)]: of all choices of amounts that cost anything the
    best whose costs are not negative."""
    import numpy

    amounts = numpy.array([[amount / seconds for amount in row] for row, seconds in points])
    best, least = None, float("inf")
    for count in range(1, amounts.shape[1] + 1):
        for chosen in map(list, combinations(range(amounts.shape[1]), count)):
            costs = numpy.zeros(amounts.shape[1])
            costs[chosen] = numpy.linalg.lstsq(amounts[:, chosen], numpy.ones(len(points)), rcond=None)[0]
            error = float(((amounts @ costs - 1) ** 2).sum())
            if (costs >= 0).all() and error < least:
                best, least = costs, error
    return [float(cost) for cost in best]


def _matrix_rate(model, tokens, dtype, device):
    """Operations a second of products as a layer has them, alone."""
    dim, ffn = model.dim, model.ffn_dim
    hidden, wide = torch.randn(tokens, dim, device=device, dtype=dtype), torch.randn(tokens, ffn, device=device, dtype=dtype)
    square, up, down = (torch.randn(*shape, device=device, dtype=dtype) for shape in ((dim, dim), (dim, ffn), (ffn, dim)))

    def products():
        for _ in range(6):
            hidden @ square
        hidden @ up
        wide @ down

    return layer_operations(model, tokens, 0, 0).matrix / _median(products, device)


def decode_rate(vae_class, config, dtype, device, size):
    """Operations a second of the VAE's decoder in ``dtype`` on frames of ``size`` pixels."""
    with torch.device("meta"):
        operations = decoder_operations(vae_class.from_config(config)) * size[0] * size[1]
    with torch.device(device):
        vae = vae_class.from_config(config).to(dtype).eval()
    latent = torch.randn(1, vae.config.z_dim, 1, *(side // vae.config.scale_factor_spatial for side in size), device=device)
    decoder = StreamingDecoder(vae)
    decoder.decode(latent)
    return operations / _median(lambda: decoder.decode(latent), device, repeats=3)


def copy_rate(device, other):
    """Bytes a second from ``other``, a device, or the host's pinned memory, to ``device``."""
    on_host = str(other) == "cpu"
    source = torch.empty(1 << 27, dtype=torch.uint8, device=other, pin_memory=on_host and str(device) != "cpu")
    target = torch.empty(1 << 27, dtype=torch.uint8, device=device)
    return (1 << 27) / _median(lambda: target.copy_(source, non_blocking=True), device)


def _median(function, device, repeats=_REPEATS):
    function()
    return statistics.median(seconds_of(function, device) for _ in range(repeats))
