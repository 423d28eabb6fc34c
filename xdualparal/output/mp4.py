"""Frames to an mp4 file, as they come.

Knows: PyAV and the container. Must not know: where frames come from.
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

logger = logging.getLogger(__name__)

# H.264's constant rate factor: 18 is close to visually lossless (x264's own guide: 17-18).
QUALITY = 18
# No macroblock trees: with them x264 reads memory that nothing wrote when a frame is a few macroblocks wide, and the same
# 32 x 32 frames gave other bytes in 4 of 8 runs (test_the_same_frames_give_the_same_file). No B-frames: then every frame
# is in the file in its own place, and a segment ends where the next one begins.
X264 = "mbtree=0:bframes=0"
TICKS = 1024  # the container's unit of time is 1 / (fps * TICKS) s, as FFmpeg chooses for 16 frames a second
COPIED_FRAMES = 256  # so many are in memory at once when a file is gone on with
_LABEL = "comment"  # of the tags that FFmpeg writes into an mp4
_FRAGMENTED = "empty_moov+default_base_moof+frag_keyframe+frag_discont"


class VideoWriter:
    """Writes ``path``, a segment of frames at a time. A context manager; the file is closed properly also after an error.

    While it grows the mp4 is fragmented: it plays up to the last segment at every moment, also if the process is killed.
    Closing makes it an ordinary one. Every segment is encoded on its own, so a video that was ended can be gone on with
    after any of them, to the same bytes. ``fps``: frames a second. ``quality``: H.264's constant rate factor, 0 to 51.
    ``label``: a text that the file carries, see ``label_of``. ``frames_kept``: so many frames of the file that is there stay, see ``frames_in``; they must end with a segment. A file
    that is there stays as it is until the first segment is written.
    """

    def __init__(self, path, fps, quality=QUALITY, frames_kept=0, label=""):
        self.path, self.fps, self.quality, self._label = Path(path), Fraction(fps), quality, label
        self.frames_written = 0
        self._lock = threading.Lock()
        self._fragments = 0
        self._is_closed = False
        self._unfinished = self.path.with_name(self.path.name + ".part")
        self._growing = self._unfinished  # until something is in it: what is there stays till then
        self._growing.write_bytes(b"")
        if frames_kept:
            self._copy(frames_kept)
            self._take_place()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, frames):
        """Appends a segment of ``frames``: (frames, height, width, 3), uint8, or floats in 0..1. It is in the file when
        this returns. Raises ValueError after ``close``, OSError when it does not fit: then nothing of it is there."""
        frames = _as_uint8(frames)
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.path} is closed: nothing can be written any more")
            with self._segment() as container:
                self._encode(frames, container)
            if not self.frames_written:
                self._take_place()
            self.frames_written += len(frames)

    def close(self):
        """Makes the file an ordinary mp4; nothing can be written afterwards. From any thread; a second time is nothing."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._finish()

    def _take_place(self):
        os.replace(self._unfinished, self.path)
        self._growing = self.path

    def _encode(self, frames, container):
        stream = self._encoder(container, *frames.shape[2:0:-1])
        for number, frame in enumerate(frames, self.frames_written):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.duration = number * TICKS, TICKS
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

    def _encoder(self, container, width, height):
        options = {"crf": str(self.quality), "x264-params": X264}
        stream = container.add_stream("libx264", rate=self.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = int(width), int(height), "yuv420p"
        stream.codec_context.time_base = 1 / (self.fps * TICKS)
        stream.gop_size = round(self.fps)  # a fragment a second
        return stream

    @contextmanager
    def _segment(self):
        """A container; what is put into it is appended to the file."""
        options = {  # else the muxer would let every segment start at 0
            "movflags": _FRAGMENTED, "fragment_index": str(self._fragments + 1), "avoid_negative_ts": "disabled",
        }
        memory = BytesIO()
        with av.open(memory, "w", format="mp4", options=options) as container:
            container.metadata[_LABEL] = self._label
            yield container
        self._append(memory.getvalue())

    def _append(self, mp4):
        """Appends the fragments in ``mp4``, and what stands before them when they are the file's first."""
        size = self._growing.stat().st_size
        wanted = (b"moof", b"mdat") if size else (b"ftyp", b"moov", b"moof", b"mdat")
        boxes = list(_boxes(mp4))
        try:
            with open(self._growing, "ab") as file:
                file.writelines(box for kind, box in boxes if kind in wanted)
        except OSError:
            os.truncate(self._growing, size)  # half a segment would not play
            raise
        self._fragments += sum(kind == b"moof" for kind, _ in boxes)

    def _copy(self, frames):
        """Appends the first ``frames`` frames of the file that is there, as they are encoded, a few seconds at a time."""
        with av.open(str(self.path)) as source:
            for packets in _in_pieces(islice(_whole_packets(source, self.path), frames)):
                with self._segment() as container:
                    for packet in packets:
                        _put(packet, container)
                self.frames_written += len(packets)

    def _finish(self):
        try:
            if self.frames_written:
                self._make_ordinary()
        except OSError as error:  # it plays as it is
            logger.warning("%s stays fragmented, it could not be written anew: %s", self.path, error)
        self._unfinished.unlink(missing_ok=True)

    def _make_ordinary(self):
        with av.open(str(self.path)) as source, av.open(str(self._unfinished), "w", format="mp4") as container:
            container.metadata[_LABEL] = self._label
            for packet in _whole_packets(source, self.path):
                _put(packet, container)
        os.replace(self._unfinished, self.path)


def _in_pieces(packets):
    """Lists of packets, at least COPIED_FRAMES where there are so many; each begins with a keyframe."""
    piece = []
    for packet in packets:
        if packet.is_keyframe and len(piece) >= COPIED_FRAMES:
            yield piece
            piece = []
        piece.append(packet)
    if piece:
        yield piece


def _put(packet, container):
    """Puts a packet of another container into ``container``, as it is."""
    stream = container.streams.video[0] if container.streams.video else container.add_stream_from_template(packet.stream)
    packet.stream = stream
    container.mux(packet)


def label_of(path):
    """The text that the mp4 at ``path`` carries, empty where there is none or no file."""
    try:
        with av.open(str(path)) as source:
            return source.metadata.get(_LABEL, "")
    except (FileNotFoundError, av.error.InvalidDataError, av.error.EOFError):
        return ""


def frames_in(path):
    """How many frames are whole in the mp4 at ``path``, which may have been left unfinished; 0 without a file."""
    if not Path(path).exists():
        return 0
    try:
        with av.open(str(path)) as source:
            return sum(1 for _ in _whole_packets(source, path))
    except (av.error.InvalidDataError, av.error.EOFError):  # nothing was written yet
        return 0


def _whole_packets(source, path):
    size = os.path.getsize(path)
    for packet in source.demux(video=0):
        if packet.size and not packet.is_corrupt and packet.pos + packet.size <= size:
            yield packet


def _boxes(mp4):
    """(kind, bytes) of the top-level boxes: 4 bytes of length, 4 of kind (ISO/IEC 14496-12)."""
    start = 0
    while start < len(mp4):
        length = int.from_bytes(mp4[start:start + 4], "big")
        yield mp4[start + 4:start + 8], mp4[start:start + length]
        start += length


def _as_uint8(frames):
    frames = np.asarray(frames)
    return frames if frames.dtype == np.uint8 else (frames * 255).round().clip(0, 255).astype(np.uint8)
