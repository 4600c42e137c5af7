"""The README's CIFAR-10 line as it stands there, against a local file server."""

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

import pytest
import torch
from conftest import PROJECT, run_script, write_batches
from torchvision.models import resnet18

# Run by Python at its start: points the two published addresses at the local server, and the
# published checksums at its files. The download code itself is untouched.
SITE = """
import os, sys
if "--multiprocessing-fork" not in sys.orig_argv:
    import torchvision.datasets, torchvision.models
    torchvision.datasets.CIFAR10.url = os.environ["LOCAL_CIFAR"]
    torchvision.datasets.CIFAR10.tgz_md5 = os.environ["LOCAL_CIFAR_MD5"]
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
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        server.shutdown()


def command_under(heading: str) -> str:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {heading}\n\n```sh\n(.+)\n```$", text, re.MULTILINE)
    assert found, f"the README has one line of code under {heading}"
    return found[1]


def test_the_cifar_10_line_downloads_splits_loads_and_matches(
    published: dict[str, str], own_folder: Path
) -> None:
    clone = own_folder / "clone"
    clone.mkdir()
    for script in PROJECT.glob("*.py"):
        shutil.copy(script, clone)
    done = subprocess.run(
        ["bash", "-ec", command_under("CIFAR-10")],
        cwd=clone,
        env={**os.environ, **published},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = clone / "cifar-10/results"
    assert len((results / "pairings.txt").read_text().splitlines()) == 21
    assert (results / "comparison.png").is_file()
    assert "weights imagenet" in (results / "observations.md").read_text()
    assert "180 images" in done.stdout


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
    (own_folder / "pictures").mkdir()
    shutil.copy(PROJECT / "docs/comparison.png", own_folder / "pictures")
    nowhere = {**published, "LOCAL_WEIGHTS": "http://127.0.0.1:9/resnet18-00000000.pth"}
    done = run_script("embed_and_load.py", "--images", "pictures", cwd=own_folder, env=nowhere)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "--weights FILE" in done.stderr
    assert "--weights random" in done.stderr
    assert not (own_folder / "milvus.db").exists()
