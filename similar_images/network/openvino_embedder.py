"""Embed on the CPU: OpenVINO runs a converted network, one copy of it per core if memory allows."""

import queue
import typing
from pathlib import Path

import numpy as np

from similar_images.console import warn
from similar_images.images.decode_workers import core_count
from similar_images.images.decoding import memory_size
from similar_images.network.find_network import import_openvino
from similar_images.network.network_cache import ConvertedNetwork
from similar_images.text import counted

CPU_BATCH = 16  # images: with 4 to 64 OpenVINO is within a tenth of its best
MEMORY_SHARE = 1 / 16  # of the memory, for the copies of a network
COPY_BYTES = 64 << 20  # of a copy beside its weights
CAPABILITIES = "OPTIMIZATION_CAPABILITIES"
INT8 = "int8"  # of networks that eight_bits.py has calibrated; the processor needs no support
HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}  # OpenVINO's names of precisions


class OpenVinoEmbedder:
    """A converted network on the CPU; several threads may use it at once.

    Each core has its own copy: a core that also decodes or upserts delays one batch, not all of
    them. Where so many copies would take too much memory, several cores share one. OpenVINO can
    make the copies itself (NUM_STREAMS), in parallel, but 2026.4 then gave one of a vision
    transformer's copies wrong weights in 7 of 40 processes. Made one by one they are correct.
    """

    def __init__(
        self, network: ConvertedNetwork, precision: str, batch_size: int | None, images: int
    ) -> None:
        """Compile the network for about this number of images.

        A precision that the CPU lacks is replaced by OpenVINO, with a warning. `machine` names the
        kind of machine and the precision; `rounding` is filled in by measured_embedder().
        """
        cores = core_count()
        self.preprocessing = network.preprocessing
        self.exact = precision == "float32"
        self.batch_size = batch_size or max(1, min(CPU_BATCH, images))
        most = max(1, min(cores, -(-images // self.batch_size), _copies_that_fit(network)))
        threads = -(-cores // most)  # of each copy
        self.streams = -(-cores // threads)
        settings = {
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",  # every copy would pin itself to the same core
        }
        if precision != "auto":
            settings["INFERENCE_PRECISION_HINT"] = HINTS[precision]
        openvino = import_openvino()
        # Its bindings look up NumPy at first use; two threads that do so at once deadlock.
        np.array(openvino.Tensor(np.zeros(1, np.uint8)).data)
        core = openvino.Core()
        graph = network.graph
        graph = core.read_model(graph) if isinstance(graph, Path) else graph.clone()
        graph.reshape([self.batch_size, *self.preprocessing.shape])
        copies = [core.compile_model(graph, "CPU", settings) for _ in range(self.streams)]
        self._requests: queue.SimpleQueue[typing.Any] = queue.SimpleQueue()
        for copy in copies:
            self._requests.put(copy.create_infer_request())
        hint = copies[0].get_property("INFERENCE_PRECISION_HINT").to_string()
        used = next((name for name, openvinos in HINTS.items() if openvinos == hint), hint)
        if network.eight_bits:  # hint: of what NNCF has left out
            used = f"{INT8} {network.eight_bits}"
        cpu = (core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", CAPABILITIES))
        self.precision, self.machine = used, f"{used} on {' '.join(map(str, cpu))}"
        self.rounding = ""
        if precision not in ("auto", used):
            warn(f"this CPU does not compute in {precision}; OpenVINO uses {used}")
        on = counted(cores, "thread")
        self.words = f"cpu with {on}, OpenVINO, {used}, batches of {self.batch_size}"

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images, (N, dimension) float32 of unit length.

        pixels: (N, crop, crop, 3) uint8, N <= batch_size.
        """
        count = len(pixels)
        if count < self.batch_size:  # the network takes whole batches
            padded = np.zeros((self.batch_size, *self.preprocessing.shape), np.uint8)
            padded[:count] = pixels
            pixels = padded
        request = self._requests.get()
        try:
            request.infer([pixels], share_inputs=True)
            return np.array(request.get_output_tensor().data[:count])
        finally:
            self._requests.put(request)


def _copies_that_fit(network: ConvertedNetwork) -> int:
    """Return how many copies of a network fit into their share of the memory; at least 1."""
    graph = network.graph
    weights = graph.with_suffix(".bin").stat().st_size if isinstance(graph, Path) else 0
    return max(1, int(memory_size() * MEMORY_SHARE) // (weights + COPY_BYTES))
