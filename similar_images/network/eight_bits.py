"""Networks in 8 bits: calibrated by NNCF on a sample of the user's images, and kept."""

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from similar_images.images.decode_workers import Decoder, Task, core_count
from similar_images.network import network_cache
from similar_images.network.embedding import EmbeddingOptions, least_side
from similar_images.network.find_network import import_openvino
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.openvino_embedder import CPU_BATCH

LEAST = 64  # images to calibrate on


def calibrated(
    network: ConvertedNetwork, options: EmbeddingOptions, root: Path, paths: Sequence[str]
) -> tuple[ConvertedNetwork, dict[str, bytes]]:
    """Return the network in 8 bits, calibrated on the images root/path, and its files.

    Raises ModelError if NNCF is not installed, or fewer than LEAST images can be read.
    """
    openvino = import_openvino()  # first: without openvino_telemetry NNCF does not report its use
    silent = io.StringIO()  # of NNCF's log and its progress bars
    with contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        try:
            import nncf
        except ImportError:
            raise ModelError("--precision int8 needs NNCF; run pip install nncf") from None
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
            f"--precision int8 is calibrated on at least {LEAST} images beside those that it is "
            f"checked on, and there are {len(pixels)}; choose another --precision"
        )
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
