"""A collection's rows as a file for other programs: Parquet, or NumPy's .npz."""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from similar_images.console import Console
from similar_images.milvus.client import CollectionError
from similar_images.milvus.collection import ImageCollection, warn_if_incomplete
from similar_images.milvus.schema import KEY
from similar_images.whole_files import written_beside

Columns = dict[str, np.ndarray]  # of a page: path (N,) str, embedding (N, dimension), others int64


def export_file(text: str) -> Path:
    """Return the file to write; an argparse type."""
    if not text.endswith((".parquet", ".npz")):
        raise argparse.ArgumentTypeError(f"{text!r} ends neither in .parquet nor in .npz")
    return Path(text)


def export(collection: ImageCollection, path: Path, console: Console) -> int:
    """Write all rows with all columns, ordered by path; return how many there are.

    Parquet is written a page at a time; for .npz all rows are in memory. Warns of an incomplete
    load; CollectionError if there are none.
    """
    if not path.parent.is_dir():
        raise CollectionError(
            f"there is no folder {path.parent}; choose another place for --export"
        )
    warn_if_incomplete(collection)
    with console.progress("rows", collection.count()) as progress, written_beside(path) as file:

        def pages() -> Iterator[Columns]:
            for page in collection.stored_rows():
                yield page
                progress.update(len(page[KEY]))

        (_write_npz if path.suffix == ".npz" else _write_parquet)(file, pages())
        return int(progress.n)


def _write_npz(file: BinaryIO, pages: Iterator[Columns]) -> None:
    held = list(pages)
    whole: Any = {name: np.concatenate([page[name] for page in held]) for name in held[0]}
    np.savez(file, **whole)


def _write_parquet(file: BinaryIO, pages: Iterator[Columns]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    def column(values: np.ndarray) -> Any:
        if values.ndim == 1:
            return pyarrow.array(values)
        return pyarrow.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])

    tables = (pyarrow.table({name: column(page[name]) for name in page}) for page in pages)
    first = next(tables)
    with ParquetWriter(file, first.schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
