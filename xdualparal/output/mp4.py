"""Writes frames to an mp4 file, segment by segment.

Knows: PyAV and the mp4 container. Must not know: where frames come from.
"""

import logging
import os
import threading
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path

import av
import numpy as np

from .files import check_new, check_regular, create_beside, not_written, place_new, replace
from .h264 import QUALITY, add_encoder, as_pictures, as_uint8, encoding_of
from .left_video import LABEL, DamageError, checked, frames_in, seals_of, whole_packets
from .seals import digest_of, seal_box

logger = logging.getLogger(__name__)

COPIED_FRAMES = 256  # encoded frames in memory at once when a file's frames are copied
_FRAGMENTED = "empty_moov+default_base_moof+frag_keyframe+frag_discont"


class VideoWriter:
    """Writes ``path``, a segment of frames at a time. A context manager; it closes the file properly after an error too.

    While it grows the mp4 is fragmented: it plays up to the last segment at every moment, also if the process is killed.
    Closing makes it an ordinary one, with its index in front, so that a browser plays it while it loads; where there is no
    space for a second file beside it, it stays fragmented. Every segment is encoded on its own, so a video can be resumed
    after any segment, to the same bytes.

    ``fps``: frames a second. ``quality``: H.264's constant rate factor, 0 to 51, lower is better. ``label``: a text that
    the file carries, see ``label_of``. ``tags``: others of its metadata, see tags.tags_of. ``frames_kept``: how many frames of
    an existing file stay, see ``frames_in``; they must end with a segment. ``after``: a VideoWriter's mp4 whose frames come first; those
    kept begin with them. ``overwrite``: whether an existing file may be
    replaced; it is left as it is until the first segment is written. A segment is on the disk, also after a power cut, when
    ``write`` returns.

    Raises ValueError, and leaves the file as it is, for one that exists and may not be replaced, and when its frames to keep
    are damaged, see seals.py, or were encoded with other settings: a file has one codec header, and frames that need
    another one would be decoded to garbage.
    """

    def __init__(self, path, fps, quality=QUALITY, frames_kept=0, label="", tags=(), overwrite=False, after=None):
        self.path, self.fps, self.quality = Path(path), Fraction(fps), quality
        self._tags = {**dict(tags), LABEL: label}
        self.frames_written = 0
        self._size = None  # (height, width) of all frames
        self._lock = threading.Lock()
        self._fragments = 0
        self._is_closed = False
        self._may_replace = overwrite or bool(frames_kept)
        self._seals = []
        check_regular(self.path, "the video")
        if not self._may_replace:
            check_new(self.path, "the video")
        copied = self.path if frames_kept else after
        if copied is not None:
            with self._refusing_damage(copied):
                a_frame = self._check_same_encoding(copied)
        self._unfinished = create_beside(self.path)
        self._growing = self._unfinished  # an existing file stays until there is a segment
        if copied is not None:
            self._keep(copied, frames_kept or frames_in(after), a_frame)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, frames):
        """Appends a segment of ``frames``: (frames, height, width, 3), uint8, or floats in 0..1.

        It is in the file when this returns. Raises ValueError after ``close``, for frames of another size and for an odd
        size, OSError when there is no space: then nothing of the segment is in the file.
        """
        frames = as_uint8(frames)
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.path} is closed: nothing can be written any more")
            self._size = self._size or frames.shape[1:3]
            if frames.shape[1:3] != self._size:
                sizes = ["{1} x {0}".format(*size) for size in (frames.shape[1:3], self._size)]
                raise ValueError(
                    f"these frames are {sizes[0]} pixels and those in {self.path} {sizes[1]}: write another file"
                )
            with self._segment() as container:
                self._encode(frames, container)
            self.frames_written += len(frames)
            if self._growing == self._unfinished:
                self._take_place()

    def close(self):
        """Makes the file an ordinary mp4 and ends writing. May be called from any thread; a second call does nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._finish()

    def _check_same_encoding(self, path):
        """An mp4 of one frame as this writer encodes it, a file in memory. Raises ValueError where ``path`` has another encoding."""
        with av.open(str(path)) as source:
            there = encoding_of(source)
        self._size = there.size
        memory = BytesIO()
        with self._fragmented(memory) as container:
            self._encode(np.zeros((1, *self._size, 3), np.uint8), container)
        memory.seek(0)
        with av.open(memory) as source:
            here = encoding_of(source)
        differences = [
            f"{name} is {old} there and {new} here" for name, old, new in zip(here._fields, there, here) if old != new
        ]
        if differences:
            raise ValueError(
                f"{path} has frames of another encoding, which new ones cannot follow ({differences[0]}): give the "
                "same settings, or start anew without the frames that are there"
            )
        return memory

    def _take_place(self):
        (replace if self._may_replace else place_new)(self._unfinished, self.path)
        self._growing = self.path

    def _encode(self, frames, container):
        stream = add_encoder(container, self.fps, self.quality, *frames.shape[2:0:-1])
        for picture in as_pictures(frames, self.frames_written):
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

    @contextmanager
    def _segment(self):
        """Yields a container; what is put into it is appended to the file, with its seal."""
        memory = BytesIO()
        with self._fragmented(memory) as container:
            yield container
        memory.seek(0)
        with av.open(memory) as source:
            packets = [(bytes(packet), packet.is_keyframe) for packet in source.demux(video=0) if packet.size]
        seal = len(packets), digest_of(packets)
        self._append(memory.getvalue(), seal_box([seal]))
        self._seals.append(seal)

    @contextmanager
    def _fragmented(self, file):
        """Yields a container that is written to ``file`` in fragments, which follow those written so far."""
        options = {  # else the muxer would let every segment start at 0
            "movflags": _FRAGMENTED, "fragment_index": str(self._fragments + 1), "avoid_negative_ts": "disabled",
        }
        with av.open(file, "w", format="mp4", options=options) as container:
            container.metadata.update(self._tags)
            yield container

    def _append(self, mp4, seal=b""):
        """Appends the fragments in ``mp4``, bytes, and the boxes before them when they are the file's first, and ``seal``."""
        size = self._growing.stat().st_size
        wanted = (b"moof", b"mdat") if size else (b"ftyp", b"moov", b"moof", b"mdat")
        boxes = list(_boxes(mp4))
        try:
            with open(self._growing, "ab") as file:
                file.writelines([*(box for kind, box in boxes if kind in wanted), seal])
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self._growing, size)  # half a segment would not play
            raise not_written(error, self.path) from None
        self._fragments += sum(kind == b"moof" for kind, _ in boxes)

    def _keep(self, path, frames, a_frame):
        """Copies the first ``frames`` frames of ``path``. Raises ValueError when they are not as they were written."""
        try:
            with self._refusing_damage(path):
                self._copy(path, frames, seals_of(path, frames), a_frame)
            if path == self.path:  # else what is there stays until there is a segment
                self._take_place()
        except BaseException:
            self._unfinished.unlink(missing_ok=True)
            raise

    @contextmanager
    def _refusing_damage(self, path):
        try:
            yield
        except (DamageError, LookupError, StopIteration, RuntimeError, av.error.FFmpegError) as error:  # as PyAV finds it
            remedy = "delete it and its checkpoint to start anew" if path == self.path else "start without it"
            raise ValueError(f"{path} is damaged in the frames that are kept ({error}): put a good copy back, or {remedy}") from None

    def _copy(self, path, frames, seals, a_frame):
        """Appends the first ``frames`` frames of ``path`` without decoding them, some COPIED_FRAMES at a time.

        What is said of the stream is that of ``a_frame``: the existing file's may be damaged.
        """
        a_frame.seek(0)
        with av.open(str(path)) as source, av.open(a_frame) as model:
            packets = checked(islice(whole_packets(source, path), frames), seals, self.fps)
            for piece in _in_pieces(packets):
                memory = BytesIO()
                with self._fragmented(memory) as container:
                    container.add_stream_from_template(model.streams.video[0])
                    for packet in piece:
                        _put(packet, container)
                self._append(memory.getvalue())
                self.frames_written += len(piece)
        self._append(b"", seal_box(seals))
        self._seals = seals

    def _finish(self):
        try:
            if self._growing == self.path:
                self._make_ordinary()
        except OSError as error:  # it plays as it is
            logger.warning("%s stays fragmented, it could not be written anew: %s", self.path, error)
        self._unfinished.unlink(missing_ok=True)

    def _make_ordinary(self):
        self._unfinished, options = create_beside(self.path), {"movflags": "faststart"}
        with av.open(str(self.path)) as source, av.open(str(self._unfinished), "w", "mp4", options=options) as container:
            container.metadata.update(self._tags)
            for packet in whole_packets(source, self.path):
                _put(packet, container)
        with open(self._unfinished, "ab") as file:
            file.write(seal_box(self._seals))
            file.flush()
            os.fsync(file.fileno())  # before it takes the place of frames that are safe
        replace(self._unfinished, self.path)


def _in_pieces(packets):
    """Yields lists of packets, at least COPIED_FRAMES where there are so many; each begins with a keyframe."""
    piece = []
    for packet in packets:
        if packet.is_keyframe and len(piece) >= COPIED_FRAMES:
            yield piece
            piece = []
        piece.append(packet)
    if piece:
        yield piece


def _put(packet, container):
    """Copies a packet of another container into ``container``."""
    stream = container.streams.video[0] if container.streams.video else container.add_stream_from_template(packet.stream)
    packet.stream = stream
    container.mux(packet)


def _boxes(mp4):
    """Yields (kind, bytes) of the top-level boxes: 4 bytes of length, 4 of kind (ISO/IEC 14496-12)."""
    start = 0
    while start < len(mp4):
        length = int.from_bytes(mp4[start:start + 4], "big")
        yield mp4[start + 4:start + 8], mp4[start:start + length]
        start += length
