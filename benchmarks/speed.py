"""How fast images are embedded and loaded, compared with other ways and with the processor."""

import collections
import copy
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.measure import Figures, seconds
from benchmarks.setup import Setup
from similar_images.images.decode_workers import core_count
from similar_images.network.embedding import Embedder

WARM_UP = 512  # images of a pipeline that are not counted
HOMEWORK_IMAGES = 16  # of a repetition: each takes a tenth of a second
Rates = dict[str, list[float]]


def network(setup: Setup) -> Figures:
    """Ways to embed the same decoded images, and the matrix product."""
    pixels = np.stack(list(map(setup.preprocessed, setup.few)))
    exact, fast = setup.embedder("float32"), setup.embedder()
    ways: dict[str, Callable[[], np.ndarray]] = {
        f"similar_images, {embedder.words}": functools.partial(embed_all, embedder, pixels)
        for embedder in (exact, fast)
    }
    files = [setup.args.images / path for path in setup.few[:HOMEWORK_IMAGES]]
    ways |= setup.torch.ways(pixels, fast.batch_size, files, setup.folder)
    found = {name: embed() for name, embed in ways.items()}  # warms up, too
    rates: Rates = collections.defaultdict(list)
    for _ in range(setup.args.repetitions):
        for name, embed in ways.items():
            rates[f"{name}: images/s"].append(len(found[name]) / seconds(embed))
        for precision in dict.fromkeys((fast.precision, "float32")):
            name = f"{precision} matrix product, {setup.device}, as images/s"
            rates[name].append(setup.torch.matrix_product(precision))
    figures: Figures = {"network: GFLOP per image": setup.torch.flop / 1e9}
    reference = next(iter(found.values()))
    for name, vectors in found.items():
        cosines = (vectors * reference[: len(vectors)]).sum(1)
        figures[f"{name}: least cosine to float32"] = float(cosines.min())
    return {**rates, **figures}


def pipeline(setup: Setup) -> Figures:
    """Decode, embed and upsert, overlapped, compared with the network alone before and after."""
    paths = setup.database[: 16 * setup.args.count]
    pixels, embedder = np.stack(list(map(setup.preprocessed, setup.few))), setup.embedder()

    def limits() -> np.ndarray:
        alone = len(pixels) / seconds(lambda: embed_all(embedder, pixels))
        return np.array([alone, setup.torch.matrix_product(embedder.precision)])

    setup.upsert(embedder, paths[: 2 * WARM_UP])
    rates, shares = [], []
    for _ in range(setup.args.repetitions):
        before = limits()
        rates.append(setup.upsert(embedder, paths).rate(WARM_UP))
        shares.append((2 * rates[-1] / (before + limits())).tolist())
    of_network, of_product = map(list, zip(*shares, strict=True))
    return {
        f"decode, embed, upsert, {len(paths):,} images: images/s": rates,
        "as a share of the network alone": of_network,
        f"as a share of the {embedder.precision} matrix product, {setup.device}": of_product,
    }


def steady(setup: Setup) -> Figures:
    """Loads without start-up: what many images take longer than few of them.

    What the cores can do: their number, over the CPU time that decoding and preprocessing an image
    (reduced to twice the network's size) and embedding it take alone.
    """
    embedder, workers = setup.embedder(images=len(setup.few)), core_count()
    files = {path: setup.args.images / path for path in setup.few}
    ours, whole = f"load, {embedder.words}", "load, the same, images decoded whole"
    torchs = f"torch, DataLoader with {workers} workers, eager, float32"
    limit = f"what {workers} cores can do"
    ways: dict[str, Callable[[list[str]], object]] = {
        ours: functools.partial(setup.upsert, embedder),
        whole: functools.partial(setup.upsert, decoding_whole(embedder)),
        torchs: lambda paths: setup.torch.embed_with_loader([files[p] for p in paths], workers),
    }
    rates: Rates = collections.defaultdict(list)
    for _ in range(setup.args.repetitions):
        for name, load in ways.items():
            rates[f"{name}: images/s"].append(steady_rate(load, setup.few))
        costs = cpu_seconds(setup, embedder)
        for name, cost in costs.items():
            rates[f"{name}, alone: CPU ms an image"].append(1000 * cost)
        least = costs["scaled decode and preprocess"] + costs["network"]
        rates[f"{limit}: images/s"].append(workers / least)
    mine = rates[f"{ours}: images/s"]
    for other in (torchs, whole, limit):
        ratios = np.array(mine) / rates[f"{other}: images/s"]
        rates[f"load, as a multiple of {other}"] = ratios.tolist()
    return {**rates}


def steady_rate(load: Callable[[list[str]], object], paths: list[str]) -> float:
    """Return the images/s of a load after its start-up.

    Every worker has the same number of torch's batches of 32, if there are images enough.
    """
    each = 32 * core_count()
    few = each if len(paths) >= 2 * each else max(1, len(paths) // 4)
    many = len(paths) // few * few
    started, all_done = (seconds(functools.partial(load, paths[:n])) for n in (few, many))
    return (many - few) / (all_done - started)


def cpu_seconds(setup: Setup, embedder: Embedder) -> dict[str, float]:
    """Return the CPU seconds of each step per image, measured alone on a quarter of them."""
    paths = setup.few[: max(1, len(setup.few) // 4)]
    batch = np.stack([setup.preprocessed(paths[0])] * embedder.batch_size)

    def cost(step: Callable[[str], object]) -> float:
        step(paths[0])  # warms up
        start = time.process_time()
        for path in paths:
            step(path)
        return (time.process_time() - start) / len(paths)

    return {
        "whole decode and preprocess": cost(setup.preprocessed),
        "scaled decode and preprocess": cost(lambda p: setup.preprocessed(p, setup.least_side)),
        "network": cost(lambda _: embedder.embed(batch)) / len(batch),
    }


def decoding_whole(embedder: Embedder) -> Embedder:
    """Return an embedder for which every image is decoded whole, whatever its precision."""
    whole = copy.copy(embedder)
    whole.exact = True
    return whole


def embed_all(embedder: Embedder, pixels: np.ndarray) -> np.ndarray:
    """Embed preprocessed images as embed_images() does, without decoding."""
    size = embedder.batch_size
    parts = [pixels[i : i + size] for i in range(0, len(pixels), size)]
    with ThreadPoolExecutor(embedder.streams + 1) as pool:
        return np.concatenate(list(pool.map(embedder.embed, parts)))
