"""SkyReels-V2 with diffusion forcing (DF): a video of text, of text and its first image, or one that goes on from another.

Knows: diffusers' SkyReelsV2Transformer3DModel where it differs from Wan's. Must not know: stages' processes, schedules, files.
Facts are from diffusers 0.42.1, models/transformers/transformer_skyreels_v2.py and
pipelines/skyreels_v2/pipeline_skyreels_v2_diffusion_forcing.py the same _i2v.py and _v2v.py, and its docs/source/en/api/pipelines/skyreels_v2.md.

The model is Wan2.1's with other weights: trained on clips whose latent frames have noise levels, and timesteps, of their own. So a
window whose previous context is cleaner than its own frames is what it was trained on, and the context gets its true timestep.

What diffusers' pipeline calls by other names (tests/test_skyreels.py and tests/models/test_skyreels.py compare them):

- ``ar_step`` and ``causal_block_size`` are ``stagger`` and ``block_latents``: block i does step s in iteration (wave)
  i * ar_step + s of both. There every block has the same size, while our block 0 has context_latents more; a pass there is one over all
  latent frames of the clip, and with blocks of several frames a causal mask lets them attend to no later block, while ours
  attend to context_latents of each neighbour. So the two are equal where a block has no neighbour in either: the first one of
  causal blocks, with context_latents 0. ``ar_step`` 0 is one block.
- ``base_num_frames`` and ``overlap_history`` (a long video as clips, each of which begins with the last frames of the one before, clean)
  are block_latents + context_latents and context_latents, in latent frames, with ``stagger`` as many as steps and noise of the
  caller's: then a block begins when the one before is finished, and is to rounding what diffusers' pipeline makes.
- ``addnoise_condition`` (in a long video, noise in the frames of the clip before, as much as their timestep then says, new in each step
  and of no seed) is ``context_noise``: of finished blocks only, with noise that the seed decides. A block in flight is seen at its own
  timestep, which is higher (the last of 30 steps with shift 8 is 216, and 20 is recommended).
- ``image`` is the first latent frame of the first block in both, clean in every pass, with timestep 0, or with ``addnoise_condition`` and as much
  noise in each step, and the VAE's own in the finished video.
- Its video-to-video pipeline, whose first clip begins with the last ``overlap_history`` frames of ``video``, is ``continue_latents``, of which block 0 sees the last
  context_latents: clean, with timestep 0 or ``addnoise_condition`` and as much noise, as it sees them of a block before (with a context_timestep of "own", or
  cached context, they have the timestep of each step, as Wan's). Not alike: there ``num_frames`` counts the given frames, here the new ones; what
  comes out there is the whole old video, then the given frames again, decoded as a video's first ones, and the new ones, here the new ones alone, decoded with
  the latents before them (--dualparal_append_to puts them behind the old ones); of an mp4 the launcher encodes as many frames as the
  VAE looks back to, not overlap_history, so that the first of the seen latents is 4 frames, as in the old video, and not 1; from latents
  (--dualparal_latents_out) nothing is encoded. Blocks behind the first are as in any long video.
- ``last_image`` is not there: diffusers puts it behind the last clip as one more latent frame, clean with timestep 0 whatever ``addnoise_condition`` is, and drops it
  when it has decoded it. Here it would be one more frame of the last block's windows, which no block owns.
- ``fps`` is 24, or rather not 16: the models that embed it (``inject_sample_info``) know no third value.
- ``causal_block_size`` as the model's configuration has it (``num_frame_per_block``) must be 1: no causal mask.

Its UniPC, and that of the authors, is given views of the latents, which are then changed: in the second step the corrector starts from what
the first one made. Ours starts from what the first one was given, as UniPC is defined; else a video of one block is diffusers'.
"""

from dataclasses import replace

import diffusers
import torch

from .base import Conditioning
from .wan import WanFamily

_NOT_16_FRAMES_A_SECOND = 1  # the row of fps_embedding; row 0 is of 16


class SkyReelsTransformer:
    """What the families of SkyReels-V2 answer otherwise than Wan's, whose transformer theirs is but for a few lines. For one more base class, before Wan's."""

    @classmethod
    def classes(cls):
        """Returns diffusers' pipeline of the family and the classes of its parts."""
        return super().classes()._replace(transformer=diffusers.SkyReelsV2Transformer3DModel)

    def by_frame(self, conditionings, frame_tokens):
        """As the model's forward has it: (1, tokens, dim) for the head and (1, 6, tokens, dim) for the blocks."""
        head, blocks = (torch.stack(parts, dim=-2).repeat_interleave(frame_tokens, dim=-2) for parts in zip(*conditionings))
        return Conditioning(head, blocks)

    def part(self, conditioning, tokens):
        """Cuts the embeddings of tokens."""
        if conditioning.head.dim() == 2:
            return conditioning
        return Conditioning(conditioning.head[:, tokens], conditioning.blocks[:, :, tokens])

    def layer(self, block, hidden, text, conditioning, rotary):
        """Calls ``block``, a SkyReelsV2TransformerBlock, without its causal mask."""
        return block(hidden, text, conditioning.blocks, rotary, None)


class SkyReelsDFFamily(SkyReelsTransformer, WanFamily):
    """SkyReels-V2-DF: see ``base.Family`` for what each function answers."""

    facts = replace(
        WanFamily.facts, name="SkyReels-V2 diffusion forcing", pipeline="SkyReelsV2DiffusionForcingPipeline",
        example="Skywork/SkyReels-V2-DF-1.3B-540P-Diffusers",
        trained_latents=25,  # 97 frames, base_num_frames at 540P
        clean_frames=True, frame_timesteps=True,
        same_pipelines=("SkyReelsV2DiffusionForcingImageToVideoPipeline", "SkyReelsV2DiffusionForcingVideoToVideoPipeline"),
    )

    @staticmethod
    def check_inputs(pipeline, prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds):
        """Refuses what the pipeline refuses, but for lengths: clips longer than trained are what blocks are for."""
        SkyReelsDFFamily.classes().pipeline.check_inputs(  # of an image or a video call.py knows more
            pipeline, prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds, num_frames=1, base_num_frames=1
        )

    def condition(self, transformer, timesteps, text, images=None):
        """As Wan's, with whole timesteps, as the pipeline gives them, and the embedding of the frames a second."""
        steps, text = super().condition(transformer, timesteps.long(), text)
        if transformer.config.inject_sample_info:
            of_rate = torch.tensor([_NOT_16_FRAMES_A_SECOND], device=text.device)
            added = transformer.fps_projection(transformer.fps_embedding(of_rate)).unflatten(1, (6, -1))
            steps = [Conditioning(step.head, step.blocks + added) for step in steps]
        return steps, text

    def used_once(self, transformer):
        """The condition embedder and, where it is there, what embeds the frames a second."""
        return super().used_once(transformer) + [
            getattr(transformer, name) for name in ("fps_embedding", "fps_projection") if hasattr(transformer, name)
        ]
