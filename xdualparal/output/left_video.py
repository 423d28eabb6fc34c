"""Reads what an earlier run left of a video.

Knows: an mp4's label, seals and packets. Must not know: how they were written.
"""

import os
from contextlib import contextmanager
from itertools import islice

import av

from .seals import digest_of, has_fragments, read_seals

LABEL = "comment"  # of the tags that FFmpeg writes into an mp4


class DamageError(Exception):
    """Frames are not there as they were written."""


def label_of(path):
    """Returns the text that the mp4 at ``path`` carries, empty where there is none, or no file, or no mp4.

    Raises ValueError for a file that cannot be read.
    """
    return _tag_of(path, LABEL)


def _tag_of(path, name):
    try:
        with _readable(path), av.open(str(path)) as source:
            return source.metadata.get(name, "")
    except (FileNotFoundError, av.error.FFmpegError, UnicodeDecodeError):
        return ""


def is_fragmented(path):
    """Whether the mp4 at ``path`` was not closed. Raises OSError."""
    return has_fragments(path)


def description_of(path):
    """The text in which the mp4 at ``path`` describes its run, empty where there is none. Raises ValueError as ``label_of``."""
    return _tag_of(path, "description")


def frames_in(path):
    """Counts the frames of whole segments in the mp4 at ``path``, which a killed process may have left; 0 without a file, or
    in one that is not a VideoWriter's. Raises ValueError for a file that cannot be read."""
    try:
        with _readable(path):
            return sum(frames for frames, _ in read_seals(path))
    except FileNotFoundError:
        return 0


@contextmanager
def _readable(path):
    if not os.path.isfile(path) and os.path.exists(path):
        raise ValueError(f"{path} is no file: give another name, or move it away")  # a pipe would wait for a writer
    try:
        open(path, "rb").close()
        yield
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give another name, or move it away") from None


def seals_of(path, frames):
    """The seals of the first ``frames`` frames. Raises DamageError when they do not end with a segment."""
    seals, count = [], 0
    for seal in read_seals(path):
        if count == frames:
            break
        seals.append(seal)
        count += seal[0]
    if count != frames:
        raise DamageError(f"{frames} frames are to be kept and its segments end at {count}")
    return seals


def checked(packets, seals, fps):
    """Yields ``packets``. Raises DamageError after a segment that is not what its seal says."""
    packets, first = iter(packets), 0
    for count, digest in seals:
        segment = list(islice(packets, count))
        found = digest_of((bytes(packet), packet.is_keyframe) for packet in segment)
        if found != digest or not all(_is_at(packet, number / fps, 1 / fps) for number, packet in enumerate(segment, first)):
            raise DamageError(f"frames {first} to {first + count - 1} are not those that were written")
        yield from segment
        first += count


def _is_at(packet, time_s, duration_s):
    unit = packet.time_base
    return None not in (packet.pts, packet.dts) and (packet.pts * unit, packet.dts * unit, packet.duration * unit) == (
        time_s, time_s, duration_s)


def whole_packets(source, path):
    """Yields the packets of ``source``, the container at ``path``, that are there to their end."""
    size = os.path.getsize(path)
    for packet in source.demux(video=0):
        if packet.size and not packet.is_corrupt and packet.pos + packet.size <= size:
            yield packet
