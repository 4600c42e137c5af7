"""lite.py: what is said if a Milvus Lite file can't be opened."""

import errno
import os
from collections.abc import Callable

import pytest
from helpers import LOAD
from PIL import Image

import embed_and_load
import query_code
from similar_images.console import CHECK_DISK
from similar_images.milvus.client import DISK_ERRORS

Fails = Callable[..., str]


@pytest.fixture
def reductions(own_folder: object) -> list[str]:
    """Options that load a folder of one image."""
    os.mkdir("images")
    Image.new("RGB", (9, 9)).save("images/a.png")
    return [*LOAD, "--images", "images"]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOLCK])
def test_a_file_that_cannot_be_locked_is_not_called_damaged(
    number: int, reductions: list[str], fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds it, or the disk has no locks."""
    fcntl = pytest.importorskip("fcntl", reason="Windows locks in another way")

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for main, options in ((embed_and_load.main, reductions), (query_code.main, ["images/a.png"])):
        error = fails(main, *options)
        assert "milvus.db is in use by another process, or its disk has no file locks (" in error
        assert os.strerror(number) in error


@pytest.mark.parametrize("number", DISK_ERRORS)
def test_a_healthy_file_is_not_called_damaged(
    number: int, reductions: list[str], fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses, whatever the file is like: nothing is to be moved away."""
    opened = os.open

    def refuse(path: object, *args: object, **options: object) -> int:
        if str(path).endswith("LOCK"):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    error = fails(embed_and_load.main, *reductions)
    assert os.strerror(number) in error
    assert error.endswith(f"; {CHECK_DISK}")


def test_a_file_in_a_folder_that_does_not_exist(reductions: list[str], fails: Fails) -> None:
    error = fails(embed_and_load.main, *reductions, "--milvus-uri", "nowhere/x.db")
    assert "there is no folder nowhere; check --milvus-uri" in error
