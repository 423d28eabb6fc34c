"""What an mp4 says about the run that made it.

Knows: the facts of a run, and the names of an mp4's standard tags. Must not know: how a file is written.
"""

import json
from importlib.metadata import version

from .left_video import description_of

FRAMES_BEFORE = "frames_before"  # in the description of a video that was put behind another one


def frames_before(path):
    """How many frames of other runs, which its own continues, are at the start of the mp4 ``path``. Raises ValueError as ``description_of``."""
    try:
        return int(json.loads(description_of(path))[FRAMES_BEFORE])
    except (json.JSONDecodeError, KeyError, TypeError):
        return 0


def tags_of(facts):
    """The tags of a run's video, a dict: "title", the prompt, and "description", all of ``facts`` as JSON.

    ``facts``: a RunSpec as a dict (run_spec.RunSpec.as_json). What is None is left out. The tags are the same for an unbroken and
    a resumed run, and for all degrees: a RunSpec has no degrees, and there is no date.
    """
    known = {name: value for name, value in facts.items() if value not in (None, [], "")}
    description = json.dumps({**known, "software": f"xdualparal {version('xdualparal')}"}, sort_keys=True)
    title = str(facts.get("prompt") or "")
    return {"title": title.encode(errors="replace").decode(), "description": description}  # a shell may give half a character
