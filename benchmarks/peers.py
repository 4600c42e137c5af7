"""Compare the verdict `same` with imagededup's duplicates, on the same altered images.

Usage:
  python -m benchmarks.peers --images ~/Pictures --count 250

Reads:  images of a folder, and weights
Writes: tables, to the terminal; imagededup into an environment of its own, see --folder

The protocol is that of imagededup's published benchmark (its "transformed dataset"): of each image
a crop, two flips, a rotation and a square, and its own evaluate() on all pairs of files. Ours is
what embed_and_load.py and query_code.py write about the same folder. Seconds: whole processes.
"""

import argparse
import csv
import itertools
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks import measure
from similar_images.console import script_parser, warn
from similar_images.images.image_files import ImageError
from similar_images.network.embedding import add_weights_options
from similar_images.network.model_description import named_or_path
from similar_images.text import counted, printable

PEER = "imagededup==0.3.3.post2"
METHODS = ("PHash", "CNN")  # of it, each with its default threshold
NO_WEIGHTS = 3  # exit status of peer_imagededup.py
CROP, DEGREES, SQUARE = 7 / 8, 25, 300  # of each side; counter-clockwise, black corners; pixels
ALTERATIONS = ("original", "crop", "horizontal flip", "vertical flip", "rotation", "square")
TOP_K = 10  # matches of an image that are compared; it has five altered copies
SHOWN = 50  # wrong pairs that are listed
Duplicates = dict[str, list[str]]  # of each file


