"""The file of a measured set of videos, which grows.

Knows: its JSON. Must not know: how videos are made or measured.
"""

import json
from pathlib import Path

from ..output.files import check_place, check_regular, write_whole
from .statistics import summary

KIND = "xdualparal quality 1"


class Results:
    """The videos measured so far: ``videos``, [dict(prompt, seed, metrics)], in ``path`` (None: nowhere), which ``add`` rewrites whole.

    ``settings``: what the videos have in common, a dict of plain values. Raises ValueError when something else is at ``path``, or
    videos of other settings.
    """

    def __init__(self, path, settings):
        self.path, self.settings = path and Path(path), settings
        self.videos = []
        if self.path is None:
            return
        check_place(self.path, "--json", None)
        check_regular(self.path, "--json")
        if self.path.exists():
            self.videos = self._same(read_results(self.path))

    def has(self, prompt, seed):
        """Whether that video is there."""
        return any((video["prompt"], video["seed"]) == (prompt, seed) for video in self.videos)

    def add(self, prompt, seed, metrics):
        """Adds a video. Raises OSError."""
        self.videos.append(dict(prompt=prompt, seed=seed, metrics=metrics))
        if self.path is not None:
            content = dict(kind=KIND, settings=self.settings, summary=summary(self.videos), videos=self.videos)
            write_whole(self.path, json.dumps(content, indent=1).encode() + b"\n")

    def _same(self, content):
        there = content["settings"]
        names = [name for name in {**there, **self.settings} if there.get(name) != self.settings.get(name)]
        if names:
            told = "; ".join(f"{name} was {there.get(name)!r} and is {self.settings.get(name)!r}" for name in names)
            raise ValueError(f"--json {self.path} has videos of other settings ({told}): give another file, or the same settings")
        return content["videos"]


def read_results(path):
    """What ``Results`` wrote. Raises ValueError for anything else."""
    try:
        content = json.loads(Path(path).read_bytes())
        if content["kind"] == KIND and all(set(video) == {"prompt", "seed", "metrics"} for video in content["videos"]):
            return content
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a file that --json wrote") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{path} is no file of xdit-dualparal quality: give one that --model ... --json wrote")
