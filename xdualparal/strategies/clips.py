"""Video-Infinity's passes (arXiv 2406.16260): clip parallelism with dual-scope attention.

Knows: which frames a clip has, and which latent frames of other clips its passes see. Must not know: tensors, processes, how K/V
come from rank to rank.

The latent frames of a video are cut into clips, one for each lane (a rank with the whole model); all clips are at the same step. In
every layer's self-attention a clip's queries see the K/V of its own frames, of a halo of the neighbouring frames on each side, and
of frames that are sampled evenly over the video, the same for all clips and its own ones among them. To the logits of the sampled
frames a bias is added in the first steps, and taken away in the others. A video is a function of the number of its clips.

What the paper does with VideoCrafter2, a U-Net with temporal layers, and what stands for it in a diffusion transformer:

- temporal self-attention, tokens of one place over time: the transformer's self-attention, over time and space;
- its local scope, the frames within 8 of each query's own one: the own clip and the halo. (A band of its own for each frame's
  queries has no dense kernel, and attention over a clip longer than the model was trained on is what comes of that);
- its global scope, 16 frames sampled evenly: the same;
- its bias, +10 to the logits of the global scope at timesteps of 800 and more of 1000, +10 to the local scope's below, whose
  timesteps are evenly spaced: the same for a share of the steps, with a strength that is a setting;
- temporal convolutions, whose halo is exchanged, and group norms over all frames, whose sums are: there are none. A
  transformer's norms are each token's own;
- positions: its temporal attention has none. RoPE turns a key by its absolute latent position in the video, so sampled frames may
  be further away from a query than the model has seen in training.
"""

from dataclasses import dataclass, replace

from ..limits import SHARE, Number, Whole
from ..plan.actions import DECODE, FORWARD, STEP, Action, Pass
from ..plan.layout import Layout
from ..plan.passes import Frames, PassSpec, Scope
from ..plan.schedule import CLIPS, DECODE_PLACES, INLINE, NO_DECODE, THREAD, PipelinePlan
from ..plan.settings import Settings, setting
from .base import OnWholeModels

_LATENTS = Whole(0, 1024, "latent frames; the model's table of positions has no more")
_BIAS = Number(0, 100, why="in logits; 10, the paper's, leaves of the other scope's weight a factor of 1 to 22,026")


@dataclass(frozen=True)
class ClipsSettings(Settings):
    """What a user chooses about clips."""

    clips: int | None = setting(
        None, "video_infinity: clips of the video, which decide the result; there is one a process, so leave it out: it is "
        "--dualparal_degree", "N"
    )
    halo_latents: int = setting(4, "video_infinity: neighbouring latent frames that a clip sees on each side")
    global_latents: int = setting(8, "video_infinity: latent frames sampled evenly over the video that every clip sees")
    scope_bias: float = setting(
        1.0, "video_infinity: what is added to the attention logits of the sampled frames in the first steps, and taken away in the "
        "others (the paper: 10)"
    )
    global_steps: float = setting(0.2, "video_infinity: share of the steps, 0 to 1, that are the first ones for scope_bias")

    def check(self):
        """Raises ValueError for numbers outside their limits."""
        if self.clips is not None:
            Whole(1, 4096, "one a process").of("clips", self.clips)
        _LATENTS.of("halo_latents", self.halo_latents)
        _LATENTS.of("global_latents", self.global_latents)
        _BIAS.of("scope_bias", self.scope_bias)
        SHARE.of("global_steps", self.global_steps)
        for name in ("scope_bias", "global_steps"):
            if self.global_latents == 0 and getattr(self, name) != getattr(ClipsSettings, name):
                raise ValueError(f"{name} is {getattr(self, name)} and global_latents is 0, so that no sampled frames are seen: leave one of them out")


