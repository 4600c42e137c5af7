"""How far embeddings and matches agree with those of float32 and of torchvision."""

import numpy as np

from benchmarks.measure import Figures
from benchmarks.setup import Setup
from similar_images.images.decoding import decode
from similar_images.images.image_files import label_of


def agreement(setup: Setup) -> Figures:
    """Matches in the device's own precision, compared with those in float32."""
    folders = (setup.args.queries, setup.queries), (setup.args.images, setup.database)
    made = []
    for precision in ("float32", "auto"):
        embedder = setup.embedder(precision, len(setup.database))
        made.append([setup.embed(embedder, *folder) for folder in folders])
    query_labels, labels = (np.array(list(map(label_of, paths))) for _, paths in folders)
    return compare(made[0], made[1], query_labels, labels)


def compare(
    reference: list[np.ndarray],
    other: list[np.ndarray],
    query_labels: np.ndarray,
    labels: np.ndarray,
) -> Figures:
    """Return how far the matches of `other` agree with those of the reference.

    Both are queries and database, (N, D) and (M, D) float32. The similarity lost is that of the
    reference's match less that of the other's, both by the reference's vectors.
    """
    queries, database = reference
    best, found = nearest(queries, database), nearest(*other)
    similarity = [np.einsum("ij,ij->i", queries, database[rows]) for rows in (best, found)]
    lost = similarity[0] - similarity[1]
    cosines = [np.einsum("ij,ij->i", a, b) for a, b in zip(reference, other, strict=True)]
    return {
        "queries": len(queries),
        "database images": len(database),
        "least cosine": float(np.concatenate(cosines).min()),
        "equal nearest matches": float((best == found).mean()),
        "similarity lost, mean": float(lost.mean()),
        "similarity lost, most": float(lost.max()),
        "share of equal labels, float32": float((query_labels == labels[best]).mean()),
        "share of equal labels, this precision": float((query_labels == labels[found]).mean()),
    }


def nearest(queries: np.ndarray, database: np.ndarray) -> np.ndarray:
    """Return each query's nearest row, exactly: (N, D), (M, D) float32 → (N,) int64."""
    chunks = [(queries[i : i + 500] @ database.T).argmax(1) for i in range(0, len(queries), 500)]
    return np.concatenate(chunks)


def exactness(setup: Setup) -> Figures:
    """Cosine to torchvision's embeddings: whole decode, float32, eager, one image at a time."""
    root, count = setup.args.images, len(setup.few)
    reference = np.stack([setup.torch.reference(decode(root, path)[1]) for path in setup.few])
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
