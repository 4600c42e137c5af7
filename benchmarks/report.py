"""The benchmarks' figures as Markdown, for the README and for a reader of results.md."""

from typing import Any

from benchmarks.measure import in_words


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    rule = ["---"] + ["--:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def markdown(results: dict[str, Any]) -> str:
    """Return what has been measured so far."""
    parts = [_machine(results)]
    for name, write in WRITERS.items():
        if results.get(name):
            parts.append(write(results[name]))
    return "\n\n".join(parts) + "\n"


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    return (
        "# Benchmarks\n\n"
        f"{results['date']}, {machine['cores']} cores of {machine['processor']} "
        f"({', '.join(machine['fast_types']) or 'no fast small types'}), "
        f"{machine['memory_gib']} GiB{gpu}, {machine['system']}, Python {machine['python']}, "
        f"{packages}; weights: {results['weights']}. Each figure is the median of "
        f"{results['repetitions']} alternating repetitions, with the least and the most."
    )


def _embedding(part: dict[str, Any]) -> str:
    ways = sorted(part["ways"], key=lambda way: way["rate"]["median"])
    rows = [
        [
            f"{way['name']}, {way['precision']}",
            in_words(way["rate"]),
            in_words(way["of_limit"], 2),
            f"{way['least_cosine']:.5f}",
        ]
        for way in ways
    ]
    limits = ", ".join(
        f"{name} {in_words(bound)} images/s" for name, bound in part["limits"].items()
    )
    header = ["way", "images/s", "of the limit", "least cosine to float32"]
    return (
        "## Embedding\n\nThe network alone, on images decoded before. The limit is what a 4096³ "
        f"matrix product reaches just before, as images: {limits}.\n\n{table(header, rows)}"
    )


def _preprocessing(part: dict[str, Any]) -> str:
    names = {
        "transforms": "weights.transforms() on decoded images",
        "ours": "ours on decoded images",
        "ours_and_decoding": "ours with reading and decoding the file",
    }
    rows = [[names[k], in_words(v, 3)] for k, v in part["milliseconds"].items()]
    return (
        f"## Preprocessing\n\n{part['images']:,} images on one core; at most "
        f"{part['most_grey_levels_apart']} grey levels apart.\n\n"
        + table(["", "milliseconds an image"], rows)
    )


def _agreement(part: dict[str, Any]) -> str:
    rows = [
        ["least cosine of an embedding", f"{part['least_cosine']:.6f}"],
        ["equal nearest matches", f"{part['top1_agreement']:.2%}"],
        ["similarity given up, mean", f"{part['given_up_mean']:.1e}"],
        ["similarity given up, 99.9% below", f"{part['given_up_p999']:.1e}"],
        ["similarity given up, most", f"{part['given_up_most']:.1e}"],
        ["share of equal labels, float32", f"{part['label_share_reference']:.2%}"],
        [f"share of equal labels, {part['precision']}", f"{part['label_share']:.2%}"],
    ]
    return (
        f"## Agreement of {part['precision']} with float32\n\n{part['queries']:,} queries against "
        f"{part['database']:,} images.\n\n" + table(["", ""], rows)
    )


def _pipeline(part: dict[str, Any]) -> str:
    rows = [
        [precision, f"{run['images']:,}", in_words(run["rate"]), in_words(run["of_limit"], 2)]
        for precision, run in part.items()
    ]
    return (
        "## Pipeline\n\nDecode, embed and upsert into Milvus Lite, overlapped, after warm-up.\n\n"
        + table(["precision", "images", "images/s", "of the limit"], rows)
    )


def _load(part: dict[str, Any]) -> str:
    whole, few = part["whole"], part["few"]
    rows = [
        [
            f"embed_and_load.py, {run['images']:,} images",
            f"{run['seconds']:.1f}",
            f"{run['rate']:.1f}",
            f"{run['peak_memory_mib']:,.0f}",
        ]
        for run in (whole, few)
    ]
    rows.append(["the homework's way", "", in_words(part["homework"], 2), ""])
    return (
        "## A whole load\n\nStart-up and compilation included: "
        f"{part['times_as_fast']:.1f} times the homework's way, measured before and after.\n\n"
        + table(["", "seconds", "images/s", "peak memory, MiB"], rows)
    )


def _search(part: dict[str, Any]) -> str:
    rows = [
        ["Milvus Lite, FLAT", in_words(part["ours"], 2)],
        ["faiss, IndexFlatIP", in_words(part["faiss"], 2)],
        ["faiss's time ÷ Milvus Lite's", in_words(part["of_faiss"], 2)],
    ]
    return (
        f"## Search\n\n{part['queries']:,} queries against {part['rows']:,} rows, search alone; "
        f"{part['equal']:.2%} of the nearest are equal.\n\n" + table(["", "seconds"], rows)
    )


def _query(part: dict[str, Any]) -> str:
    rows = [
        ["query_code.py PICTURE", in_words(part["query"], 2)],
        ["import torch and load the weights, nothing else", in_words(part["import"], 2)],
        ["difference", in_words(part["more"], 2)],
    ]
    return "## One picture\n\n" + table(["", "seconds"], rows)


def _split(part: dict[str, Any]) -> str:
    rows = [
        ["split_images.py", in_words(part["ours"])],
        ["plain loop", in_words(part["plain_loop"])],
        ["times as fast", in_words(part["times_as_fast"], 2)],
    ]
    return "## Split\n\n" + table(["", "seconds"], rows)


WRITERS = {
    "embedding": _embedding,
    "preprocessing": _preprocessing,
    "agreement": _agreement,
    "pipeline": _pipeline,
    "load": _load,
    "search": _search,
    "query": _query,
    "split": _split,
}
