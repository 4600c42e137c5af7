"""Ctrl-C: no traceback, whenever it is pressed, and once is enough.

Imports nothing that takes time: a script calls end_at_once() before its other imports.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

STATUS = 130  # as shells report it
GRACE = 2.0  # seconds for cleaning up; torchrun passes Ctrl-C on to ranks that have it already

_pressed: list[float] = []


def end_at_once() -> None:
    """Let Ctrl-C end the process without a word: there is nothing to clean up."""
    _handle(_end)


def raise_once() -> None:
    """Let the first Ctrl-C raise KeyboardInterrupt. Another one soon after it would interrupt the
    cleaning up, and is ignored; a later one ends the process.
    """
    _pressed.clear()
    _handle(_raise)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _repeat


def _handle(handler: Callable[[int, FrameType | None], object]) -> None:
    """Set the handler, unless Ctrl-C is ignored, as after a shell's `&`, or somebody else's."""
    if threading.current_thread() is threading.main_thread():
        replaceable = (signal.default_int_handler, _end, _raise)
        if signal.getsignal(signal.SIGINT) in replaceable:
            signal.signal(signal.SIGINT, handler)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(STATUS)


def _raise(number: int, frame: FrameType | None) -> None:
    _pressed.append(time.monotonic())
    if len(_pressed) == 1:
        raise KeyboardInterrupt
    if _pressed[-1] - _pressed[0] > GRACE:
        os._exit(STATUS)


def _repeat(lost: Any) -> None:
    """Repeat a Ctrl-C whose exception was lost: raised where Python only prints what is raised."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    _pressed.clear()
    threading.Timer(0.01, _press).start()


def _press() -> None:
    if hasattr(signal, "pthread_kill"):  # else, as on Windows, the main thread wakes up anyway
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
