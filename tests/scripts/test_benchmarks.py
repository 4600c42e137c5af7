"""The benchmarks: they run on any split, and their figures are of what they say."""

import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from helpers import write_batches
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import (
    competitors,
    exactness,
    homework_matches,
    judged_pairs,
    label_issues,
    measure,
    peers,
    run,
    scale,
    verdicts,
)
from similar_images.matching.label_issues import label_issues as find_label_issues
from similar_images.splitting.split import ImageSet, split_positions

Fails = Callable[..., str]
ALL = [homework_matches, judged_pairs, label_issues, peers, run, scale, verdicts]
MODEL = ["--model", "mobilenet_v3_small", "--weights", "random"]


def options_for(database: Path, queries: Path) -> list[str]:
    return [*MODEL, "--images", str(database), "--queries", str(queries)]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_short_run_writes_a_table_of_each_part(
    device: str, own_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of four photographs, three of them large enough to be decoded at a reduced scale."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.setattr(competitors, "MATRICES", (128, 512))
    monkeypatch.setattr(competitors, "LEAST_SECONDS", 0.001)
    folder = own_folder / "camera" / "label"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, size in enumerate([(1200, 1040), (1040, 1200), (1300, 1100), (600, 520)]):
        few = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        few.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=88)
    options = [*options_for(folder.parent, folder.parent), "--repetitions", "1"]
    assert run.main([*options, "--device", device, "--output", "figures.md"]) == 0
    text = Path("figures.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert re.findall("^## (.*)", text, re.M) == [part.capitalize() for part in run.PARTS]
    figures = {
        name: float(value.replace(",", ""))
        for name, value in re.findall(r"^\| (.*?) \| ([0-9,.e-]+) \|", text, re.M)
    }
    cosines = {name: figure for name, figure in figures.items() if "least cosine" in name}
    for way in ("similar_images, ", "torch, eager, float32", "homework: ", "as loaded, "):
        assert any(name.startswith(way) for name in cosines)
    assert all(0.999 < cosine <= 1 for cosine in cosines.values())
    assert cosines["--precision float32: least cosine"] == pytest.approx(1, abs=2e-6)
    assert cosines["scaled decode alone, float32: least cosine"] < 1, "nothing was scaled"
    assert figures["--precision float32: largest difference of a component"] < 1e-5
    others = [name for name in figures if re.search("eager, float32, c|matrix product", name)]
    assert len(others) >= 4
    assert all(f", {device}" in name for name in others)
    assert all(
        f"{script}, 4 images: seconds" in text for script in ("embed_and_load.py", "query_code.py")
    )
    assert figures["query_code.py IMAGE: seconds"] > 0


def test_no_benchmark_imports_torch_as_it_starts() -> None:
    """Decode workers import the main module: it would cost each of them seconds and memory."""
    lines = (
        "import sys\nfrom benchmarks import run, label_issues, scale\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", lines], cwd=measure.PROJECT, capture_output=True)
    assert done.stdout.decode().strip() == "False", done.stderr


def test_the_table_tells_medians_from_single_runs() -> None:
    rows = measure.table_of_figures({"rate": [1.5, 3.5, 2.5], "seconds": 62.0}).splitlines()
    assert rows[2:] == ["| rate | 2.5 | 1.5 | 3.5 | 3 |", "| seconds | 62 |  |  | 1 |"]


@pytest.mark.parametrize("model", ["resnet18", "vit_b_32"])
def test_operations_are_those_of_the_model(model: str) -> None:
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = torchvision.models.get_model(model, weights=None).eval()
    counted = competitors.flop_per_image(network, torch.zeros(2, 3, 224, 224))
    published = 2e9 * weights.meta["_ops"]  # a multiplication and an addition each
    assert counted == pytest.approx(published, rel=0.01, abs=2e6)


def test_growth_is_measured_by_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--sizes", "1000", "--indexes", "flat", "ivf_sq8"]) == 0
    cells = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if "|" in line]
    figures = {name.strip(): value.strip() for name, value in cells}
    assert figures[""] == "1,000 rows"
    assert figures["flat: recall@1"] == figures["flat: recall@10"] == "1.000"
    assert 0.1 < float(figures["ivf_sq8: recall@10"]) < 1
    assert float(figures["upsert, µs a row"].replace(",", "")) > 0