def altered(image: Image.Image, rng: random.Random) -> list[Image.Image]:
    """Return an image and its copies, in the order of ALTERATIONS."""
    width, height = (round(CROP * side) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    flips = ImageOps.mirror(image), ImageOps.flip(image)
    return [image, crop, *flips, image.rotate(DEGREES), image.resize((SQUARE, SQUARE))]


def write_files(root: Path, count: int, folder: Path) -> list[str]:
    """Write images and their copies, as "0012 crop.jpg"; return the images' paths in order."""
    paths, rng = measure.image_paths(root, "--images"), random.Random(0)
    paths = paths[:: max(1, len(paths) // count)][:count]
    folder.mkdir()
    for number, path in enumerate(paths):
        copies = altered(measure.read(root, path).rgb, rng)
        for name, image in zip(ALTERATIONS, copies, strict=True):
            # Pillow's default quality, as imagededup's own examples of the copies have it.
            image.save(folder / f"{number:04} {name}.jpg", quality=95 if image is copies[0] else 75)
    return paths


def duplicates(files: Iterable[str], groups: Iterable[Collection[str]]) -> Duplicates:
    """Return the duplicates of each file, which are the others in its groups."""
    found: dict[str, dict[str, None]] = {file: {} for file in files}
    for group in groups:
        for one, other in itertools.permutations(group, 2):
            found[one][other] = None
    return {file: list(others) for file, others in found.items()}


def peer_python(folder: Path) -> Path:
    """Return the Python of an environment that has imagededup; install it there if it hasn't.

    It sees the packages of this environment, torch among them, and changes none of them.
    """
    base = dict.fromkeys(("base", "platbase"), str(folder.resolve()))
    packages = Path(sysconfig.get_path("purelib", "venv", base))
    python = Path(sysconfig.get_path("scripts", "venv", base), Path(sys.executable).name)
    if not (packages / "imagededup").exists():
        measure.say(f"install {PEER} in {folder}")
        venv.create(folder, symlinks=os.name != "nt", with_pip=True)
        (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", PEER]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
            raise ImageError(f"{PEER} could not be installed in {folder}; see above")
    return python


def run_peer(python: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run peer_imagededup.py; RuntimeError with what it printed if it fails."""
    script = measure.PROJECT / "benchmarks" / "peer_imagededup.py"
    command = [str(python), "-P", str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, NO_WEIGHTS):
        raise RuntimeError(f"{script} failed:\n{done.stderr}")
    return done


def found_by_peer(python: Path, images: Path) -> dict[str, tuple[Duplicates, float]]:
    """Return the duplicates that each of METHODS finds, and the seconds that it takes."""
    ways = {}
    for method in METHODS:
        measure.say(f"imagededup's {method}")
        file, start = images.with_name(f"{method}.json"), time.perf_counter()
        done = run_peer(python, method, images, file)
        taken = time.perf_counter() - start
        if done.returncode:
            warn(f"imagededup's {method} is left out, without its weights: {done.stderr.strip()}")
        else:
            ways[f"imagededup, {method}"] = json.loads(file.read_text()), taken
    return ways


def found_by_us(
    images: Path, files: list[str], model: str, weights: str
) -> dict[str, tuple[Duplicates, float]]:
    """Return the duplicates by the verdict `same`, and the seconds of a load and a query.

    Of the pairs that are compared, and of the groups that they are joined to.
    """
    measure.say("this project")
    uri, folder = ["--milvus-uri", images.with_name("milvus.db")], images.parent
    chosen = ["--images", images, "--model", model, "--weights", named_or_path(weights)]
    load = measure.run_script("embed_and_load.py", *chosen, *uri, cwd=folder)
    asked = ["--queries", images, "--top-k", TOP_K]
    query = measure.run_script("query_code.py", *asked, *uri, cwd=folder)
    rows = rows_of(folder / "results" / "near_duplicates.txt")
    pairs = [[row["query"], row["match"]] for row in rows if row["verdict"] == "same"]
    groups = defaultdict(list)
    for row in rows_of(folder / "results" / "duplicate_groups.txt"):
        groups[row["group"]].append(row["path"])
    taken = load.seconds + query.seconds
    return {
        "`same`, pairs": (duplicates(files, pairs), taken),
        "`same`, groups": (duplicates(files, groups.values()), taken),
    }


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the rows of one of the results, if it has any, with files by their names alone."""
    lines = table.read_text().splitlines() if table.exists() else []
    rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [{key: Path(cell).name for key, cell in row.items()} for row in rows]


def by_alteration(ways: dict[str, Duplicates], count: int) -> str:
    """Return a table of how many pairs of each two alterations are found, of so many images."""
    rows = []
    for one, other in itertools.combinations(ALTERATIONS, 2):
        pairs = [(f"{n:04} {one}.jpg", f"{n:04} {other}.jpg") for n in range(count)]
        cells = (str(sum(b in found[a] for a, b in pairs)) for found in ways.values())
        rows.append([f"{one}, {other}", *cells])
    return measure.table([f"pairs found, of {count}", *ways], rows)


def wrong_pairs(found: Duplicates, paths: list[str]) -> list[str]:
    """Return the pairs of copies of different images, in words; number: the image's place."""
    pairs = sorted({tuple(sorted((one, other))) for one in found for other in found[one]})
    names = [[f"{paths[int(file[:4])]} ({file[5:-4]})" for file in pair] for pair in pairs]
    wrong = [name for name, (one, other) in zip(names, pairs, strict=True) if one[:4] != other[:4]]
    return [" and ".join(map(printable, pair)) for pair in wrong]


def run(args: argparse.Namespace) -> None:
    """Print the tables."""
    args.folder.mkdir(parents=True, exist_ok=True)  # an OSError before the work
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        images, truth = folder / "images", folder / "truth.json"
        paths = write_files(args.images, args.count, images)
        groups = [[f"{n:04} {how}.jpg" for how in ALTERATIONS] for n in range(len(paths))]
        files = [file for group in groups for file in group]
        truth.write_text(json.dumps(duplicates(files, groups)))
        found = found_by_us(images, files, args.model, args.weights)
        python = peer_python(args.folder)
        found |= found_by_peer(python, images)
        rows, header = [], ["precision", "recall", "map", "ndcg", "jaccard"]
        for way, (retrieved, taken) in found.items():
            (folder / "found.json").write_text(json.dumps(retrieved))
            done = run_peer(python, "evaluate", truth, folder / "found.json")
            figures = json.loads(done.stdout)
            rows.append([way, *(f"{figures[key]:.4f}" for key in header), f"{taken:.1f}"])
    title = f"{len(paths)} images, {len(files):,} files"
    print(f"{measure.conditions()}\n\n{measure.table([title, *header, 'seconds'], rows)}\n")
    print(by_alteration({way: retrieved for way, (retrieved, _) in found.items()}, len(paths)))
    for way, (retrieved, _) in found.items():
        wrong = wrong_pairs(retrieved, paths)
        title = f"{way}: {counted(len(wrong), 'pair')} of different images"
        print(f"\n{title}", *wrong[:SHOWN], sep="\n- ")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; return its exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="of photographs")
    measure.add_number(parser, "--count", 250, "images, taken in equal steps")
    words = "where imagededup is installed once (default: imagededup)"
    parser.add_argument("--folder", type=Path, default="imagededup", metavar="DIR", help=words)
    add_weights_options(parser)
    return measure.measured(parser, argv, run)


if __name__ == "__main__":
    sys.exit(main())
