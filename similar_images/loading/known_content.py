"""Images of known content: renamed, moved and copied files, and new times, need no embedding."""

import collections
import contextlib
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from similar_images.console import Progress
from similar_images.images.decode_workers import Batch
from similar_images.images.decoding import DecodedImage, hashed
from similar_images.images.image_files import FoundImage, ImageError, Skipped
from similar_images.images.labels import Labels
from similar_images.loading.row_writer import RowWriter
from similar_images.milvus.collection import ImageCollection

CHANGED = "a file of equal content changed while it was read"


class Equal(NamedTuple):
    """Files of equal content, and its hash."""

    content: str = ""
    images: Sequence[FoundImage] = ()


@dataclass
class Content:
    """New and changed images by their content.

    to_embed: paths, of equal files the first. others: by those paths, the files that equal them.
    stored: by the path of a row that has their vector, images that need not be embedded.
    """

    to_embed: list[str] = field(default_factory=list)
    others: dict[str, Equal] = field(default_factory=dict)
    stored: dict[str, Equal] = field(default_factory=dict)

    def with_others(self, batch: Batch) -> tuple[list[DecodedImage], np.ndarray]:
        """Return a batch's images and embeddings, and the same of the files that equal them.

        Those that equal a file that can't be read, or is damaged, are noted in the batch.
        """
        for notes in (batch.skipped, batch.damaged):
            notes += [
                note._replace(path=other.path)
                for note in list(notes)
                for other in self.others.get(note.path, Equal()).images
            ]
        images, places = list(batch.images), list(range(len(batch.images)))
        for place, image in enumerate(batch.images):
            content, others = self.others.get(image.path, Equal())
            if content == image.content_hash:
                images += [image._replace(**other._asdict()) for other in others]
                places += [place] * len(others)
            else:
                batch.skipped += [Skipped(other.path, CHANGED, unseen=True) for other in others]
        return images, batch.embeddings[places]


def by_content(
    collection: ImageCollection,
    folder: Path,
    images: Sequence[FoundImage],
    sizes: Set[int],
    progress: Progress,
) -> Content:
    """Compare the content of images with that of each other and of the collection's rows.

    sizes: of the files of all rows. A file whose size no other one has is not read.
    """
    counts = collections.Counter(image.file_size for image in images)
    found, groups = Content(), collections.defaultdict[str, list[FoundImage]](list)
    for image in images:
        progress.update(1)
        if counts[image.file_size] > 1 or image.file_size in sizes:
            with contextlib.suppress(ImageError):  # which is named when it is decoded
                now, content = hashed(folder, image.path)
                groups[content].append(now)
                continue
        found.to_embed.append(image.path)
    rows = collection.paths_of(list(groups)) if sizes else {}
    for content, same in groups.items():
        if content in rows:
            found.stored[rows[content]] = Equal(content, same)
        else:
            found.to_embed.append(same[0].path)
            found.others[same[0].path] = Equal(content, same[1:])
    return found


def write_stored(
    collection: ImageCollection, content: Content, labels: Labels, writer: RowWriter
) -> None:
    """Write the rows of images whose vector another row has.

    Those whose row has just been replaced, perhaps by one of them, are to be embedded.
    """
    left = dict(content.stored)
    for row, embedding in collection.embeddings_of(list(left)):
        if row.content_hash == left[row.path].content:
            images = [
                row._replace(**image._asdict(), label=labels.of(image.path))
                for image in left.pop(row.path).images
            ]
            writer.add(images, np.stack([embedding] * len(images)))
    content.to_embed += [image.path for same in left.values() for image in same.images]
