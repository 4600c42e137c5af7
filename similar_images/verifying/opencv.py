"""OpenCV, imported when it is first used: that takes a quarter of a second."""

import importlib
from typing import Any


class _OpenCV:
    def __getattr__(self, name: str) -> Any:
        module = importlib.import_module("cv2")
        module.setNumThreads(1)  # the program's own threads and processes share the cores
        value = getattr(module, name)
        setattr(self, name, value)
        return value


cv2: Any = _OpenCV()