def test_wrong_labels_are_found(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = digits / "database_set", digits / "query_set"
    assert label_issues.main(options_for(*folders)) == 0
    printed = capsys.readouterr().out
    assert "200 images matched with each other" in printed
    assert "20 images matched with 180 others" in printed
    assert len(re.findall("^\\| margin, [0-9]+ matches", printed, re.M)) == 8


def test_wrong_labels_among_clear_clusters_are_all_found() -> None:
    labels = np.repeat(["a", "b", "c"], 200)
    noise = np.random.default_rng(0).normal(0, 0.1, (600, 3))
    vectors = np.repeat(np.eye(3), 200, axis=0) + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = label_issues.Images(vectors.astype(np.float32), labels)
    similarities, rows = label_issues.nearest(images, None)
    assert not (rows == np.arange(600)[:, None]).any(), "an image is no match of its own"
    given, wrong = label_issues.make_wrong(labels, seed=0)
    assert ((given != labels) == wrong).all()
    pairs = label_issues.pair_rows(similarities, rows, given, given)
    ranked = find_label_issues(pairs, least_margin=-1)
    assert label_issues.figures_of(ranked, 6, wrong)[1:] == (1, 6, 1, 1)
    half = label_issues.figures_of(ranked[:3], 3, wrong)
    assert half.roc_area == pytest.approx(0.75), "what is not ranked ties at the end"
    assert (half.precision, half.recall) == (1, 0.5)
    assert np.isnan(half.firsts).all()


def test_a_network_of_timm_is_compared_with_eager_torch(
    digits: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(competitors, "MATRICES", (128,))
    monkeypatch.setattr(competitors, "LEAST_SECONDS", 0.001)
    options = options_for(digits / "database_set", digits / "query_set")
    options += ["--model", "timm/test_vit.r160_in1k", "--parts", "network"]
    options += ["--count", "8", "--repetitions", "1", "--output", "figures.md"]
    assert run.main(options) == 0
    rows = Path("figures.md").read_text()
    assert "torch, eager, float32" in rows
    assert "homework" not in rows


def test_judged_pairs_are_of_the_published_split() -> None:
    judged = judged_pairs.read_judged()
    assert len(set(map(tuple, judged.positions.tolist()))) == len(judged.positions) > 400
    database, queries = split_positions(50_000, 0.1, 42)
    assert set(judged.positions[:, 0]) <= set(queries)
    assert set(judged.positions[:, 1]) <= set(database)
    assert (judged.same.sum(), judged.likely.sum()) == (282, 409)


def test_scores_count_what_was_judged() -> None:
    """Images 10 to 19 are brighter copies of 0 to 9; two pairs are judged otherwise."""
    few = np.random.default_rng(0).integers(0, 180, (10, 9, 9, 3), dtype=np.uint8)
    cubic = Image.Resampling.BICUBIC
    first = np.stack([np.asarray(Image.fromarray(x).resize((32, 32), cubic)) for x in few])
    images = ImageSet(np.concatenate([first, first + 40]), np.zeros(20, np.int64), ["all"])
    copies = [(i, i + 10) for i in range(10)]
    others = [(0, 13), (1, 14), (2, 15), (3, 16), (4, 17)]
    same = np.array([True] * 9 + [False] + [True] + [False] * 4)
    likely = np.array([True] * 14 + [False])
    judged = judged_pairs.Judged(np.array(copies + others), same, likely)
    assert judged_pairs.scores(images, judged).splitlines()[2:] == [
        f"| {part}, {words} | {cells} |"
        for part, cells in (
            ("even", "7 | 6 | 5 | 5 | 100.0% (56.6 to 100.0) | 83.3% (43.6 to 97.0)"),
            ("odd", "7 | 4 | 5 | 4 | 80.0% (37.6 to 96.4) | 100.0% (51.0 to 100.0)"),
            ("random", "1 | 0 | 0 | 0 | none | none"),
        )
        for words in ("reported", "`same`")
    ]


def test_verdicts_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of look-alikes and alterations that leave no doubt; another one is made to be wrong."""
    whole = {name: verdicts.WHOLE[name] for name in ("half the size", "mirrored")}
    monkeypatch.setattr(verdicts, "WHOLE", whole | {"turned into another": lambda _: noise})
    part = {"blacked out": verdicts.PART["blacked out"], "equal": lambda image: image}
    monkeypatch.setattr(verdicts, "PART", part)
    noise = Image.effect_noise((320, 240), 50)
    assert verdicts.main(["--look-alikes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split(" | ")[0]: line.strip("| ").split(" | ")[1:] for line in lines}
    assert cells["| identity cards"] == cells["| forms"] == ["1", "0", "1", "0", "0"]
    assert cells["| photographs of different things"] == ["28", "0", "0", "28", "0"]
    assert cells["| half the size"] == cells["| mirrored"] == ["4", "0", "0", "0"] * 2
    assert cells["| turned into another"] == ["0", "0", "4", "0"] * 2
    assert cells["| blacked out"] == ["0", "4", "0", "0"] * 2
    assert cells["| equal"] == ["4", "0", "0", "4"] * 2, "the copies are wrong here"
    assert lines[-1].endswith(": 0"), "verdicts hold in both directions"


def test_the_homeworks_matches_are_those_of_the_whole_classifier(
    digits: Path, own_folder: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torchvision.models.get_model("mobilenet_v3_small", weights=None).eval()
    torch.save(state := network.state_dict(), "whole.pth")
    torch.save({key: state[key] for key in state if "classifier.3" not in key}, "body.pth")
    options = ["--images", digits / "query_set", "--model", "mobilenet_v3_small", "--weights"]
    assert homework_matches.main([*map(str, options), "whole.pth"]) == 0
    assert "the match has the same label" in capsys.readouterr().out
    for weights in ("body.pth", "random"):
        assert "no last layer" in fails(homework_matches.main, *options, weights)
    path = next((digits / "query_set" / "7").iterdir())
    logits, embeddings = homework_matches.outputs(
        "mobilenet_v3_small", "whole.pth", [(path.parent, path.name)]
    )
    with torch.inference_mode():
        torchvisions = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT
        pixels = torchvisions.transforms()(Image.open(path).convert("RGB")).unsqueeze(0)
        assert logits == pytest.approx(network(pixels).numpy(), abs=1e-5)
    assert embeddings.shape == (1, 1024)


def test_both_ways_are_counted() -> None:
    """A long vector is near to one of its direction by cosine alone."""
    vectors = np.array([[1, 0], [9, 0], [1, 0.5], [9, 5]], np.float32)
    assert homework_matches.nearest(vectors, "euclidean").tolist() == [2, 3, 0, 1]
    assert homework_matches.nearest(vectors, "cosine").tolist() == [1, 0, 3, 2]
    table = homework_matches.compare(vectors, vectors, np.array(["a", "b", "a", "c"]))
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["2", "0", "0"]


IMAGEDEDUP = {
    "__init__.py": "",
    "methods.py": """
from pathlib import Path
class PHash:
    def __init__(self, verbose): pass
    def find_duplicates(self, folder):
        found = {file.name: [] for file in Path(folder).iterdir()}
        return found | {"0000 crop.jpg": ["0001 crop.jpg"], "0001 crop.jpg": ["0000 crop.jpg"]}
def CNN(verbose):
    raise OSError("no internet")
""",
    "evaluation.py": """
import numpy as np
def evaluate(truth, found):
    pairs = [{(a, b) for a in some for b in some[a]} for some in (truth, found)]
    right = len(pairs[0] & pairs[1])
    shares = {"precision": right / len(pairs[1]), "recall": right / len(pairs[0])}
    others = dict.fromkeys(("map", "ndcg", "jaccard"), np.float64(0.5))
    # With pairs of a single class, imagededup's arrays have a single value, too.
    return {name: np.array([1, share][int(share) :]) for name, share in shares.items()} | others
""",
}


def test_peers_are_compared_on_the_same_files(
    own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for imagededup, whose PHash finds one wrong pair, and whose CNN nothing."""
    (own_folder / "images").mkdir()
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(pixels).save(own_folder / "images" / f"{name}.png")
    venv.create("peer", symlinks=True)
    packages = next(Path("peer", "lib").iterdir()) / "site-packages"
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "imagededup").mkdir()
    for name, text in IMAGEDEDUP.items():
        (packages / "imagededup" / name).write_text(text)
    assert peers.main([*MODEL, "--images", "images", "--folder", "peer"]) == 0
    printed = capsys.readouterr()
    assert "CNN is left out, without its weights: no internet" in printed.err
    cells = [line.strip("| ").split(" | ") for line in printed.out.splitlines()]
    figures = {line[0]: line[1:] for line in cells if len(line) > 1}
    assert figures["`same`, groups"][:2] == ["1.0000", "1.0000"]
    assert figures["imagededup, PHash"][:5] == ["0.0000", "0.0000", "0.5000", "0.5000", "0.5000"]
    assert figures["original, rotation"] == ["2", "2", "0"]
    assert "`same`, pairs: 0 pairs of different images" in printed.out
    assert "1 pair of different images\n- china.png (crop) and flower.png (crop)" in printed.out
    assert peers.rows_of(own_folder / "without a row.txt") == []


@pytest.mark.parametrize("module", ALL)
def test_help(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "Usage:\n  python -m benchmarks." in capsys.readouterr().out


def test_what_a_user_gets_wrong_ends_in_one_line(
    digits: Path, own_folder: Path, fails: Fails
) -> None:
    (own_folder / "empty").mkdir()
    for folder in ("nowhere", "empty"):
        assert folder in fails(verdicts.main, "--photographs", folder)
        assert folder in fails(run.main, "--images", folder)
        assert folder in fails(label_issues.main, "--images", folder)
    for main in (label_issues.main, homework_matches.main):
        assert "two labels" in fails(main, "--images", digits / "database_set" / "7")
    write_batches(own_folder / "few", 4)
    assert "20 images" in fails(judged_pairs.main, "--cifar", "few")
    folders = options_for(digits / "database_set", digits / "query_set")[4:]
    assert "no such" in fails(run.main, *folders, "--model", "no such")
    assert "two images" in fails(run.main, *folders, "--count", "1")
    late = [*MODEL, *folders, "--parts", "exactness", "--output", "no folder/figures.md"]
    assert "no folder" in fails(run.main, *late), "and nothing is measured before"
    assert "few" in fails(peers.main, *folders[:2], "--folder", own_folder / "few" / "batches.meta")


@pytest.mark.parametrize(
    "benchmark", ["exactness", "agreement", "steady", "homework", "label issues", "peers"]
)
def test_an_image_that_cannot_be_read_is_named(
    benchmark: str, own_folder: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measure, label_issues):
        monkeypatch.setattr(module, "say", lambda *_: None)
    for label in ("a", "b"):
        Path("images", label).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(Path("images", label, "1.png"))
    broken = Path("images", "a", "0.png")
    broken.write_text("no image")
    network = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    torch.save(network.state_dict(), "whole.pth")
    options = ["--images", "images", "--model", "mobilenet_v3_small", "--weights", "whole.pth"]
    if benchmark == "homework":
        error = fails(homework_matches.main, *options)
    elif benchmark == "label issues":
        error = fails(label_issues.main, *options, "--queries", "images")
    elif benchmark == "peers":
        error = fails(peers.main, *options, "--folder", "peer")
        broken.unlink()
        options[-1] = "nothing.pth"
        assert "no weights file" in fails(peers.main, *options, "--folder", "peer")
    else:
        options += ["--queries", "images", "--output", "figures.md", "--repetitions", "1"]
        error = fails(run.main, *options, "--parts", benchmark)
    assert error.startswith(f"error: cannot use {broken}: not an image")


def test_agreement_counts_what_differs() -> None:
    reference = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0.1], [0, 1, 0]], np.float32)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    other = reference.copy()
    other[0] = 0, 0.6, 0.8  # nearer to the third; the second is then nearest to the fourth
    figures = exactness.compare(reference, other, np.array(["a", "a", "b", "b"]))
    assert figures["least cosine"] == 0
    assert figures["mean cosine"] == pytest.approx(0.75)
    assert figures["similarity lost, most"] == pytest.approx(reference[0] @ reference[1])
    names = ("equal nearest matches", "share of equal labels, float32")
    assert [figures[name] for name in names] == [0.5, 1]
    assert figures["share of equal labels, this precision"] == 0.5
