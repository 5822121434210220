"""Recognise a file by its bytes: its container, whether it is cut off, or what else it is.

Nothing is decoded. Every container states in its own form where it ends, and an interrupted
download ends before that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

HEAD = 4096  # bytes at the start of a file that are enough to recognise it
TAIL = 1 << 16  # bytes at the end of a file in which its last part begins


class Unreadable(ValueError):
    """A file that no reader can read as video; the message is the reason."""


def describe_non_file(path: Path) -> str:
    """Describe what is at a path that is no regular file.

    A named pipe or a device would give bytes without end, so readers refuse them.

    >>> describe_non_file(Path("/dev/null")), describe_non_file(Path("/nowhere"))
    ('a device', 'none')
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a link that leads to no file" if path.is_symlink() else "none"
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISDIR: "a folder"}
    return next((words for is_kind, words in kinds.items() if is_kind(mode)), "a device")


def container_of(path: Path) -> str:
    """Return the container that the first bytes show, as mp4, matroska or avi, or "".

    The other names are gif, webp, png, ogg, flv, asf and ts. Suffixes are ignored, as players
    ignore them.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
        return "mp4"
    starts = {
        b"\x1aE\xdf\xa3": "matroska",
        b"GIF8": "gif",
        b"\x89PNG": "png",
        b"OggS": "ogg",
        b"FLV\x01": "flv",
        b"\x30\x26\xb2\x75": "asf",
    }
    if head[:4] in starts:
        return starts[head[:4]]
    if head[:4] == b"RIFF":
        return {b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12], "")
    return "ts" if is_transport(head) else ""


def is_transport(head: bytes) -> bool:
    """Return whether the bytes are an MPEG transport stream: "G" each 188 bytes, or 192 after 4."""
    return any(
        len(head) > start + 3 * step and all(head[start + i * step] == 0x47 for i in range(3))
        for start, step in ((0, 188), (4, 192))
    )


def is_animated(path: Path) -> bool:
    """Return whether a .png or .webp file holds an animation and not one picture."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if head[:4] == b"RIFF":
        return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2) if len(head) > 20 else False
    return head[:4] == b"\x89PNG" and b"acTL" in head.partition(b"IDAT")[0]


def describe_other_file(path: Path) -> str | None:
    """Describe a file that is no video; None if its bytes do not show what it is."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if is_animated(path):
        return None
    if not head:
        return "it is empty, 0 bytes"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "it is an HTML page, as servers send in place of a file that they do not have"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself: run `git lfs pull`"
    for start, what in _OTHERS.items():
        if text.startswith(start):
            return f"it is {what}, no video"
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE"):
        return (
            "it is a picture, no video" if head[8:12] == b"WEBP" else "it is sound alone, no video"
        )
    if not head.strip(b"\0"):
        return "its first bytes are all zero, as of a download that was set up and never filled"
    if head[257:262] == b"ustar":
        return "it is a tar archive, no video"
    printable = sum(32 <= byte < 127 or byte in (9, 10, 13) for byte in head)
    return "it is a text, no video" if printable == len(head) else None


def why_cut_off(path: Path) -> str | None:
    """Return the sign that a file ends before its container does, or None without such a sign."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        find = _ENDS.get(container_of(path))
        try:
            return find(file, size) if find else None
        except (IndexError, ValueError):  # the file ends inside the header that states its length
            return "its header is cut"


_OTHERS = {
    b"#extm3u": "a playlist, which names other files",
    b"ffconcat": "a playlist, which names other files",
    b"v=0": "a description of a stream, which names an address",
    b"<?xml": "an XML text",
    b"{": "a JSON text",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"%pdf": "a PDF document",
    b"id3": "sound alone",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"rar!": "a RAR archive",
    b"\xfd7zxz": "an xz archive",
    b"\xff\xd8\xff": "a picture",
    b"\x89png": "a picture",
    b"bm": "a picture",
}


# --- where each container says that it ends


