"""What makes two runs the same: all that decides the bytes of a result, as one plain value.

Knows: the names of what decides, and that they are JSON. Must not know: torch, where a value comes from, or who compares.

Degrees (stages, Ulysses, ring, guidance ranks, replicas) are left out on purpose: stages and guidance ranks do not change a
bit, sequence parallelism only rounds differently, and a run may be resumed with others.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace


@dataclass(frozen=True)
class RunSpec:
    """One run's identity. Every value is plain JSON; None: not known, or there is none. Digests are short texts.

    Request: ``prompt``, ``negative_prompt``, ``embeds`` (digests of given embeddings), ``height``, ``width`` (pixels),
    ``num_frames`` (0: endless), ``num_inference_steps``, ``guidance_scale``, ``guidance_scale_2`` (the second expert's),
    ``max_sequence_length``, ``seed``, ``generator`` (digest of its state), ``continued`` (digest of another video's last latents), ``image`` (digest of
    the latents of the image that the video begins with). Model: ``model`` (name), ``scheduler`` (class, and digest
    of its other settings), ``flow_shift``, ``boundary_ratio`` (of the experts), ``loras`` (digests of files, and
    weights: what is known of the transformers before they are loaded), ``transformer``, ``transformer_2``,
    ``text_encoder``, ``vae`` (digests of configuration and weights), ``text_encoder_place`` ("cpu" where it is on the host beside an
    accelerator, which rounds otherwise; None: with the passes), ``precision`` (the transformer's dtype),
    ``attention_backend``, ``cross_attention_backend`` (names of what computes), ``compiled``, ``compile_options``. Method: ``strategy`` and its settings. Frames: ``output_type``,
    ``vae_precision``, ``tiling`` (the tiles' sizes in pixels), ``one_segment`` (whether all frames come at once, from xDiT's parallel
    VAE, and not block by block: the file then has other key frames). File: ``quality`` (H.264's rate factor), ``fps``,
    ``appended_to`` (digest of the mp4 whose frames come first).
    """

    prompt: str | None = None
    negative_prompt: str | None = None
    embeds: tuple[str, ...] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    max_sequence_length: int | None = None
    seed: int | None = None
    generator: str | None = None
    continued: str | None = None
    image: str | None = None
    model: str | None = None
    scheduler: str | None = None
    flow_shift: float | None = None
    boundary_ratio: float | None = None
    loras: tuple[str, ...] | None = None
    transformer: str | None = None
    transformer_2: str | None = None
    text_encoder: str | None = None
    text_encoder_place: str | None = None
    vae: str | None = None
    precision: str | None = None
    attention_backend: str | None = None
    cross_attention_backend: str | None = None
    compiled: bool | None = None
    compile_options: str | None = None
    strategy: str | None = None
    block_latents: int | None = None
    context_latents: int | None = None
    stagger: int | None = None
    chunk_latents: int | None = None
    chunk_overlap_latents: int | None = None
    fresh_noise: float | None = None
    context_timestep: str | None = None
    context_noise: int | None = None
    given_noise: float | None = None
    anchor_latents: int | None = None
    context: str | None = None
    context_dtype: str | None = None
    clips: int | None = None
    halo_latents: int | None = None
    global_latents: int | None = None
    scope_bias: float | None = None
    global_steps: float | None = None
    fifo_window_latents: int | None = None
    fifo_lookahead_latents: int | None = None
    output_type: str | None = None
    vae_precision: str | None = None
    tiling: tuple[int, ...] | None = None
    one_segment: bool | None = None
    quality: int | None = None
    fps: float | None = None
    appended_to: str | None = None

    def as_json(self):
        """A dict that ``from_json`` makes this of again."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values):
        """The RunSpec of a dict; names that this version does not know are left out. Raises TypeError for what is no dict."""
        if not isinstance(values, dict):
            raise TypeError(f"a RunSpec is a dict, this is {type(values).__name__}")
        known = {field.name for field in fields(cls)}
        return cls(**{
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
        })

    def digest(self):
        """A short text that tells runs apart."""
        mine = self.as_json()
        deciding = _that_decides({name: value for name, value in mine.items() if not _is_told_by_another(name, mine)})
        return short_digest(json.dumps(deciding, sort_keys=True).encode())

    def differences(self, values):
        """["<name> was <here> and is <there>"] of what decides the bytes. ``values``: what is known of the other run, a dict
        with all names of a RunSpec or some, as ``as_json`` has them."""
        mine = self.as_json()
        here, there = _that_decides(mine), _that_decides(values)
        return [
            f"{name} was {mine[name]!r} and is {values[name]!r}"
            for name in values if name not in _ONLY_NAMES and not _is_told_by_another(name, values) and here.get(name) != there.get(name)
        ]

    def of_latents(self):
        """The same, without what only decides how latents become frames and a file."""
        return replace(self, **dict.fromkeys(_AFTER_LATENTS))


_AFTER_LATENTS = ("output_type", "vae", "vae_precision", "tiling", "one_segment", "quality", "fps", "appended_to")
_ONLY_NAMES = ("model",)  # the digests of the weights decide: one model has several names, and its folder may be moved
_TOLD_BY = {"loras": "transformer"}  # one fused weight comes of several LoRAs, or of Python: as soon as the weights are known, they decide


def _is_told_by_another(name, values):
    """Whether ``values`` has what decides instead of ``name``."""
    return values.get(_TOLD_BY.get(name)) is not None


def _that_decides(values):
    """Without what is only a name; nothing, an empty text and an empty list are one."""
    return {name: value for name, value in values.items() if name not in _ONLY_NAMES and value not in (None, "", [], ())}


def without_frames(values):
    """Of ``values``, a dict as ``RunSpec.differences`` takes it, those that decide the latents."""
    return {name: value for name, value in values.items() if name not in _AFTER_LATENTS}


def short_digest(content):
    """A short text that tells bytes apart."""
    return hashlib.sha256(content).hexdigest()[:16]
