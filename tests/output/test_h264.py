"""The encoding of the mp4's frames: colours, and bytes that are the same everywhere."""

import os
import subprocess
import sys
from io import BytesIO

import av
import numpy as np
import pytest

from xdualparal.output.h264 import X264
from xdualparal.output.mp4 import VideoWriter

COLOURS = [
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (0, 0, 0), (255, 255, 255),
    (128, 128, 128), (17, 99, 201), (240, 200, 160), (64, 32, 16),
]
SIZES = [(64, 96), (34, 50), (480, 832), (18, 162)]  # height, width: also those that H.264 must cut its 16 x 16 blocks to


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("closed", [True, False])
def test_colours_come_back_as_the_file_says(tmp_path, size, closed):
    """Decoded with the matrix and the range that are in its tags: within 3 of 255 all over each picture."""
    writer = VideoWriter(tmp_path / "a.mp4", fps=16)
    writer.write(np.stack([np.full((*size, 3), colour, np.uint8) for colour in COLOURS]))
    if closed:
        writer.close()
    with av.open(str(tmp_path / "a.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range) == (1, 1, 1, 1)  # BT.709, limited
        assert (codec.height, codec.width) == size
        for colour, frame in zip(COLOURS, container.decode(video=0), strict=True):
            assert frame.colorspace == 1 and frame.color_range == 1
            shown = frame.to_ndarray(format="rgb24", src_colorspace=frame.colorspace, src_color_range=frame.color_range)
            assert np.abs(shown.astype(int) - colour).max() <= 3, colour
            assert np.abs(by_bt709(frame) - colour).max() <= 3, colour


def by_bt709(frame):
    """The colour of a picture of one colour, from its first pixel, by ITU-R BT.709-6's own formulas."""
    y, cb, cr = (bytes(plane)[0] for plane in frame.planes)
    luma, blue, red = (y - 16) / 219, (cb - 128) / 224 * 1.8556, (cr - 128) / 224 * 1.5748
    r, b = luma + red, luma + blue
    return 255 * np.array([r, (luma - 0.2126 * r - 0.0722 * b) / 0.7152, b])


def test_colours_stay_where_they_are(tmp_path):
    """Four quarters, each of its colour; away from the edges, where four pixels share one."""
    frame = np.zeros((64, 64, 3), np.uint8)
    quarters = [(slice(a, a + 32), slice(b, b + 32)) for a in (0, 32) for b in (0, 32)]
    for place, colour in zip(quarters, COLOURS):
        frame[place] = colour
    with VideoWriter(tmp_path / "a.mp4", fps=16, quality=10) as writer:
        writer.write(np.stack([frame] * 3))
    shown = decoded(tmp_path / "a.mp4")[-1]
    for (rows, columns), colour in zip(quarters, COLOURS):
        inside = shown[rows.start + 6:rows.stop - 6, columns.start + 6:columns.stop - 6]
        assert np.abs(inside.astype(int) - colour).max() <= 3


@pytest.mark.parametrize("size", [(33, 32), (32, 31), (15, 17)])
def test_odd_sizes_are_refused(tmp_path, size):
    with VideoWriter(tmp_path / "a.mp4", fps=16) as writer:
        with pytest.raises(ValueError, match=rf"frames are {size[1]} x {size[0]} pixels.*give an even width and height"):
            writer.write(np.zeros((2, *size, 3)))
    assert list(tmp_path.iterdir()) == []


def decoded(path):
    """(frames, height, width, 3) uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_quality_and_size_has_a_codec_header_of_its_own():
    """Else comparing headers would not show that a file was resumed with another quality."""
    headers = set()
    for quality in range(52):
        with av.open(BytesIO(), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=16, options={"crf": str(quality), "x264-params": X264})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
            headers.add(stream.codec_context.extradata)
            stream.encode()
    assert len(headers) == 52


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1, reason="there is one core")
def test_the_bytes_do_not_depend_on_the_cores(tmp_path):
    """x264 counts them when it starts: a process may use one, another all."""
    files = []
    for cores in (sorted(os.sched_getaffinity(0))[:1], os.sched_getaffinity(0)):
        file = tmp_path / f"{len(files)}.mp4"
        subprocess.run([sys.executable, "-c", ON_CORES, str(file), *map(str, cores)], check=True)
        files.append(file.read_bytes())
    assert files[0] == files[1]


ON_CORES = """
import os, sys
os.sched_setaffinity(0, map(int, sys.argv[2:]))
import numpy as np
from xdualparal.output.mp4 import VideoWriter
with VideoWriter(sys.argv[1], fps=16) as writer:
    writer.write(np.random.default_rng(0).random((20, 128, 128, 3)))
"""
