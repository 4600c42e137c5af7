"""The README's commands as they stand there; downloads come from a local file server."""

import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from helpers import DIMENSION, LOAD, MODEL, PROJECT, TOKEN, run_script, write_batches
from milvus_proxy import running_proxy
from milvus_server import Server
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.models import resnet18

import embed_and_load
import query_code
import split_images
from similar_images.milvus import schema
from similar_images.milvus.collection import ImageCollection, existing_collection
from similar_images.milvus.connection import connect

# Run by Python at its start: points the two published addresses at the local server, and the
# published checksums at its files. The download code itself is untouched.
SITE = """
import os, sys
scripts = {os.path.basename(argument): argument for argument in sys.orig_argv}
if "split_images.py" in scripts:
    sys.path.insert(0, os.path.dirname(os.path.abspath(scripts["split_images.py"])))
    from similar_images.splitting import cifar10
    cifar10.URL, cifar10.MD5 = os.environ["LOCAL_CIFAR"], os.environ["LOCAL_CIFAR_MD5"]
if "embed_and_load.py" in scripts:
    import torchvision.models
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    object.__setattr__(weights, "url", os.environ["LOCAL_WEIGHTS"])
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def published(own_folder: Path) -> Iterator[dict[str, str]]:
    """A local server of a small CIFAR-10 and of weights, as an environment for the scripts."""
    served, site = own_folder / "served", own_folder / "site"
    served.mkdir()
    site.mkdir()
    write_batches(own_folder / "batches", per_batch=40)
    archive = served / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(own_folder / "batches", "cifar-10-batches-py")
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), served / "weights")
    digest = hashlib.sha256((served / "weights").read_bytes()).hexdigest()
    name = f"resnet18-{digest[:8]}.pth"
    (served / "weights").rename(served / name)
    (site / "sitecustomize.py").write_text(SITE)
    handler = partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield {
            "PYTHONPATH": str(site),
            "LOCAL_CIFAR": f"{address}/{archive.name}",
            "LOCAL_CIFAR_MD5": hashlib.md5(archive.read_bytes()).hexdigest(),
            "LOCAL_WEIGHTS": f"{address}/{name}",
            "TORCH_HOME": str(own_folder / "torch"),
            "XDG_CACHE_HOME": f"{os.environ['XDG_CACHE_HOME']}/{digest[:8]}",  # not the real ones
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        server.shutdown()


def commands(*files: str) -> list[str]:
    """The lines of shell code in files of the project's folder."""
    text = "\n".join((PROJECT / file).read_text(encoding="utf-8") for file in files)
    blocks = re.findall(r"^```(?:ba)?sh\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


DOCUMENTS = ("README.md", "docs/server.md")


def the_command(*words: str) -> str:
    """The one line of the documents' that holds all of these words; it may stand there twice."""
    lines = dict.fromkeys(commands(*DOCUMENTS))
    found = [line for line in lines if all(word in line for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


@pytest.fixture
def clone(own_folder: Path) -> Path:
    """A folder with the project's scripts."""
    folder = own_folder / "clone"
    folder.mkdir()
    for script in PROJECT.glob("*.py"):
        shutil.copy(script, folder)
    shutil.copytree(PROJECT / "similar_images", folder / "similar_images")
    return folder


def run_line(line: str, cwd: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a line of shell code as it stands, and check that it ends well."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **env}
    command = ["bash", "-ec", line]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


NOT_RUN_HERE = {
    "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && python "
    "split_images.py --sample && python embed_and_load.py --weights random && python "
    "query_code.py": ".ci/run runs it, and checks the results",
    "pip install -r requirements-dev.txt && pytest": "runs this very test; .ci/run runs it",
    "pytest": "likewise",
    "ruff format . && scripts/check": ".ci/run runs scripts/check",
    "python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements-dev.txt": (
        "installs; .ci/run does"
    ),
    "python -m benchmarks.run --weights random --images cifar-10/database_set "
    "--queries cifar-10/query_set": "test_benchmarks.py",
    "python -m benchmarks.scale --sizes 10000 100000 1000000": "test_benchmarks.py, smaller",
    "python -m benchmarks.run --images photographs/database --queries photographs/queries "
    "--parts steady exactness load query --runs 5 --output photographs.md": "test_benchmarks.py",
    "python -m benchmarks.judged_pairs --cifar ~/Downloads": "test_benchmarks.py",
    "python -m benchmarks.verdicts --photographs ~/Pictures": "test_benchmarks.py",
    "python -m benchmarks.label_issues --images cifar-10/database_set "
    "--queries cifar-10/query_set": "test_benchmarks.py",
    "python -m benchmarks.homework_matches --images cifar-10/database_set "
    "cifar-10/query_set": "test_benchmarks.py",
    "python -m benchmarks.peers --images ~/Pictures": "test_benchmarks.py",
    "docker compose up --detach --wait": "wants a container engine",
    "torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint HOST:29400 "
    "--rdzv-id load embed_and_load.py --milvus-uri http://SERVER:19530": "test_torchrun.py",
}


def test_every_command_is_run_by_a_test() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for line in commands(*DOCUMENTS, "CONTRIBUTING.md"):
        if line not in NOT_RUN_HERE:
            calls = re.findall(r"the_command\((\".+?\")\)", source)
            chosen = [re.findall(r'"(.+?)"', words) for words in calls]
            assert any(all(word in line for word in words) for words in chosen), line


def documented_messages() -> list[str]:
    text = (PROJECT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


LABELS = {
    "has two labels for": ["path,label", "a.png,b", "./a.png,c"],
    "can't be read as CSV": ["path,label", 'a.png,"b'],
    "does not name its columns": ["a.png,b"],
    "no line of": ["path,label", "elsewhere/a.png,b"],
}


def provoked(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Arrange what leads to a message; give the main and the options that meet it."""
    random = ["--weights", "random"]
    load, query = embed_and_load.main, query_code.main
    database = folder / "milvus.db"
    if name.startswith("there is no folder"):
        yield [load, "--images", "nowhere", *random]
    elif name.startswith("… holds no images"):
        (folder / "phone").mkdir()
        (folder / "phone/a.svg").write_bytes(b"")
        yield [load, "--images", "phone", *random]
    elif name.startswith("was made by an earlier version"):
        with connect(str(database)) as client, monkeypatch.context() as patch:
            properties = existing_collection(client, "images").properties
            patch.setattr(schema, "COLUMNS", schema.COLUMNS[: -len(schema.LATER)])
            ImageCollection.create(client, "old", properties)
        yield [query, "--collection", "old"]
    elif name.startswith("has the labels of the file"):
        with connect(str(database)) as client:
            existing_collection(client, "images").set_properties(labels="labels.csv")
        yield [load, *LOAD]
    elif lines := [lines for words, lines in LABELS.items() if words in name]:
        (folder / "labels.csv").write_text("\n".join(lines[0]))
        yield [load, *LOAD, "--labels", "labels.csv"]
    elif "megapixels" in name:
        Image.new("L", (1001, 1000)).save(folder / "large.png")
        yield [query, "large.png", "--max-megapixels", "1"]
    elif "is not empty" in name:
        yield [split_images.main, "--sample"]
    elif "made with another model" in name:
        yield [load, *random]
    elif "holds the folder" in name:
        yield [load, *LOAD, "--images", "query_set"]
    elif "is not an alias" in name:
        with connect(str(database)) as client:
            own_name = existing_collection(client, "images").own_name
            client.milvus.drop_alias("images")
            client.milvus.rename_collection(own_name, "images")
        yield [load, *LOAD]
    elif "dropped or replaced" in name:
        find_network = query_code.network_for_queries

        def drop_and_find(collection: ImageCollection, *how: str) -> object:
            collection.client.milvus.drop_alias("images")
            collection.drop()
            return find_network(collection, *how)

        monkeypatch.setattr(query_code, "network_for_queries", drop_and_find)
        yield [query]
    elif "interrupted, or is still running" in name:
        with connect(str(database)) as client:
            existing_collection(client, "images").set_properties(load="begun")
        yield [query]
    elif "too many to remove unasked" in name:
        for label in "0123456":
            shutil.rmtree(folder / "database_set" / label)
        yield [load, *LOAD, "--prune"]
    elif "is in use by" in name:
        holder = (
            "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.flock(f, 2)\n"
            "print('held', flush=True); input()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", holder, str(database / "LOCK")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield [query]
        process.communicate(b"\n")
    elif "can't be opened as a Milvus Lite file" in name:
        shutil.rmtree(database)
        database.write_bytes(b"SQLite format 3")
        yield [query]
    elif "start it, or check" in name:
        yield [query, "--milvus-uri", "http://127.0.0.1:9"]
    elif name.startswith("Milvus at"):
        with running_proxy() as proxy:
            code = re.search("[A-Z]+_?[A-Z]+", name)
            assert code
            proxy.code, proxy.refusals = getattr(grpc.StatusCode, code[0]), 100
            yield [query, "--milvus-uri", proxy.uri]
    elif "could not be downloaded" in name:
        from torchvision.models import ResNet18_Weights

        monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: refuse()
        )
        assert ResNet18_Weights
        yield [load]
    elif "has no classifier" in name:
        yield [load, "--model", "resnet19", *random]
    elif name.startswith("no query has a match"):
        yield [query, "--min-similarity", "1.05"]
    else:
        pytest.fail(f"no test provokes: {name}")


def refuse() -> None:
    raise OSError("<urlopen error [Errno 111] Connection refused>")


@pytest.mark.parametrize("name", documented_messages())
def test_the_messages_under_troubleshooting_are_the_programs_own(
    name: str,
    loaded: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for main, *options in provoked(name, loaded, monkeypatch):
        capsys.readouterr()
        main(list(map(str, options)))  # type: ignore[operator]
        errors = capsys.readouterr().err
        assert re.search(".*?".join(map(re.escape, re.split(" ?… ?", name))), errors), errors


def test_the_python_of_the_readme_runs(loaded: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    shutil.copy(next(Path("query_set").rglob("*.png")), "some.jpg")
    vector = blocks[0].replace('"some.jpg"', '"some.jpg", weights="random"')
    code = f"{vector}\nprint(vector.shape, float(vector @ vector))\n"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(512,) ")
    assert float(done.stdout.split()[1]) == pytest.approx(1, abs=1e-5)


def test_the_vectors_are_exported(loaded: Path, clone: Path) -> None:
    shutil.copytree(loaded / "milvus.db", clone / "milvus.db")
    run_line(the_command("--export"), clone, {})
    table = pd.read_parquet(clone / "vectors.parquet")
    assert np.stack(table["embedding"]).shape == (180, DIMENSION)


def test_the_cifar_10_line_downloads_splits_loads_and_matches(
    published: dict[str, str], clone: Path
) -> None:
    env = {**published, "XDG_CACHE_HOME": str(clone / "cache")}  # nothing is there yet
    done = run_line(the_command("../split_images.py", "../query_code.py"), clone, env)
    results = clone / "cifar-10/results"
    assert len((results / "pairings.txt").read_text().splitlines()) == 21
    assert (results / "comparison.png").is_file()
    assert "weights pretrained" in (results / "observations.md").read_text()
    assert "180 images" in done.stdout


def test_the_lines_under_results_match_each_image_with_all_others(
    published: dict[str, str], clone: Path
) -> None:
    folder = clone / "cifar-10-4000"
    run_line(the_command("mkdir -p cifar-10-4000"), clone, published)
    run_line(the_command("--limit 4000"), folder, published)
    torch.save(timm.create_model("tf_efficientnet_lite0").state_dict(), folder / "lite0.pth")
    run_line(the_command("--images all"), folder, published)
    run_line(the_command("--queries all"), folder, published)
    report = (folder / "results/observations.md").read_text()
    assert "200 of 200 query images were matched with a collection of 200 images" in report
    assert "100.0% recall@5 against exact search, on 200 queries" in report
    assert re.search(r"\d+ of 200 pairs share a label", report)


def test_a_folder_of_photographs_is_loaded_and_searched(
    published: dict[str, str], clone: Path
) -> None:
    home = clone / "home"
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        (home / "Pictures" / name).mkdir(parents=True)
        image = Image.fromarray(photograph)
        for number in range(6):
            part = image.crop((80 * number, 40, 80 * number + 240, 400))
            part.save(home / "Pictures" / name / f"{number}.jpg", quality=99 - 15 * number)
    shutil.copy(home / "Pictures/flower/3.jpg", clone / "some.jpg")
    env = {**published, "HOME": str(home)}
    load = the_command("--images ~/Pictures")
    assert "Loaded 12 images" in run_line(load, clone, env).stdout
    lines = run_line(the_command("some.jpg", "--top-k 5"), clone, env).stdout.splitlines()
    first = lines.index("some.jpg") + 1
    assert lines[first].split()[:2] == ["1", "1.0000"]
    assert lines[first].endswith("home/Pictures/flower/3.jpg  (flower)")
    assert [line.split()[0] for line in lines[first : first + 5]] == list("12345")
    sizes = {path: path.stat().st_size for path in home.rglob("*.jpg")}
    (home / "Pictures/temple/big.png").write_bytes(b"")
    threshold = sorted(sizes.values())[-3]
    filtered = the_command("some.jpg", "--filter").replace("100000", str(threshold))
    matched = run_line(filtered, clone, env).stdout
    found = [path for path in sizes if path.as_posix().removeprefix(f"{clone}/") in matched]
    assert len(found) == 1
    assert sizes[found[0]] > threshold
    shutil.copy(home / "Pictures/temple/0.jpg", home / "Pictures/a copy.jpg")
    os.utime(home / "Pictures/a copy.jpg")
    run_line(load, clone, env)
    matched = run_line(the_command("--queries ~/Pictures --collection"), clone, env).stdout
    assert "13 embeddings read from the collection" in matched
    listed = run_line(the_command("xargs"), clone, env).stdout
    assert "home/Pictures/a copy.jpg" in listed
    assert "home/Pictures/temple/0.jpg" not in listed, "the older one is kept"
    (home / "Pictures/new").mkdir()
    shutil.copy(home / "Pictures/temple/0.jpg", home / "Pictures/new/again.jpg")
    run_line(the_command("--queries ~/Pictures/new"), clone, env)
    paths = (clone / "results/copies.txt").read_text().splitlines()
    assert [Path(path).name for path in paths] == ["again.jpg"]
    shutil.copytree(home / "Pictures/temple", clone / "train")
    (clone / "test").mkdir()
    shutil.copy(home / "Pictures/temple/0.jpg", clone / "test/a 'leak'.jpg")
    shutil.copy(home / "Pictures/flower/0.jpg", clone / "test/none.jpg")
    os.symlink(home / "Pictures/flower/1.jpg", clone / "test/nor this.jpg")
    os.symlink("../train/1.jpg", clone / "test/linked.jpg")
    run_line(the_command("--images train"), clone, env)
    run_line(the_command("--queries test"), clone, env)
    kept = run_line(the_command("leaks.txt"), clone, env).stdout
    assert sorted(kept.splitlines()) == ["test/none.jpg", "test/nor this.jpg"]


def on_server(line: str, uri: str) -> str:
    """The README's line, for the tests' server and its password."""
    assert "http://localhost:19530" in line
    return line.replace("http://localhost:19530", uri).replace("root:PASSWORD", TOKEN)


def test_the_server_lines(published: dict[str, str], clone: Path, server: Server) -> None:
    run_line("python split_images.py --sample --limit 100", clone, {})
    env = {"XDG_CACHE_HOME": published["XDG_CACHE_HOME"], "MILVUS_TOKEN": TOKEN}
    first = on_server(the_command("MILVUS_TOKEN", "embed_and_load.py"), server.uri)
    assert "Loaded 90 images" in run_line(first, clone, published).stdout
    again = on_server(the_command("torchrun --nproc-per-node"), server.uri)
    assert "90 were already in the collection" in run_line(again, clone, env).stdout
    index = on_server(the_command("--index hnsw"), server.uri)
    assert "Index: approximate (HNSW" in run_line(index, clone, env).stdout
    query = on_server(the_command("--search-params", "--recall-sample"), server.uri)
    assert "% recall@1 against exact search" in run_line(query, clone, env).stdout
    assert "ef 200" in (clone / "results/observations.md").read_text()


def test_the_benchmarks_line(digits: Path, own_folder: Path) -> None:
    line = the_command("--parts agreement")
    ours = re.sub(r"cifar-10\S*/(\w+_set)", rf"{digits}/\1", line)
    run_line(" ".join([ours, *MODEL[:4], "--output", str(own_folder / "results.md")]), PROJECT, {})
    assert "equal nearest matches" in (own_folder / "results.md").read_text()


def test_a_download_with_another_checksum_is_refused(
    published: dict[str, str], own_folder: Path
) -> None:
    work = own_folder / "work"
    work.mkdir()
    wrong = {**published, "LOCAL_CIFAR_MD5": "0" * 32}
    done = run_script("split_images.py", cwd=work, env=wrong)
    assert done.returncode == 1
    assert "error: " in done.stderr.splitlines()[-1]
    assert "--sample" in done.stderr.splitlines()[-1]
    assert not os.listdir(work)


def test_weights_that_cannot_be_downloaded_name_both_ways_out(
    published: dict[str, str], own_folder: Path
) -> None:
    (own_folder / "images").mkdir()
    Image.new("RGB", (9, 9)).save(own_folder / "images/1.png")
    nowhere = {"LOCAL_WEIGHTS": "http://127.0.0.1:9/resnet18-00000000.pth"}
    nowhere = {**published, **nowhere, "XDG_CACHE_HOME": str(own_folder / "cache")}
    done = run_script("embed_and_load.py", "--images", "images", cwd=own_folder, env=nowhere)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "--weights FILE" in done.stderr
    assert "--weights random" in done.stderr
    assert not (own_folder / "milvus.db").exists()
