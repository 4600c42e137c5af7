"""How sharp an image is, pixel by pixel: enlarged and blurred ones have less detail than pixels."""

import numpy as np

from similar_images.images.decoding import Decoded

SAMPLE = 1_000_000  # pixels that are looked at
FAINT = 8  # times fainter than the steepest steps: on plain ground, what compression left
FEW_STEPS, REPEATED = 0.2, 12  # of the mean; pixels of one colour, at most, in a row or column
STEEP = 0.9  # the quantile of the steps between neighbours from which on they belong to an edge


def sharpness(decoded: Decoded) -> float:
    """Return how sharply an image's edges end, about 1; a function for decode workers.

    It is the change from one step between neighbouring pixels to the next at the steepest edges, as
    a share of these steps, along the width times along the height. An image that is enlarged
    without new detail loses as much of it as it wins in pixels; one whose pixels were repeated has
    steps only where they end, so it is multiplied by the share of columns, and of rows, with steps.
    """
    grey = np.asarray(decoded.rgb.convert("L"))
    if min(grey.shape) < 3:
        return 0.0
    every = max(1, round(grey.size / SAMPLE))
    return _along(grey[::every]) * _along(grey[:, ::every].T)


def _along(lines: np.ndarray) -> float:
    steps = np.diff(lines.astype(np.float32))
    changes, steps = np.abs(np.diff(steps)), np.abs(steps[:, :-1])
    steep = steps >= max(np.quantile(steps, STEEP), np.quantile(steps, 0.999) / FAINT)
    change = float(changes[steep].mean() / max(float(steps[steep].mean()), 1e-3))
    across = steps.mean(axis=0)
    stepped = across > FEW_STEPS * across.mean()
    around = np.convolve(stepped, np.ones(2 * REPEATED + 1), "same") > 0  # not plain margins
    return change * float(stepped.sum() / max(1, around.sum()))
