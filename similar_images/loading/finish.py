"""The end of a load: check the number of rows, build the index, report."""

from similar_images.images.image_files import skipped_in_lines
from similar_images.loading.load import Load, Tally
from similar_images.milvus.client import CollectionError, redact
from similar_images.milvus.collection import ENDED, LOAD, ROWS
from similar_images.milvus.vector_index import FLAT, choose_index, index_in_words
from similar_images.network.embedding import NOT_FINITE
from similar_images.network.model_description import ModelError
from similar_images.text import counted


def finish(job: Load, tally: Tally) -> None:
    """Flush, compare the number of rows with the expected one, record that the load has ended.

    Raises ModelError if the network gives no image a finite embedding.
    """
    lost = [item.path for item in tally.skipped if item.reason == NOT_FINITE]
    if lost and not tally.loaded + tally.known + tally.kept:
        raise ModelError(f"no image was loaded; {lost[0]}: {NOT_FINITE}")
    collection = job.collection
    collection.flush()
    count = collection.count()
    if count != tally.rows:
        raise CollectionError(
            f'the collection "{collection.name}" holds {count:,} rows instead of {tally.rows:,}; '
            "run it again"
        )
    build_index(job, count)
    if job.options.recreate:
        collection.replace()
    collection.set_properties(**{ROWS: str(count), LOAD: ENDED})


def build_index(job: Load, rows: int) -> None:
    """Build the index that was requested now or when the collection was created.

    If none is requested now, only the exact index that a collection begins with is replaced: any
    other may have been built by hand.
    """
    collection = job.collection
    choice = job.options.index or collection.properties.get("index", "auto")
    collection.set_properties(index=choice)
    replaceable = job.options.index or collection.index.get("index_type") in (None, FLAT.type)
    kind = choose_index(choice, rows, collection.client.exact_rows)
    if replaceable and collection.use_index(kind):
        job.console.say(f"Index: {index_in_words(collection.index, {})}")


def report(job: Load, tally: Tally, seconds: float) -> None:
    """Print what was loaded, removed, kept and skipped."""
    say, trouble = job.console.say, job.console.trouble
    rate = f", {tally.loaded / seconds:.1f} images/s, in {tally.precision}" if tally.loaded else ""
    loaded = f"Loaded {counted(tally.loaded, 'image')} in {seconds:.1f} s{rate}"
    say(f"{loaded}; {tally.kept:,} were already in the collection")
    if tally.known:
        say(f"{counted(tally.known, 'file')} of known content: rows written without embedding")
    if job.labels.file:
        say(job.labels.in_words(tally.labelled))
    if tally.gone:
        what = "removed" if tally.removed else "kept; --prune removes them"
        say(f"{counted(tally.gone, 'row')} without a readable file, or left out: {what}")
    if tally.unseen:
        rows = counted(tally.unseen, "row")
        why = "unreadable or empty folder, broken link, missing decoder, replaced meanwhile"
        say(f"{rows} whose file may still exist ({why}): kept")
    named = {"Skipped unreadable files": tally.skipped, "Loaded damaged files": tally.damaged}
    for what, files in named.items():
        if files:
            trouble(f"{what}: {len(files):,}")
        for line in skipped_in_lines(files):
            trouble(f"  {line}")
    if tally.left_out:
        say(f"Left out: {tally.left_out}")
    place = f'"{job.collection.name}" ({redact(job.collection.client.uri)})'
    images = counted(tally.rows, "image")
    say(f"The collection {place} holds {images}. Next: python query_code.py")
