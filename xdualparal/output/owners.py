"""Whose a file is that a run would write: what each kind of file says about the run that made it.

Knows: where the kinds of files keep their run's RunSpec. Must not know: flags, or how the files are written.
"""

import json

from ..run_spec import RunSpec, without_frames
from .files import check_regular, exists
from .latents_file import first_facts
from .left_video import description_of


def spec_in_video(path):
    """The RunSpec that an mp4 carries, see tags.tags_of; None in one that is not a run's."""
    return _spec(lambda: json.loads(description_of(path)))


def spec_in_latents(path):
    """The RunSpec in a LatentsFile, or None."""
    return _spec(lambda: json.loads(first_facts(path)["spec"]))


def spec_in_json(path):
    """The RunSpec in a report or trace, or None."""
    return _spec(lambda: json.loads(path.read_bytes())["spec"])


def check_owner(path, what, spec_in, values, overwrite=False):
    """Raises ValueError when something is at ``path`` that must not be replaced: no regular file, or, unless ``overwrite``,
    a file of another run. ``spec_in``: one of the functions above. ``values``: the run's, see RunSpec.differences."""
    check_regular(path, what)
    if overwrite or not path.exists():
        return
    spec = spec_in(path)
    if spec is None:
        raise exists(path, what, "exists and no run of this kind made it")
    differences = spec.differences(without_frames(values) if spec_in is spec_in_latents else values)
    if differences:
        raise exists(path, what, f"exists and is of another run ({'; '.join(differences)})")


def _spec(read):
    try:
        return RunSpec.from_json(read())
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return None
