"""Paths that a collection's rows name: which of them lie in the collection's folder."""

from pathlib import PurePath, PurePosixPath, PureWindowsPath

import pytest

from similar_images.matching.collection_folder import stays_inside

EVERYWHERE = [
    "",
    ".",
    "..",
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "//host/share/x.png",
    "a\0.png",
]
ON_WINDOWS = [
    r"..\..\x.png",
    r"a\..\..\x.png",
    r"a/..\x.png",
    r"\x.png",
    r"\\host\share\x.png",
    r"\\?\C:\x.png",
]
ON_WINDOWS += [r"\\.\COM1", "D:x.png", "D:..\\x.png", "C:/x.png", r"C:\x.png"]
INSIDE = ["frog/1.png", "x.png", "a..b/..x.png", "a b/é猫.png"]


@pytest.mark.parametrize("system", [PurePosixPath, PureWindowsPath])
def test_a_path_that_leads_elsewhere_is_not_opened(system: type[PurePath]) -> None:
    assert not [path for path in EVERYWHERE if stays_inside(path, system)]
    assert [path for path in INSIDE if stays_inside(path, system)] == INSIDE


def test_windows_separators_and_drives_lead_elsewhere_on_windows_alone() -> None:
    """Elsewhere they are parts of names, which embed_and_load.py may have found."""
    assert not [path for path in ON_WINDOWS if stays_inside(path, PureWindowsPath)]
    assert [path for path in ON_WINDOWS if stays_inside(path, PurePosixPath)] == ON_WINDOWS
    assert stays_inside("back\\slash.png", PureWindowsPath)
