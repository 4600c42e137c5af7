"""decode_workers.py: batches are the same whoever decodes them."""

from pathlib import Path

import numpy as np
import pytest

from similar_images.pictures.decode_workers import Decoder
from similar_images.pictures.decoding import Preprocessing, decode
from similar_images.pictures.image_files import Listing, iter_images

preprocess = Preprocessing(256, 224)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_costs_no_other_of_its_batch(workers: int, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"nothing")
    paths = [image.path for image in iter_images(photos, Listing())]
    with Decoder(photos, preprocess, batch_size=4, workers=workers, ahead=1) as decoder:
        seen, skipped = {}, []
        for batch in decoder.batches(paths):
            for info, pixels in zip(batch.images, batch.pixels, strict=True):
                seen[info.path] = pixels.copy()
            skipped += [item.path for item in batch.skipped]
            decoder.release(batch)
    assert skipped == ["broken.jpg"]
    assert list(seen) == [path for path in paths if path != "broken.jpg"]
    for path, pixels in seen.items():
        np.testing.assert_array_equal(pixels, preprocess(decode(photos, path)[1]))


def test_a_batch_of_bad_pictures_is_empty(own_folder: Path) -> None:
    for name in "abc":
        Path(f"{name}.png").write_bytes(b"bad")
    with Decoder(own_folder, preprocess, 3, workers=0) as decoder:
        (batch,) = decoder.batches(["a.png", "b.png", "c.png"])
    assert not batch.images
    assert len(batch.skipped) == 3
