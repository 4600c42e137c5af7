"""Embed with torch: on a GPU, or on a CPU for which OpenVINO has no package."""

import os
import typing

import numpy as np

if typing.TYPE_CHECKING:
    import torch

    from similar_images.network.torch_network import Network

GPU_BATCH = 256
TORCH_CPU_BATCH = 16
GPU_STREAMS = 2  # batches submitted at a time


class TorchEmbedder:
    """A network in torch, in half precision on a GPU; used as an OpenVinoEmbedder."""

    def __init__(
        self, network: "Network", device: str, precision: str, batch_size: int | None
    ) -> None:
        """Move the network to the device ('cpu', 'cuda' or 'mps').

        float32 turns TF32 off, for the whole process.
        """
        import torch

        self.preprocessing = network.preprocessing
        self.exact = precision == "float32"
        on_gpu = device != "cpu"
        self.batch_size = batch_size or (GPU_BATCH if on_gpu else TORCH_CPU_BATCH)
        self.streams = GPU_STREAMS if on_gpu else 1
        if precision == "auto":
            precision = "float16" if on_gpu else "float32"
        if precision == "float32":  # convolutions in TF32, cuDNN's default, round to 10 bits
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        self._device = torch_device(device)
        self._layers = network.layers.to(self._device)
        body = self._layers.get_submodule("body")
        body.to(getattr(torch, precision)).to(memory_format=torch.channels_last)
        self.precision, self.rounding = precision, ""
        gpu = torch.cuda.get_device_name(self._device) if device == "cuda" else device
        self.machine = f"{precision} on {gpu}"
        self.words = f"{self._device}, torch, {precision}, batches of {self.batch_size}"

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Return the embeddings of preprocessed images; see OpenVinoEmbedder."""
        import torch

        with torch.inference_mode():
            on_device = torch.from_numpy(np.require(pixels, requirements="W")).to(self._device)
            embeddings: np.ndarray = self._layers(on_device).cpu().numpy()
            return embeddings


def torch_device(device: str) -> "torch.device":
    """Return torch's device; each process that torchrun starts on a machine gets its own GPU."""
    import torch

    if device != "cuda":
        return torch.device(device)
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device(device, local_rank % torch.cuda.device_count())