@dataclass(frozen=True)
class ClipLayout(Layout):
    """A video cut into ``clips``, which differ by one latent frame at most. ``halo``, ``sampled``: latent frames that a pass sees
    besides, on each side and of the whole video."""

    clips: int = 1
    halo: int = 0
    sampled: int = 0

    @property
    def num_blocks(self):
        """As many as clips."""
        return self.clips

    @property
    def window_latents(self):
        """Latent frames of the longest clip."""
        return -(-self.latent_frames // self.clips)

    @property
    def seen_latents(self):
        """The most latent frames that one pass attends to."""
        local = max(len(self.own(clip)) + len(self.halo_of(clip)) for clip in range(self.clips))
        return local + len(self.sampled_frames())

    def first_latent(self, block):
        """The video's latent frame with which a clip begins; of the clip behind the last one, the video's end."""
        return block * self.latent_frames // self.clips

    def shortest_alike(self):
        """Itself: clips of other lengths are other passes."""
        return self

    def of_blocks(self, count):
        """Itself: all clips are made at once, or none."""
        return self

    # Numbers of latent frames in the video.

    def own(self, clip):
        """The frames of ``clip``, a range."""
        return range(self.first_latent(clip), self.first_latent(clip + 1))

    def halo_of(self, clip):
        """The frames on both sides of ``clip``, which near the video's ends are fewer."""
        own = self.own(clip)
        return (*range(max(0, own.start - self.halo), own.start), *range(own.stop, min(self.latent_frames, own.stop + self.halo)))

    def sampled_frames(self):
        """The frames that all clips see."""
        count = min(self.sampled, self.latent_frames)
        return tuple(n * self.latent_frames // count for n in range(count))


@dataclass(frozen=True)
class ClipsPlan(PipelinePlan):
    """All clips of ``layout`` take ``num_steps`` steps together, one on each lane.

    ``bias``: see ClipsSettings.scope_bias; ``global_steps``: of how many steps, the first ones, it is added. ``expert_starts``: see
    DualParalPlan. ``decode``: see PipelinePlan; the last lane, or the one behind it, decodes when all clips are finished. Raises
    ValueError for numbers and places that cannot be.
    """

    layout: ClipLayout
    num_steps: int
    bias: float = 0.0
    global_steps: int = 0
    decode: str = NO_DECODE
    expert_starts: tuple[int, ...] = (0,)

    videos, split_guidance, lanes_are, noise_is_whole = 1, False, CLIPS, True

    def __post_init__(self):
        layout = self.layout
        if layout.latent_frames is None:
            raise ValueError(
                "num_frames is 0, for a video without end, and video_infinity makes all of a video at once: give a number, or another strategy"
            )
        if layout.clips > layout.latent_frames:
            raise ValueError(
                f"the video has {layout.latent_frames} latent frames and there are {layout.clips} clips, one a process: give more "
                f"num_frames, or {layout.latent_frames} processes or fewer"
            )
        if self.decode not in DECODE_PLACES:
            raise ValueError(f"decode is {self.decode!r}: give one of {', '.join(DECODE_PLACES)}")

    @property
    def num_blocks(self):
        """As many as clips."""
        return self.layout.clips

    @property
    def num_stages(self):
        """A lane for each clip."""
        return self.layout.clips

    def first_blocks(self, count):
        """Itself: all clips are made at once, or none."""
        return self

    def side_by_side(self, first_waves):
        """Itself, for one video that is not resumed."""
        assert not any(first_waves) and len(first_waves) == 1, first_waves
        return self

    def wave_of(self, one):
        """A wave is a step."""
        return one.step

    def passes(self, wave):
        """A pass of each clip."""
        return [Pass(0, clip, wave) for clip in range(self.num_blocks)] if 0 <= wave < self.num_steps else []

    def passes_of_rank(self, wave):
        """One of them: each rank has its clip."""
        return self.passes(wave)[-1:]

    def started(self, wave):
        """All clips begin together."""
        return self.num_blocks if wave else 0

    def spec(self, one):
        """The window is the own frames as they stand; halo and sampled frames are read from other passes of the wave."""
        before, own = one._replace(step=one.step - 1), self.layout.own(one.block)
        bias = self.bias if one.step < self.global_steps else -self.bias
        scopes = Scope(self.layout.halo_of(one.block), 0.0), Scope(self.layout.sampled_frames(), bias)
        return PassSpec(
            window=(Frames(before, 0, len(own)),), predicted=range(len(own)), position=own.start, steps=(one.step,), texts=(0,),
            scopes=tuple(scope for scope in scopes if scope.frames), frees=(before,),
            expert=self.expert_of(one.step),
        )

    def exchange(self, lane):
        """{other lane: (frames of this lane that it needs, frames of it that this lane needs)}, numbers of latent frames in the
        video, in order, in every layer of every pass. No empty ones."""
        pairs = {other: (self._needed(other, lane), self._needed(lane, other)) for other in range(self.num_stages) if other != lane}
        return {other: pair for other, pair in pairs.items() if any(pair)}

    def _needed(self, lane, of_lane):
        seen = {*self.layout.halo_of(lane), *self.layout.sampled_frames()}
        return tuple(frame for frame in self.layout.own(of_lane) if frame in seen)

    # A lane is a clip, and lanes meet in every layer.

    def actions(self, lane, wave):
        """The clip's pass and step; behind the last one all clips are decoded, in order."""
        actions = [Action(lane, kind, Pass(0, lane, wave)) for kind in (FORWARD, STEP)] if lane < self.num_stages else []
        if lane == self.decode_lane and wave == self.num_steps - 1 and self.decode in (INLINE, THREAD):
            actions += [self.decode_action(clip) for clip in range(self.num_blocks)]
        return actions

    def together(self, action):
        """The FORWARDs that meet in every layer: none can begin before all clips have done the step before."""
        return [Action(clip, FORWARD, Pass(0, clip, action.step)) for clip in range(self.num_stages)]

    def _needs_of_forward(self, action):
        return [Action(one.lane, STEP, one.one._replace(step=one.step - 1)) for one in self.together(action) if one.step]

    def _needs_of_decode(self, action):
        before = [self.decode_action(action.block - 1)] if action.block else []
        return [Action(action.block, STEP, action.one)] + before

    def __str__(self):
        head = f"clips {self.num_blocks} of {self.layout.latent_frames} latent frames, steps {self.num_steps}"
        return head + (f", decode {self.decode}" if self.decode != NO_DECODE else "")


class VideoInfinity(OnWholeModels):
    """The strategy; see base.Strategy."""

    name = "video_infinity"
    Settings = ClipsSettings
    window_settings = ("halo_latents", "global_latents")
    between_blocks = ("halo_latents",)
    merges_attention = True
    refuses = OnWholeModels.refuses | {
        "checkpoint": "all clips are finished together, at the end, so there is nothing to resume: leave it out, or choose dualparal",
        "videos_in_flight": "every process is busy with its own clip: leave it out, or choose dualparal",
        "ring_degree": "the K/V that clips exchange are not passed round a ring: give --ulysses_degree",
        "use_torch_compile": "its attention meets other processes in every layer, which is not compiled: leave it out",
    }

    def settled(self, settings, lanes, facts=None):
        """With as many clips as lanes. Raises ValueError where another number is given."""
        if settings.clips not in (None, lanes):
            raise ValueError(f"clips is {settings.clips} and there are {lanes} processes in the pipeline, one for each: leave clips out")
        return replace(settings, clips=lanes)

    def plan(self, settings, latent_frames, num_steps, lanes, expert_starts=(0,)):
        """The clips on the lanes."""
        assert settings.clips == lanes.stages, (settings.clips, lanes)
        return ClipsPlan(
            self.layout(settings, latent_frames), num_steps, settings.scope_bias, round(settings.global_steps * num_steps),
            lanes.decode, expert_starts,
        )

    def layout(self, settings, latent_frames):
        """Which latent frames a clip has."""
        clip_latents = 1 if latent_frames is None else -(-latent_frames // settings.clips)
        return ClipLayout(
            clip_latents, 0, latent_frames, clips=settings.clips, halo=settings.halo_latents, sampled=settings.global_latents
        )
