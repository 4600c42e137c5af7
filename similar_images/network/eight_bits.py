"""Networks in 8 bits: calibrated by NNCF on a sample of the user's images, and kept."""

import contextlib
import io
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from similar_images.console import warn
from similar_images.images.decode_workers import Decoder, Task, core_count
from similar_images.network import network_cache, rounding
from similar_images.network.embedding import Embedder, EmbeddingOptions, least_side, make_embedder
from similar_images.network.find_network import import_openvino
from similar_images.network.model_description import ModelError
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.network.openvino_embedder import CPU_BATCH, INT8

if typing.TYPE_CHECKING:
    from similar_images.network.torch_network import Network

LEAST = 64  # images to calibrate on
CALIBRATION = 128  # at most: 320, corrected slowly, were no better


def as_in_collection(
    network: "ConvertedNetwork | Network", precision: str, collection_precision: str
) -> "ConvertedNetwork | Network":
    """Return the network in 8 bits if a collection, by its property, has it, and it is kept.

    precision: as asked for; by any other than 'auto' and INT8 the network stays as it is.
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
    if options.device not in ("auto", "cpu") or not isinstance(network, ConvertedNetwork):
        raise ModelError(f"--precision {INT8} is for CPUs with OpenVINO; choose another one")
    options = replace(options, device="cpu", precision="auto")
    if network.eight_bits:  # as in the collection
        return rounding.measured_embedder(network, options, root, paths)
    if len(paths) < rounding.SAMPLE:
        needed = f"{INT8} is checked on {rounding.SAMPLE} images, and {len(paths)} are new"
        raise ModelError(f"{needed}; choose another --precision")
    sample = rounding.spread(paths, rounding.SAMPLE)

    def candidates() -> Iterator[ConvertedNetwork]:
        if kept := network_cache.in_eight_bits(network):
            yield kept
        others = rounding.spread(sorted({*paths} - {*sample}), CALIBRATION)
        graph = calibrated(network, options, root, others, say)
        yield replace(network, graph=graph, eight_bits="not kept")

    for small in candidates():
        embedder = make_embedder(small, options, len(paths))
        found = rounding.measure(network, embedder, options, root, sample)
        if found.mean >= rounding.LEAST_COSINE:
            break
    else:  # what is kept stays: it may be right for another folder
        raise ModelError(f"{rounding.too_much(INT8, found)}; choose --precision auto")
    if not isinstance(small.graph, Path):
        if kept := network_cache.keep_in_eight_bits(network, small.graph):
            embedder = make_embedder(kept, options, len(paths))
        else:
            warn("the network in 8 bits can't be kept: queries will use another precision")
    network_cache.note_measured(network, embedder.machine, found)
    embedder.rounding = found.words
    return embedder


def calibrated(
    network: ConvertedNetwork,
    options: EmbeddingOptions,
    root: Path,
    paths: Sequence[str],
    say: Callable[[str], None],
) -> typing.Any:
    """Return the network as an openvino.Model in 8 bits, calibrated on the images root/path.

    Raises ModelError if NNCF is not installed, or fewer than LEAST images can be read.
    """
    core = import_openvino().Core()  # first: NNCF sends no telemetry without openvino_telemetry
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            import nncf
        except Exception as error:  # a RuntimeError, too, beside packages that it does not know
            reason = str(error).partition("\n")[0]
            raise ModelError(f"{INT8} needs NNCF ({reason}); run pip install nncf") from None
    preprocessing, workers = network.preprocessing, options.workers
    side, most = least_side(preprocessing, exact=False), options.max_megapixels
    task = Task(root=root, preprocessing=preprocessing, least_side=side, megapixels=most)
    with Decoder(task, CPU_BATCH, core_count() if workers is None else workers) as decoder:
        pixels = [image[None] for batch in decoder.batches(paths) for image in batch.pixels]
    if len(pixels) < LEAST:
        raise ModelError(
            f"--precision {INT8} is calibrated on at least {LEAST} images beside those that it is "
            f"checked on, and there are {len(pixels)}; choose another --precision"
        )
    say(f"Calibrating the network in 8 bits on {len(pixels)} images, once")
    graph = network.graph
    graph = core.read_model(graph) if isinstance(graph, Path) else graph.clone()
    graph.reshape([-1, *preprocessing.shape])
    # Clipped to 8 bits, the length that an embedding is divided by makes it longer than 1.
    exact = nncf.IgnoredScope(types=["ReduceL2", "Divide"], validate=False)
    how = {"preset": nncf.QuantizationPreset.MIXED, "ignored_scope": exact}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return nncf.quantize(graph, nncf.Dataset(pixels), subset_size=len(pixels), **how)
