"""What is done with each image of a batch: decoded, preprocessed for the network, examined."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from similar_images.images.decoding import Decoded, DecodedImage, Preprocessing, decode
from similar_images.images.image_files import ImageError, Skipped, skipped_for

Examine = Callable[[Decoded], Any]  # a function of a module, sent to workers


@dataclass
class Batch:
    """Decoded images, and those of the batch that could not be decoded.

    pixels: (N, crop, crop, 3) uint8, N = len(images); valid until release() is called. examined:
    what Task.examine returned for each image.
    """

    pixels: np.ndarray
    images: list[DecodedImage]
    examined: list[Any] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is done with each image; it is sent to the workers.

    least_side: see decode(). preprocessing: what makes the pixels of a batch; None for none.
    examine: called with each decoded image.
    """

    root: Path
    preprocessing: Preprocessing | None = None
    least_side: int | None = None
    examine: Examine | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image's pixels in a batch."""
        return self.preprocessing.shape if self.preprocessing else (0,)


def decode_batch(task: Task, paths: list[str], out: np.ndarray) -> Batch:
    """Decode the images of paths, and preprocess them into out, (at least len(paths), *shape)."""
    batch = Batch(out, [])
    for path in paths:
        try:
            decoded = decode(task.root, path, task.least_side)
            if task.preprocessing:
                out[len(batch.images)] = task.preprocessing(decoded.rgb)
            batch.images.append(decoded.info)
            if task.examine:
                batch.examined.append(task.examine(decoded))
        except ImageError as error:
            batch.skipped.append(skipped_for(path, error))
    batch.pixels = out[: len(batch.images)]
    return batch
