"""FIFO-Diffusion as strategies/fifo.py defines it, as a plain program on diffusers' stock modules. Shares no code with the engine or the plan."""

import torch

from .sequential import AbsoluteRope


@torch.no_grad()
def fifo_latents(transformer, make_scheduler, num_steps, noise, texts, guidance_scale, window, lookahead, diagonal=True, step_noise=None):
    """All latents of the video, (1, channels, latent frames, height, width).

    ``noise``: of the whole video. ``texts``: one embedding a branch. ``diagonal``: whether each latent frame has its own timestep; else, to test the test, its window's
    first one's. ``step_noise``: of a scheduler that adds noise in its steps, (latent frame, step) to the generator of it.
    """
    transformer.rope = AbsoluteRope(transformer.config.attention_head_dim)
    per_frame = (noise.shape[3] // 2) * (noise.shape[4] // 2)
    frames = list(noise.split(1, dim=2))
    schedulers = [make_scheduler() for _ in frames]
    for scheduler in schedulers:
        scheduler.set_timesteps(num_steps)
    timesteps = [*schedulers[0].timesteps, torch.zeros_like(schedulers[0].timesteps[0])]
    done = [0] * len(frames)  # steps of each latent frame
    while done[-1] < num_steps:
        entered = [n for n, steps in enumerate(done) if steps] or [-1]
        queue = [n for n in range(len(frames)) if done[n] < num_steps and n <= max(entered) + 1]
        predictions = {}
        places = {n: num_steps - 1 - done[n] for n in queue}  # from the front, which the cleanest step has
        for front in range(0, num_steps, window - lookahead):
            own = [n for n in queue if front <= places[n] < front + window - lookahead]
            if not own:
                continue
            seen = [n for n in range(own[0] - lookahead, own[-1] + 1) if n >= 0]
            transformer.rope.start = seen[0]
            at = torch.stack([timesteps[done[n if diagonal else seen[0]]] for n in seen]).repeat_interleave(per_frame)[None]
            together = torch.cat([frames[n] for n in seen], dim=2)
            branches = [transformer(together, at, text, return_dict=False)[0] for text in texts]
            guided = branches[0] if len(branches) == 1 else branches[1] + guidance_scale * (branches[0] - branches[1])
            for n, prediction in zip(seen, guided.split(1, dim=2)):
                if n in own:
                    predictions[n] = prediction
        for n in queue:
            takes = {} if step_noise is None else dict(generator=step_noise(n, done[n]))
            frames[n] = schedulers[n].step(predictions[n], timesteps[done[n]], frames[n], return_dict=False, **takes)[0]
            done[n] += 1
    return torch.cat(frames, dim=2)
