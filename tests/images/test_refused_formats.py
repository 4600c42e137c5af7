"""Formats that could run a program are refused: by themselves and inside others, whatever the name.

Programs that Pillow or a helper might run are first on PATH, and note that they were run.
"""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import PROJECT
from PIL import Image

from similar_images.images.image_files import REFUSED_FORMATS, readable_formats

# Formats whose plugins were read: what they open inside a file, they open as one given format
# (PNG in ICO, JPEG in BLP); they run no program and use no network.
SAFE = "AVIF BLP BMP CUR DCX DDS DIB FITS FLI FTEX GBR GIF HEIF ICNS ICO IM IMT JPEG JPEG2000 "
SAFE += "MCIDAS MSP PCD PCX PIXAR PNG PPM PSD QOI SGI SPIDER SUN TGA TIFF WEBP XBM XPM XVTHUMB "
SAFE += "FPX MIC JXL"  # if olefile, olefile and pillow-jxl-plugin are installed
PROGRAMS = (
    "gs gswin32c gswin64c djpeg cjpeg ppmtogif convert magick ffmpeg h5dump wmf2eps curl wget"
)


def test_every_format_is_known_to_be_safe_or_refused() -> None:
    """A new version of Pillow may add a format: read its plugin, then add it here or refuse it."""
    assert set(readable_formats()) <= set(SAFE.split())
    assert set(Image.OPEN) <= set(SAFE.split()) | REFUSED_FORMATS
    assert set(REFUSED) == REFUSED_FORMATS


def iptc(body: bytes) -> bytes:
    """An image of 10 times 10 pixels inside IPTC's fields; Pillow looks for its format itself."""
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x0a"), (3, 30, b"\0\x0a"), (3, 120, b"\5")]
    fields.append((8, 10, body))
    return b"".join(b"\x1c" + struct.pack(">BBH", *f[:2], len(f[2])) + f[2] for f in fields)


def ico(body: bytes) -> bytes:
    return struct.pack("<3H4B2H2I", 0, 1, 1, 10, 10, 0, 0, 1, 24, len(body), 22) + body


def icns(body: bytes) -> bytes:
    return (
        b"icns"
        + struct.pack(">I", len(body) + 16)
        + b"ic08"
        + struct.pack(">I", len(body) + 8)
        + body
    )


def blp(body: bytes) -> bytes:
    header = b"BLP1" + struct.pack("<iI2Iii", 0, 0, 10, 10, 5, 0)
    offset = len(header) + 132
    places = struct.pack("<16I16I", offset, *[0] * 15, len(body), *[0] * 15)
    return header + places + struct.pack("<I", 0) + body


def dcx(body: bytes) -> bytes:
    return struct.pack("<3I", 0x3ADE68B1, 12, 0) + body


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
REFUSED = {
    "EPS": EPS,
    "IPTC": iptc(EPS),
    "WMF": b"\xd7\xcd\xc6\x9a\0\0"
    + struct.pack("<5H6x", 0, 0, 100, 100, 72)
    + b"\1\0\t\0"
    + bytes(40),
    "MPEG": b"\0\0\1\xb3\x01\0\x10\x13" + bytes(40),
    "BUFR": b"BUFR" + bytes(40),
    "GRIB": b"GRIB\0\0\0\1" + bytes(40),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(40),
}
INSIDE = {"iptc": iptc, "ico": ico, "icns": icns, "blp": blp, "dcx": dcx}

# Opens every file of the folder and prints what came of it, and what was run or connected to.
RUN = """
import json, sys
from pathlib import Path
from PIL import Image
from similar_images.images.decoding import decode
from similar_images.images.image_files import readable_formats

def plain(root, path):
    with Image.open(root / path) as image:
        image.load()

events = []
watched = ("subprocess", "socket", "urllib", "os.system", "os.exec", "os.posix_spawn", "os.fork")
readable_formats()
sys.addaudithook(lambda name, _: name.startswith(watched) and events.append(name))
errors = {}
for file in sorted(Path("files").iterdir()):
    try:
        {"plain": plain, "ours": decode}[sys.argv[1]](file.parent, file.name)
    except Exception as error:
        errors[file.name] = [type(error).__name__, str(error)]
print(json.dumps([errors, events]))
"""


@pytest.fixture
def files(own_folder: Path) -> Path:
    """Every refused format by itself and inside others, with its own suffix and as a .jpg."""
    folder = own_folder / "files"
    folder.mkdir()
    for name, body in REFUSED.items():
        for suffix in ("jpg", name.lower()):
            (folder / f"{name}.{suffix}").write_bytes(body)
            for outer, wrap in INSIDE.items():
                (folder / f"{name} in {outer}.{suffix}").write_bytes(wrap(body))
                (folder / f"{name} in {outer} in iptc.{suffix}").write_bytes(iptc(wrap(body)))
    return folder


def opened(how: str, folder: Path) -> tuple[dict[str, list[str]], list[str], str]:
    """Open every file; return the errors, audit events, and what the programs on PATH noted."""
    programs, notes = folder.parent / "programs", folder.parent / "notes"
    programs.mkdir()
    for name in PROGRAMS.split():
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{notes}"\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": f"{programs}:{os.defpath}"}
    command = [sys.executable, "-c", RUN, how]
    printed: Any = subprocess.check_output(command, env=environment, cwd=folder.parent)
    errors, events = json.loads(printed)
    return errors, events, notes.read_text() if notes.exists() else ""


posix = pytest.mark.skipif(os.name != "posix", reason="the programs are shell scripts")


@posix
def test_no_refused_format_runs_a_program(files: Path) -> None:
    for name, body in REFUSED.items():
        assert Image.open(io.BytesIO(body)).format == name
    errors, events, noted = opened("ours", files)
    assert set(errors) == {file.name for file in files.iterdir()}
    assert {kind for kind, _ in errors.values()} == {"ImageError"}
    for name, (_, reason) in errors.items():
        if " in " not in name:
            assert reason == "not an image format that Pillow supports"
    assert (events, noted) == ([], "")


@posix
def test_pillow_alone_would_run_ghostscript_for_them(files: Path) -> None:
    """So that the test above sees what it looks for."""
    for file in files.iterdir():
        if file.name not in ("EPS.jpg", "EPS in iptc.jpg"):
            file.unlink()
    _, events, noted = opened("plain", files)
    assert "subprocess.Popen" in events
    assert noted.count("gs --version") == 1
    assert noted.count("gs -q") == 2
