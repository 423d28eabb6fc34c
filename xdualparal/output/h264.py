"""How frames become H.264: quality, colours and times.

Knows: PyAV, x264 and its options. Must not know: files, segments, where frames come from.
"""

import re
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

# H.264's constant rate factor: 18 is close to visually lossless (x264's own guide: 17-18).
QUALITY = 18
# No macroblock trees: with them x264 reads uninitialised memory when a frame is a few macroblocks wide, and the same
# 32 x 32 frames gave other bytes in 4 of 8 runs (test_the_same_frames_give_the_same_file). No B-frames: then frames are
# stored in display order, and a segment ends where the next one begins. Four threads, a frame each: by default x264 has one a
# core and a slice for each, and then the bytes depend on the machine (measured, 32 frames of 480p on 2 cores: 0.87 s with
# four, 0.90 s with one, 0.76 s and a 0.5 % bigger file by default).
X264 = "mbtree=0:bframes=0:threads=4:sliced-threads=0"
# HD video's colours, which players assume where a file says nothing, and which the file says (ITU-R BT.709-6: primaries, transfer,
# matrix, and 16 to 235 for black to white). Rounded accurately, so that all processors make the same of a frame.
COLOURS = dict(
    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
    interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
)
TICKS = 1024  # the container's unit of time is 1 / (fps * TICKS) s, as FFmpeg chooses for 16 frames a second


def add_encoder(container, fps, quality, width, height):
    """A new stream of ``container`` that encodes pictures of ``width`` x ``height`` pixels, ``fps`` (a Fraction) a second."""
    stream = container.add_stream("libx264", rate=fps, options={"crf": str(quality), "x264-params": X264})
    stream.width, stream.height, stream.pix_fmt = int(width), int(height), COLOURS["format"]
    codec = stream.codec_context
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    codec.colorspace, codec.color_range = COLOURS["dst_colorspace"], COLOURS["dst_color_range"]
    codec.time_base = 1 / (fps * TICKS)
    stream.gop_size = round(fps)  # a fragment a second
    return stream


def as_pictures(frames, first):
    """Yields what the encoder takes, of ``frames``, uint8: (frames, height, width, 3); the first one is the video's ``first``-th."""
    for number, frame in enumerate(frames, first):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(**COLOURS)
        picture.pts, picture.duration = number * TICKS, TICKS
        yield picture


def as_uint8(frames):
    """``frames`` as uint8, of uint8 or of floats in 0..1. Raises ValueError for a size that cannot be encoded."""
    frames = np.asarray(frames)
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"the frames are {width} x {height} pixels, and in an mp4 that plays everywhere four pixels share a colour "
            "(4:2:0): give an even width and height"
        )
    return frames if frames.dtype == np.uint8 else (frames * 255).round().clip(0, 255).astype(np.uint8)


class Encoding(NamedTuple):
    """With what frames were encoded. ``header``: H.264's parameter sets, in hex; every other field changes them."""

    size: tuple  # height, width
    fps: Fraction
    quality: str  # as x264 writes it, empty where another encoder was used
    header: str


def encoding_of(source):
    """The Encoding of the first frame in ``source``, a container; x264 writes its options into the frame (SEI)."""
    stream = source.streams.video[0]
    packet = next(packet for packet in source.demux(stream) if packet.size)
    quality = re.search(rb" crf=([0-9.]+)", bytes(packet))
    return Encoding(
        (stream.height, stream.width), 1 / (packet.duration * packet.time_base), quality[1].decode() if quality else "",
        stream.codec_context.extradata.hex(),
    )
