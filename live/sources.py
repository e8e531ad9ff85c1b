"""What SOURCE names: a camera, a stream's address, or files; and why a source gives no picture. Nothing to run."""

import mmap
import os
import re
import sys
import urllib.request
from pathlib import Path

from terminal import script

KINDS = "video, photo or folder"  # kinds of files that realtime.py takes
FILE = re.compile(r"file:(//(localhost)?(?=/))?", re.IGNORECASE)  # prefix of the address of a file on this machine


def named(source):
    """The source that a user means: without spaces at the ends; ~ is the home folder, file:///a.mp4 is /a.mp4."""
    if not isinstance(source, str) or os.path.exists(source):
        return source
    source = source.strip()
    if start := FILE.match(source):
        path = source[start.end():]
        return urllib.request.url2pathname(path.replace("\\", "/") if os.name == "nt" else path)
    return source if is_url(source) else os.path.expanduser(source)


def is_url(source):
    """Whether a source is an address such as rtsp://... or http://...; C:\\a.mp4 and 12:30.mp4 are files."""
    return isinstance(source, str) and re.match(r"\s*[a-zA-Z][a-zA-Z0-9+.-]+://", source) is not None


def is_camera(source):
    """Whether a source is a camera: its number, or a device such as /dev/video0 or /dev/v4l/by-id/..."""
    if not isinstance(source, (str, os.PathLike)):
        return isinstance(source, int)
    return str(source).startswith(("/dev/video", "/dev/v4l/")) or Path(source).is_char_device()


def is_live(source):
    """Whether a source is a camera or an address; other sources are files and folders."""
    return is_camera(source) or is_url(source)


def has_several_video_tracks(source):
    """Whether a file has several video tracks, by the boxes of MP4 and MOV."""
    if not os.path.isfile(source) or not os.path.getsize(source):
        return False
    with open(source, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return len(re.findall(rb"hdlr.{8}vide", data, re.DOTALL)) > 1


def public(source):
    """The name of a source in messages and LOG: a camera's number; of an address only scheme, host and port."""
    return f"camera {source}" if isinstance(source, int) else script.public(str(source))


def why_not(source, kinds=KINDS):
    """One line on why a source gives no pictures, as far as can be known, and what to do. `kinds`: the kinds of files
    that the program takes."""
    if is_url(source):
        return f"{public(source)} cannot be opened: check the address, the network and that the stream is on"
    if not is_camera(source):
        return why_no_video(source, kinds)
    name = public(source)
    if sys.platform == "darwin":
        return (f"{name} gives no picture: connect one, close other programs that use it, and allow this "
                f"terminal in System Settings > Privacy & Security > Camera; or set SOURCE=<{kinds}>")
    if sys.platform.startswith("linux"):
        device = Path(f"/dev/video{source}" if isinstance(source, int) else source)
        others = sorted(p.name for p in Path("/dev").glob("video*"))
        if not device.exists():
            known = f" (there are: {', '.join(others)})" if others else ""
            return f"there is no camera {source}{known}: connect one, or set SOURCE=<another number, {kinds}>"
        if not os.access(device, os.R_OK | os.W_OK):
            return f"no permission for {name}: run 'sudo usermod -aG video $USER' and log in again"
    return (f"{name} gives no picture: it may be in use, or not allowed; close other programs that use it, "
            f"check the system's camera privacy settings, or set SOURCE=<another number, {kinds}>")


def why_no_video(path, kinds):
    """why_not() for a file."""
    if not os.path.isfile(path):
        return f"there is no {path}: set SOURCE=<camera number, address, {kinds}>"
    if not os.access(path, os.R_OK):
        return f"no permission to read {path}: change it, or copy the file"
    if os.fsencode(path).decode("utf-8", "replace") != str(path):
        return f"the name of {path} is not valid UTF-8: rename it"
    with open(path, "rb") as file:
        start = file.read(4096)
    # FFmpeg plays a PDF as a picture and a text file as a screen of text, but text files may also be playlists.
    binary = set(range(32)) - set(b"\t\n\f\r\x1b")  # bytes that texts do not have
    is_text = start and not binary.intersection(start)
    is_playlist = start.startswith((b"#EXTM3U", b"v=0", b"ffconcat"))
    if start.startswith(b"%PDF") or (is_text and not is_playlist):
        return f"{path} is a document, not a video: set SOURCE=<camera number, address, {kinds}>"
    return f"{path} is damaged, or not a video: try it in a video player, and copy or convert it again"
