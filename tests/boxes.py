"""MP4 files for the tests: what OpenCV writes, with other times, pixels or turns written into its boxes."""

import struct

import cv2
import numpy as np

import clips
from live import capture, sources, writing


def frames(count=60, size=(320, 240)):
    """BGR frames, each of another gray, so that their order can be told."""
    return [np.full((size[1], size[0], 3), 20 + 3 * i, np.uint8) for i in range(count)]


def write(path, rate, pictures=None, code="mp4v"):
    """A clip that OpenCV writes, as it is."""
    return clips.write_clip(path, frames() if pictures is None else pictures, rate, code)


def rebuilt(data, path, change, skip=0):
    """The bytes of an MP4 in which change() has replaced what the box at `path` holds; all sizes are mended.

    Media data come first in what OpenCV writes, so that they stay where the tables say.
    """
    at = skip
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind.decode("latin-1") == path[0]:
            inner = data[at + 8:at + size]
            # A box of sample descriptions begins with 8 bytes of its own, a description of a video with 78.
            inner = rebuilt(inner, path[1:], change, {"stsd": 8, "mp4v": 78}.get(path[0], 0)) if path[1:] else change(
                inner)
            return data[:at] + struct.pack(">I4s", len(inner) + 8, kind) + inner + data[at + size:]
        at += size
    raise AssertionError(f"no box {path[0]}")


MEDIA = ["moov", "trak", "mdia"]
TABLES = [*MEDIA, "minf", "stbl"]


def lasting(data, *runs):
    """The same MP4 with runs of (frames, seconds per frame)."""
    scale = struct.unpack_from(">I", data, data.index(b"mdhd") + 4 + 12)[0]
    ticks = [(count, round(seconds * scale)) for count, seconds in runs]
    total = sum(count * each for count, each in ticks)
    table = struct.pack(">II", 0, len(ticks)) + b"".join(struct.pack(">II", *run) for run in ticks)
    data = rebuilt(data, [*TABLES, "stts"], lambda inner: table)
    data = rebuilt(data, [*MEDIA, "mdhd"], lambda inner: inner[:16] + struct.pack(">I", total) + inner[20:])
    return data.replace(b"edts", b"free")  # a list of edits that would cut it off


def wide_pixels(data, wide, high):
    """The same MP4 with pixels that are `wide` by `high`."""
    box = struct.pack(">I4sII", 16, b"pasp", wide, high)
    return rebuilt(data, [*TABLES, "stsd", "mp4v"], lambda inner: inner.replace(b"pasp", b"free") + box)


def turned(data):
    """The same MP4, to be shown turned by 90 degrees."""
    matrix = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    return rebuilt(data, ["moov", "trak", "tkhd"], lambda inner: inner[:40] + matrix + inner[76:])


def two_tracks(first, second):
    """The bytes of an MP4 with the pictures of two."""
    media, more = (data[:data.index(b"moov") - 4] for data in (first, second))
    head, tail = (data[data.index(b"moov") - 4:] for data in (first, second))

    def moved(offsets):
        count = struct.unpack_from(">I", offsets, 4)[0]
        return offsets[:8] + struct.pack(f">{count}I", *(len(media) + v for v in struct.unpack_from(
            f">{count}I", offsets, 8)))

    tail = rebuilt(tail, [*TABLES, "stco"], moved)
    tail = rebuilt(tail, ["moov", "trak", "tkhd"], lambda inner: inner[:12] + struct.pack(">I", 2) + inner[16:])
    start = tail.index(b"trak") - 4
    track = tail[start:start + struct.unpack_from(">I", tail, start)[0]]
    return media + more.replace(b"ftyp", b"free") + rebuilt(head, ["moov"], lambda inner: inner + track)


def copy(source, output, retry=10.0):
    """Read a source and write it. Returns (times of the frames, frames written, seconds of the output, the reader)."""
    reader, times = capture.Reader(sources.named(source), retry), []
    with writing.Video(output, reader) as video:
        while not reader.finished():
            got = reader.read()
            if got:
                times.append(got[1])
                video.write(*got[:2])
    reader.close()
    assert reader.problem() is None
    written = cv2.VideoCapture(str(output))
    count, seconds = written.get(cv2.CAP_PROP_FRAME_COUNT), 0.0
    seconds = count / written.get(cv2.CAP_PROP_FPS)
    written.release()
    return times, count, seconds, reader