def _mp4(file: BinaryIO, size: int) -> str | None:
    """Check an .mp4, a row of boxes: a length of 32 bits and a name.

    A length of 1 is followed by a length of 64 bits; 0 means the rest of the file.
    """
    at, names = 0, set()
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
        names.add(head[4:8])
        if length < 8 or not head[4:8].isalnum():  # no box: other data was appended to the film
            break
        at += length
    if at > size:
        missing = "" if b"moov" in names else ", and the index (moov), which comes last, is missing"
        return f"{_lacks(at - size)}{missing}"
    return None if b"moov" in names else "the index (moov) is missing"


def _matroska(file: BinaryIO, size: int) -> str | None:
    """Check an EBML header and one Segment, whose length is all ones if it is unknown."""
    file.seek(4)
    file.seek(_ebml_length(file)[0], os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return None
    length, known = _ebml_length(file)
    return _missing(file.tell() + length, size) if known else None


def _ebml_length(file: BinaryIO) -> tuple[int, bool]:
    """Return an EBML number and whether it is known; leading zero bits give its count of bytes."""
    first = file.read(1)[0]
    more = 8 - first.bit_length()
    mask = (1 << (7 - more)) - 1 if more < 7 else 0
    value = int.from_bytes(bytes([first & mask]) + file.read(more), "big")
    return value, value != (1 << 7 * (more + 1)) - 1


def _riff(file: BinaryIO, size: int) -> str | None:
    """Check chunks of a name and a length; a long .avi is several RIFF chunks in a row."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return None
        at += 8 + int.from_bytes(head[4:], "little")
        at += at % 2
    return _missing(at, size + 1)


def _gif(file: BinaryIO, size: int) -> str | None:
    """Check that a .gif ends with its trailer byte."""
    return (
        None
        if _tail(file, size).rstrip(b"\0").endswith(b";")
        else "its last byte is not the one that ends a GIF"
    )


def _png(file: BinaryIO, size: int) -> str | None:
    """Check that a .png ends with its part IEND."""
    return None if b"IEND" in _tail(file, size) else "its last part (IEND) is missing"


def _ogg(file: BinaryIO, size: int) -> str | None:
    """Check that the last page has the flag 4, the end of its stream."""
    tail = _tail(file, size)
    at = tail.rfind(b"OggS")
    return None if at < 0 or tail[at + 5] & 4 else "its last page does not end the stream"


def _flv(file: BinaryIO, size: int) -> str | None:
    """Check the last tag: its length follows it, so the last four bytes lead to its head."""
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 4:
        return "its last part is cut"
    file.seek(size - 4 - length)
    head = file.read(4)
    whole = head[0] & 31 in (8, 9, 18) and int.from_bytes(head[1:], "big") == length - 11
    return None if whole else "its last part is cut"


def _asf(file: BinaryIO, size: int) -> str | None:
    """Check the length of the file, which stands 24 bytes after the head of its properties."""
    file.seek(0)
    at = (head := file.read(TAIL)).find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    return _missing(int.from_bytes(head[at + 40 : at + 48], "little"), size) if at >= 0 else None


def _ts(file: BinaryIO, size: int) -> str | None:
    """Check that packets of 188 or 192 bytes fill the file."""
    file.seek(0)
    step = 188 if file.read(1) == b"G" else 192
    return _lacks(step - size % step) if size % step else None


def _tail(file: BinaryIO, size: int) -> bytes:
    """Return the last bytes of a file."""
    file.seek(max(0, size - TAIL))
    return file.read()


def _missing(end: int, size: int) -> str | None:
    """Return how many bytes are missing before `end`, in words, or None."""
    return _lacks(end - size) if end > size else None


def _lacks(count: int) -> str:
    """Describe how many bytes are missing."""
    return f"{count:,} bytes are missing at its end"


_ENDS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "mp4": _mp4,
    "matroska": _matroska,
    "avi": _riff,
    "webp": _riff,
    "gif": _gif,
    "png": _png,
    "ogg": _ogg,
    "flv": _flv,
    "asf": _asf,
    "ts": _ts,
}
