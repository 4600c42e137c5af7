"""How far embeddings and matches agree with those of float32 and of torchvision."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from benchmarks.measure import Figures, read
from benchmarks.setup import Setup
from similar_images.images.image_files import label_of


def agreement(setup: Setup) -> Figures:
    """Matches in the device's own precision, compared with those in float32.

    Each image of both folders is matched with all others.
    """
    folders = (setup.args.queries, setup.queries), (setup.args.images, setup.database)
    made = []
    for precision in ("float32", "auto"):
        embedder = setup.embedder(precision, len(setup.database))
        made.append(np.concatenate([setup.embed(embedder, *folder) for folder in folders]))
    labels = [label_of(path) for _, paths in folders for path in paths]
    return compare(made[0], made[1], np.array(labels))


def compare(reference: np.ndarray, other: np.ndarray, labels: np.ndarray) -> Figures:
    """Return how far the matches of `other` agree with the reference's; both (N, D) float32.

    The similarity lost is that of the reference's match less that of the other's, both by the
    reference's vectors.
    """
    best, found = nearest(reference, "cosine"), nearest(other, "cosine")
    lost = np.einsum("ij,ij->i", reference, reference[best] - reference[found])
    cosines = np.einsum("ij,ij->i", reference, other)
    return {
        "images": len(labels),
        "least cosine": float(cosines.min()),
        "mean cosine": float(cosines.mean()),
        "equal nearest matches": float((best == found).mean()),
        "similarity lost, mean": float(lost.mean()),
        "similarity lost, most": float(lost.max()),
        "share of equal labels, float32": float((labels == labels[best]).mean()),
        "share of equal labels, this precision": float((labels == labels[found]).mean()),
    }


def nearest(vectors: np.ndarray, metric: str) -> np.ndarray:
    """Return each vector's nearest other one, exactly: (N, D) → (N,) of rows."""
    search = NearestNeighbors(n_neighbors=1, metric=metric, algorithm="brute").fit(vectors)
    return search.kneighbors(return_distance=False)[:, 0]  # type: ignore[no-any-return]


def exactness(setup: Setup) -> Figures:
    """Cosine to torchvision's embeddings: whole decode, float32, eager, one image at a time."""
    root, count = setup.args.images, len(setup.few)
    reference = np.stack([setup.torch.reference(read(root, path).rgb) for path in setup.few])
    fast, exact = setup.embedder("auto", count), setup.embedder("float32", count)
    scaled = (setup.preprocessed(path, setup.least_side)[np.newaxis] for path in setup.few)
    ways = {
        f"as loaded, {fast.words}": setup.embed(fast, root, setup.few),
        "scaled decode alone, float32": np.concatenate(list(map(exact.embed, scaled))),
        "--precision float32": setup.embed(exact, root, setup.few),
    }
    figures: Figures = {"images": count}
    for name, vectors in ways.items():
        cosines = (vectors.astype(np.float64) * reference).sum(1)
        figures[f"{name}: least cosine"] = float(cosines.min())
        figures[f"{name}: mean cosine"] = float(cosines.mean())
    differences = np.abs(ways["--precision float32"] - reference)
    figures["--precision float32: largest difference of a component"] = float(differences.max())
    return figures
