"""Digests of a video's segments, kept in the mp4 itself, so that damage shows before frames are kept.

Knows: the mp4's top-level boxes (ISO/IEC 14496-12). Must not know: how frames are encoded or muxed.

A seal is (frames of a segment, the SHA-256 of their packets). Seals stand in a box of the kind that players skip ("free"),
behind the segment or, in an ordinary mp4, at its end: who reads a seal knows that what is before it was written whole.
"""

import hashlib
import json

_MARK = b"xdualparal segments "


def digest_of(packets):
    """The digest of encoded frames, [(bytes, whether it is a keyframe)]."""
    digest = hashlib.sha256()
    for content, is_keyframe in packets:
        digest.update(len(content).to_bytes(8, "big") + bytes([is_keyframe]) + content)
    return digest.hexdigest()


def seal_box(seals):
    """The box, bytes, of ``seals``."""
    content = _MARK + json.dumps(seals).encode()
    return (8 + len(content)).to_bytes(4, "big") + b"free" + content


def read_seals(path):
    """All seals in the mp4 at ``path``, in order; [] for a file without. Raises OSError."""
    seals = []
    with open(path, "rb") as file:
        for kind, start, end in _boxes(file):
            file.seek(start)
            if kind == b"free" and file.read(len(_MARK)) == _MARK:
                seals += _seals(file.read(end - start - len(_MARK)))
    return seals


def has_fragments(path):
    """Whether the mp4 at ``path`` is one that grows. Raises OSError."""
    with open(path, "rb") as file:
        return any(kind == b"moof" for kind, _, _ in _boxes(file))


def _seals(content):
    """A box that was damaged has none: its frames count as missing."""
    try:
        return [(int(frames), str(digest)) for frames, digest in json.loads(content)]
    except (ValueError, TypeError):
        return []


def _boxes(file):
    """Yields (kind, where its content starts, where it ends) of each whole top-level box."""
    size, start = file.seek(0, 2), 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, content = int.from_bytes(head[:4], "big"), start + 8
        if length == 1:  # the length of a box beyond 4 GiB follows
            length, content = int.from_bytes(head[8:], "big"), start + 16
        if length < content - start or start + length > size:
            return
        yield head[4:8], content, start + length
        start += length
