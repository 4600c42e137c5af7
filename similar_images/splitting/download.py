"""Downloads a file: continues where an earlier try ended, and checks the MD5 of the whole."""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from similar_images.console import Console

STALL_SECONDS = 60  # without a byte, after which a download ends
PAUSES = (1, 2, 4, 8)  # seconds before each new connection, after one that broke
BLOCK = 2**16  # bytes
MB = 10**6


def download(url: str, target: Path, md5: str, console: Console) -> None:
    """Download a file; until it is complete it is beside its place, as .NAME.partial.

    urllib does it: requests and urllib3 neither continue a download nor retry one that breaks in
    the middle. Raises OSError or http.client.HTTPException.
    """
    partial = target.with_name(f".{target.name}.partial")
    for pause in (*PAUSES, None):
        try:
            _fetch(url, partial, console)
            break
        except TimeoutError as error:
            raise OSError(f"nothing has come for {STALL_SECONDS} seconds") from error
        except (ConnectionError, http.client.HTTPException):
            if pause is None:
                raise
            time.sleep(pause)
    with open(partial, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        partial.unlink()
        raise OSError("what came has another MD5 and was deleted")
    os.replace(partial, target)


def _fetch(url: str, partial: Path, console: Console) -> None:
    """Append what is missing; ConnectionError if the connection breaks before the end."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"})
    try:
        response = urllib.request.urlopen(request, timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        return  # nothing is missing
    with response:
        if response.status != http.client.PARTIAL_CONTENT:  # the server sends all of it
            done = 0
        total = done + (response.length or 0)  # the length may be unknown
        mode = "ab" if done else "wb"
        with open(partial, mode) as file, console.progress("MB", total // MB) as bar:
            while block := response.read1(BLOCK):
                file.write(block)
                done += len(block)
                bar.update(done // MB - bar.n)
    if done < total:
        raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")
