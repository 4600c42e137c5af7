"""Networks in 8 bits: calibrated by NNCF on a sample of the user's images, and kept."""

import contextlib
import io
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from similar_images.console import warn
from similar_images.images.decode_workers import Decoder, Task, core_count
from similar_images.network import network_cache
from similar_images.network.embedding import (
    Embedder,
    EmbeddingOptions,
    check_eight_bits,
    least_side,
    make_embedder,
)
from similar_images.network.find_network import import_openvino
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork, Rounding
from similar_images.network.openvino_embedder import CPU_BATCH, INT8
from similar_images.network.rounding import (
    LEAST_COSINE,
    SAMPLE,
    measure,
    measured_embedder,
    spread,
    too_much,
)
from similar_images.text import counted

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

LEAST = 64  # images to calibrate on
CALIBRATION = 128  # at most: 320, corrected slowly, were no better


def as_in_collection(
    network: "ConvertedNetwork | Network", precision: str, collection_precision: str
) -> "ConvertedNetwork | Network":
    """Return the network in 8 bits if a collection was loaded with it, it is kept, and wanted.

    precision: as asked for. collection_precision: the collection's property.
    """
    wanted = precision in ("auto", INT8) and collection_precision.startswith(INT8)
    if wanted and isinstance(network, ConvertedNetwork):
        small = network_cache.in_eight_bits(network)
        if small and collection_precision.split(",")[0] == f"{INT8} {small.eight_bits}":
            return small
    return network


def embedder_in_eight_bits(
    network: "ConvertedNetwork | Network",
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
    say: Callable[[str], None],
) -> Embedder:
    """Return the network in 8 bits: the one that is kept, if it is right for the images root/path.

    Otherwise it is calibrated on some of them, checked on others, and kept. Raises ModelError if it
    is not right, if NNCF is not installed, or if there are too few images. say: prints a line.
    """
    network = check_eight_bits(network, options)
    if network.eight_bits:  # as in the collection
        return measured_embedder(network, options, root, paths)
    sample = spread(paths, SAMPLE)

    def checked(small: ConvertedNetwork) -> tuple[Embedder, Rounding]:
        embedder = make_embedder(small, options, len(paths))
        found = measure(network, embedder, options, root, sample)
        embedder.rounding = found.words
        return embedder, found

    kept = network_cache.in_eight_bits(network)
    embedder, found = checked(kept) if kept else (None, None)
    if embedder is None or found is None or found.mean < LEAST_COSINE:
        others = spread(sorted(set(paths) - set(sample)), CALIBRATION)
        small, files = calibrated(network, options, root, others, say)
        embedder, found = checked(small)
        if found.mean < LEAST_COSINE:  # what is kept may be right for another folder
            raise ModelError(f"{too_much(INT8, found)}; choose --precision auto")
        if not network_cache.keep_in_eight_bits(network, files):
            warn("the network in 8 bits can't be kept: queries will use another precision")
    network_cache.note_measured(network, embedder.machine, found)
    return embedder


def calibrated(
    network: ConvertedNetwork,
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
    say: Callable[[str], None],
) -> tuple[ConvertedNetwork, Mapping[str, bytes]]:
    """Return the network in 8 bits, calibrated on the images root/path, and its files.

    Raises ModelError if NNCF is not installed, or fewer than LEAST images can be read.
    """
    openvino = import_openvino()  # first: without openvino_telemetry NNCF does not report its use
    silent = io.StringIO()  # of NNCF's log and its progress bars
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        try:
            import nncf
        except Exception as error:  # a RuntimeError, too, beside packages that it does not know
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"--precision {INT8} needs NNCF ({reason}); run pip install nncf"
            ) from None
    task = Task(
        root=root,
        preprocessing=network.preprocessing,
        least_side=least_side(network.preprocessing, exact=False),
        megapixels=options.max_megapixels,
    )
    workers = core_count() if options.workers is None else options.workers
    with Decoder(task, CPU_BATCH, workers) as decoder:
        pixels = [image[None] for batch in decoder.batches(paths) for image in batch.pixels]
    if len(pixels) < LEAST:
        raise ModelError(
            f"--precision {INT8} is calibrated on at least {LEAST} images beside those that it is "
            f"checked on, and there are {len(pixels)}; choose another --precision"
        )
    say(f"Calibrating the network in 8 bits on {counted(len(pixels), 'image')}, once")
    graph = network.graph
    graph = openvino.Core().read_model(graph) if isinstance(graph, Path) else graph.clone()
    graph.reshape([-1, *network.preprocessing.shape])
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        graph = nncf.quantize(
            graph,
            nncf.Dataset(pixels),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pixels),
            # Clipped to 8 bits, the length that an embedding is divided by makes it longer than 1.
            ignored_scope=nncf.IgnoredScope(types=["ReduceL2", "Divide"], validate=False),
        )
    files = network_cache.files_in_eight_bits(graph)
    digest = json.loads(files[network_cache.INT8_ABOUT])["sha256"]
    return replace(network, graph=graph, eight_bits=digest[:12]), files
