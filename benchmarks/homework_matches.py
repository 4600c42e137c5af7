"""Compare the matches of the original homework's way with ours, on the same images and weights.

Usage:
  python -m benchmarks.homework_matches --images database_set query_set --weights FILE

Reads:  images of folders, each matched with all others, and weights with the last layer
Writes: a table, to the terminal

The homework's way: the nearest by L2 distance between outputs of the last layer (logits). Ours: by
cosine similarity between inputs of that layer (embeddings). Both in float32, by exact search.
"""

import argparse
import sys
import typing
from pathlib import Path

import numpy as np

from benchmarks import measure
from benchmarks.exactness import nearest
from similar_images.console import script_parser
from similar_images.images.image_files import ImageError, label_of
from similar_images.network.embedding import add_weights_options
from similar_images.network.find_network import torch_network
from similar_images.network.model_description import NAMED_WEIGHTS, PUBLISHED, ModelError
from similar_images.text import interval, share


def outputs(
    model: str, weights: str, files: list[tuple[Path, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return images' logits and embeddings, (N, classes) and (N, dimension) float32.

    files: roots and paths. Raises ModelError if the weights have no last layer.
    """
    import torch
    from torchvision.models import get_model

    from similar_images.network.weights import state_of_file

    network = torch_network(model, weights)
    body = network.layers.get_submodule("body")
    if weights == PUBLISHED and "/" not in model:  # timm's have to be in a file
        state: typing.Any = get_model(model, weights="DEFAULT").state_dict()
    else:
        state = {} if weights in NAMED_WEIGHTS else state_of_file(Path(weights))
    last = [state[key] for key in state if key not in body.state_dict()]
    if [layer.dim() for layer in last] != [2, 1] or not last[0].any():
        raise ModelError(f"{weights} has no last layer, so no logits; choose a file with --weights")
    given: list[torch.Tensor] = []
    body.register_forward_hook(lambda *hooked: given.append(hooked[-1].flatten(1)))
    measure.say(f"embed {len(files):,} images in torch")
    with torch.inference_mode():
        for file in files:
            network.layers(
                torch.from_numpy(np.stack([network.preprocessing(measure.read(*file).rgb)]))
            )
        embeddings = torch.cat(given)
        return (embeddings @ last[0].T + last[1]).numpy(), embeddings.numpy()


def compare(logits: np.ndarray, embeddings: np.ndarray, labels: np.ndarray) -> str:
    """Return a table: how many share a label with their match, and have the same one both ways."""
    theirs, ours = nearest(logits, "euclidean"), nearest(embeddings, "cosine")
    rows = []
    for name, hits in {
        "logits, L2: the match has the same label": labels[theirs] == labels,
        "embeddings, cosine: the match has the same label": labels[ours] == labels,
        "the same match in both ways": theirs == ours,
    }.items():
        of = int(hits.sum()), len(labels)
        rows.append([name, f"{of[0]:,}", f"{share(*of)} ({interval(*of)})"])
    return measure.table([f"{len(labels):,} images", "number", "share"], rows)


def run(args: argparse.Namespace) -> None:
    """Print the table."""
    files = [(root, path) for root in args.images for path in measure.image_paths(root, "--images")]
    labels = np.array([label_of(path) for _, path in files])
    if len(set(labels)) < 2:
        raise ImageError("the images have fewer than two labels; choose other --images")
    print(compare(*outputs(args.model, args.weights, files), labels))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    words, folders = "default: database_set query_set", [Path("database_set"), Path("query_set")]
    parser.add_argument(
        "--images", type=Path, nargs="+", default=folders, metavar="DIR", help=words
    )
    add_weights_options(parser)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
