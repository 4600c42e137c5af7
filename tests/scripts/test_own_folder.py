"""A collection's own folder as queries: no image matches itself, and duplicates are found."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import photograph, sticker
from helpers import LOAD, both_engines, brute_force, load, pairings, rows
from PIL import Image

import embed_and_load
import query_code
from similar_images.matching import duplicate_groups
from similar_images.milvus.collection import ImageCollection
from similar_images.text import byte_size

Fails = Callable[..., str]


def groups(folder: str = "results") -> list[dict[str, str]]:
    with open(Path(folder, "duplicate_groups.txt"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def copies(folder: str = "results") -> list[str]:
    return Path(folder, "copies.txt").read_text(encoding="utf-8").splitlines()


@both_engines
@pytest.mark.parametrize("top_k", [4, 500])
def test_no_image_is_its_own_match(
    top_k: int, loaded: Path, milvus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others come as brute force finds them, and there are as many as were asked for."""
    capsys.readouterr()
    options = ["--queries", "database_set", "--top-k", str(top_k), "--recall-sample", "180"]
    assert query_code.main(options) == 0
    out = capsys.readouterr().out
    assert "180 embeddings read from the collection" in out
    assert "to embed" not in out
    assert "100.0% recall" in out
    names, _, similarities = brute_force(Path("database_set"), Path("database_set"))
    np.fill_diagonal(similarities, -2)
    best = np.sort(similarities, axis=1)[:, ::-1]
    found = pairings()
    assert len(found) == 180 * min(top_k, 179)
    for row in found:
        assert row["query"] != row["match"]
        query, match = names.index(row["query"]), names.index(row["match"])
        assert float(row["similarity"]) == pytest.approx(similarities[query, match], abs=3e-6)
        assert float(row["similarity"]) == pytest.approx(
            best[query, int(row["rank"]) - 1], abs=3e-6
        )


def test_changed_and_new_images_are_embedded(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, other = sorted(Path("database_set").rglob("*.png"))[:2]
    shutil.copy(other, changed)
    shutil.copy(other, "database_set/new.png")
    capsys.readouterr()
    assert query_code.main(["--queries", "database_set"]) == 0
    out = capsys.readouterr().out
    assert "179 embeddings read from the collection" in out
    assert "2 images to embed" in out
    found = {row["query"]: row["match"] for row in pairings()}
    assert found[str(changed)] == found["database_set/new.png"] == str(other)


@pytest.mark.parametrize("by_file", [False, True])
def test_the_collections_images_have_its_labels_whichever_folder_is_named(
    by_file: bool, own_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder within it or around it; also a changed file, a link, and one that is not loaded."""
    paths = ["2020/0.png", "2020/sub/1.png", "2021/2.png", "2021/3.png", "2020/new.png"]
    for number, path in enumerate(paths):
        Path("in/P", path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (40 * number, 99, 7)).save(Path("in/P", path))
    os.symlink("../2021/2.png", "in/P/2020/link.png")
    os.rename("in/P/2020/new.png", "new.png")
    wanted = {path: path[:4] for path in [*paths, "2020/link.png"]}
    if by_file:
        wanted = {path: "" if "new" in path else f"of {path[-5]}" for path in wanted}
        lines = [f"{path},{label}" for path, label in wanted.items() if label]
        Path("labels.csv").write_text("\n".join(["path,label", *lines]))
    options = ["--labels", "labels.csv"] if by_file else []
    assert load("--images", "in/P", *options) == 0
    os.rename("new.png", "in/P/2020/new.png")
    os.utime("in/P/2020/0.png", ns=(1, 1))
    for folder in ("in/P", "in/P/2020", "in"):
        capsys.readouterr()
        assert query_code.main(["--queries", folder, "--json"]) == 0
        for pair in map(json.loads, capsys.readouterr().out.splitlines()):
            assert pair["query_label"] == wanted[pair["query"].removeprefix("in/P/")], pair
            assert pair["match_label"] == wanted[pair["match"].removeprefix("in/P/")], pair


def test_thumbnails_and_trash_are_left_out_of_loads_and_queries(
    milvus: str, own_folder: Path, capsys: pytest.CaptureFixture[str], fails: Fails
) -> None:
    """As on a Synology disk; what a collection leaves out, a query of its folder does, too."""
    photographs = {f"2020/{number}.jpg" for number in range(8)}
    sizes = ("S", "M", "B", "XL")
    thumbnails = {f"2020/@eaDir/{n}.jpg/SYNO_{size}.jpg" for n in range(8) for size in sizes}
    others = {"#recycle/2020/0.jpg", "#recycle/2020/1.jpg", "drafts/1.jpg"}
    for number, path in enumerate(sorted(photographs | thumbnails | others)):
        Path("disk", path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12), (6 * number, 99, 7)).save(Path("disk", path))
    options = ["--images", "disk", "--recreate"]

    def left_out() -> str:
        return capsys.readouterr().out.partition("Left out: ")[2].partition("\n")[0]

    def matched(*options: str) -> set[str]:
        assert query_code.main(["--queries", "disk", *options]) == 0
        return {row["query"].removeprefix("disk/") for row in pairings()}

    assert load(*options, "--exclude", "") == 0
    assert set(rows()) == photographs | thumbnails | others
    assert left_out() == ""
    assert load("--images", "disk", "--prune", "--prune-most", "--exclude", "Drafts/") == 0
    assert set(rows()) == photographs
    assert "1 #recycle" in (words := left_out())
    assert "1 @eaDir" in words
    assert "1 Drafts" in words
    assert matched() == photographs
    assert left_out().count("1 ") == 3
    assert load("--images", "disk") == 0
    assert set(rows()) == photographs, "as in the last load"
    assert matched("--exclude", "", "--exclude", "[#@]*") == photographs | {"drafts/1.jpg"}
    assert load(*options) == 0
    assert set(rows()) == photographs, "also in a new collection"
    assert load(*options, "--exclude", "x") == 0
    assert set(rows()) == photographs | {"drafts/1.jpg"}
    for folder in ("disk/2020", "disk/drafts"):
        shutil.rmtree(folder)
    os.rename("disk/#recycle", "disk/@eaDir")
    assert "(left out: 1 @eaDir); choose another" in fails(embed_and_load.main, *LOAD, *options)
    assert load("--images", "disk", "--exclude", "") == 0
    assert load("--images", "disk") == 0
    error = fails(query_code.main, "--queries", "disk", "--exclude", "*")
    assert "holds no images (left out: " in error
    with pytest.raises(SystemExit):
        load("--exclude", "2020/drafts")
    assert "2020/drafts is a path; give the name alone" in capsys.readouterr().err


@both_engines
def test_a_filter_and_a_least_similarity_leave_the_image_itself_out(loaded: Path) -> None:
    options = ["--queries", "database_set", "--top-k", "3"]
    assert query_code.main([*options, "--filter", 'path like "3/%"']) == 0
    rows = pairings()
    assert {row["match"].split("/")[1] for row in rows} == {"3"}
    assert not [row for row in rows if row["query"] == row["match"]]
    assert len(rows) == 3 * 180
    least = sorted(float(row["similarity"]) for row in rows)[len(rows) // 2]
    assert query_code.main([*options, "--min-similarity", str(least)]) == 0
    assert not [row for row in pairings() if row["query"] == row["match"]]


def test_a_link_leads_to_the_same_file(own_folder: Path, milvus: str) -> None:
    """An image that the collection holds under several paths is none of its own matches."""
    (own_folder / "images/sub").mkdir(parents=True)
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/sub/{number}.png")
    os.symlink("sub/0.png", "images/link.png")
    os.symlink("images", "elsewhere")
    shutil.copy("images/sub/1.png", "images/copy.png")
    assert load("--images", "images") == 0
    for folder in ("images", "elsewhere"):
        assert query_code.main(["--queries", folder, "--top-k", "6"]) == 0
        found = [(row["query"], row["match"]) for row in pairings()]
        for query, match in found:
            assert not os.path.samefile(query, match)
        assert (f"{folder}/copy.png", f"{folder}/sub/1.png") in found, "a copy is a match"
        assert len([query for query, _ in found if query == f"{folder}/link.png"]) == 6
    query = "elsewhere/sub/0.png"
    assert query_code.main([query, "--json"]) == 0


def test_a_file_is_not_its_own_match_by_another_path(
    own_folder: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hard links, as a second path by which a file system is mounted, or another spelling."""
    for folder in ("images/a", "images/b", "elsewhere"):
        Path(folder).mkdir(parents=True)
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/a/{number}.png")
        os.link(f"images/a/{number}.png", f"images/b/{number}.png")
        os.link(f"images/a/{number}.png", f"elsewhere/{number}.png")
    assert load("--images", "images") == 0
    search, requests = ImageCollection.search, []

    def counted(collection: ImageCollection, embeddings: np.ndarray, *args: Any) -> Any:
        requests.append(len(embeddings))
        return search(collection, embeddings, *args)

    monkeypatch.setattr(ImageCollection, "search", counted)
    for folder in ("images", "elsewhere"):
        assert query_code.main(["--queries", folder, "--top-k", "3"]) == 0
        found = pairings()
        assert len(found) == 3 * len(list(Path(folder).rglob("*.png")))
        assert not [row for row in found if os.path.samefile(row["query"], row["match"])]
        assert not Path("results/copies.txt").exists()
        name = "label_conflicts.txt" if folder == "images" else "leaks.txt"
        assert len(Path("results", name).read_text().splitlines()) == 1 + 8
    # All that have too few matches are asked for at once; the third looks for other labels.
    assert requests == [16, 16, 16, 8, 8]
    assert query_code.main(["--queries", "images", "--top-k", "16"]) == 0
    assert requests[5:] == [16], "so many have the other labels as well"


def test_a_moved_folder_is_the_collections_own_again_when_it_is_named(loaded: Path) -> None:
    os.rename("database_set", "moved")
    options = ["--queries", "moved", "--collection-images", "moved"]
    assert query_code.main(options) == 0
    assert all(row["query"] != row["match"] for row in pairings())
    assert {row["match"].split("/")[0] for row in pairings()} == {"moved"}


def make_copies(folder: Path) -> None:
    """Seven copies of a photograph, four of a part of another, and images that have no copy."""
    folder.mkdir()
    whole = photograph()
    whole.save(folder / "best.png")
    whole.save(folder / "good.jpg", quality=95)
    whole.save(folder / "poor.jpg", quality=40)
    whole.resize((320, 213)).save(folder / "small.png")
    whole.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg")
    whole.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.jpg")
    shutil.copy(folder / "best.png", folder / "copy.png")
    os.utime(folder / "best.png", ns=(1, 1))
    part = photograph("flower.jpg").crop((200, 100, 400, 300))
    for number in range(4):
        part.save(folder / f"part {number}.png")
    for number in range(3):
        Image.effect_noise((110, 110), 20 + 40 * number).save(folder / f"other {number}.png")


def test_copies_form_groups_whose_best_image_is_kept(own_folder: Path, milvus: str) -> None:
    make_copies(own_folder / "images")
    assert load("--images", "images") == 0
    assert query_code.main(["--queries", "images"]) == 0
    found = groups()
    first = [row for row in found if row["group"] == "1"]
    assert [row["path"] for row in first][:1] == ["images/best.png"], "the oldest of the largest"
    change = {Path(row["path"]).name: row["change"] for row in first}
    assert change == {
        "best.png": "",
        "copy.png": "the same pixels",
        "good.jpg": "re-encoded",
        "poor.jpg": "re-encoded",
        "small.png": "resized",
        "turned.jpg": "rotated 90°",
        "mirrored.jpg": "mirrored",
    }
    second = [row for row in found if row["group"] == "2"]
    assert [row["path"] for row in second] == [f"images/part {n}.png" for n in range(4)]
    assert len(found) == 11
    assert [row["keep"] for row in first] == ["keep", *["copy"] * 6]
    for row in found:
        image = Image.open(row["path"])
        assert (str(image.width), str(image.height)) == (row["width"], row["height"])
        assert int(row["file_size"]) == os.path.getsize(row["path"])
    spare = [row["path"] for row in found if row["keep"] == "copy"]
    size = byte_size(sum(map(os.path.getsize, spare)))
    report = Path("results/observations.md").read_text()
    assert copies() == spare
    assert "The same images form 2 groups of 11 images" in report
    assert f"**9 copies ({size})**" in report
    page = Path("results/gallery.html").read_text()
    assert '<section id="groups">' in page
    assert f"9 copies ({size}), listed in copies.txt" in page


def test_no_file_is_its_own_copy(own_folder: Path) -> None:
    """Whoever deletes the copies keeps the file of each group, whatever links lead to it."""
    (own_folder / "images/real").mkdir(parents=True)
    photograph().save("images/real/best.png")
    photograph().save("images/real/copy.jpg")
    os.symlink("real", "images/another")
    os.symlink("real/best.png", "images/a link.png")
    assert load("--images", "images") == 0
    for folder in ("images", "images/real"):
        assert query_code.main(["--queries", folder]) == 0
        files = {os.path.realpath(row["path"]): row["keep"] for row in groups()}
        assert len(groups()) == 2
        assert files == {
            str(own_folder / "images/real/best.png"): "keep",
            str(own_folder / "images/real/copy.jpg"): "copy",
        }


def test_a_row_that_is_deleted_meanwhile_is_in_no_group(
    own_folder: Path, milvus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process prunes the collection while its images are compared."""
    (own_folder / "images").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        photograph().save(f"images/{name}")
    assert load("--images", "images") == 0
    (own_folder / "queries").mkdir()
    os.rename("images/a.png", "queries/a.png")
    shutil.copy("queries/a.png", "images/a.png")
    read = ImageCollection.embeddings_of

    def delete_and_read(collection: ImageCollection, paths: list[str]) -> Any:
        if paths:
            collection.delete(["b.png"])
        return read(collection, paths)

    monkeypatch.setattr(ImageCollection, "embeddings_of", delete_and_read)
    assert query_code.main(["--queries", "queries", "--top-k", "3"]) == 0
    assert {Path(row["path"]).name for row in groups()} == {"a.png", "c.png"}


def test_a_group_has_all_copies_though_each_ones_nearest_is_another(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two pairs of equal files, one pair altered: they only meet beyond the nearest match."""
    (own_folder / "images").mkdir()
    photograph().save("images/a1.png")
    photograph().save("images/b1.jpg", quality=30)
    shutil.copy("images/a1.png", "images/a2.png")
    shutil.copy("images/b1.jpg", "images/b2.jpg")
    assert load("--images", "images") == 0
    assert query_code.main(["--queries", "images"]) == 0
    nearest = {row["query"][-6:]: row["match"][-6:] for row in pairings()}
    assert nearest == {
        "a1.png": "a2.png",
        "a2.png": "a1.png",
        "b1.jpg": "b2.jpg",
        "b2.jpg": "b1.jpg",
    }
    assert {row["group"] for row in groups()} == {"1"}
    assert len(groups()) == 4
    monkeypatch.setattr(duplicate_groups, "NEIGHBOURS", 1)
    assert query_code.main(["--queries", "images"]) == 0
    assert {row["group"] for row in groups()} == {"1", "2"}, "the test sees what it tests"


def test_queries_that_the_collection_has_already_are_copies(own_folder: Path) -> None:
    """But not where it has only a thumbnail; and its own images never are."""
    for folder in ("images", "new"):
        Path(folder).mkdir()
    photograph().save("images/a.jpg", quality=90)
    shutil.copy("images/a.jpg", "images/also.jpg")
    photograph("flower.jpg").resize((160, 107)).save("images/thumbnail.jpg")
    photograph().resize((320, 213)).save("new/half.jpg")
    photograph("flower.jpg").save("new/flower.jpg")
    assert load("--images", "images") == 0
    assert query_code.main(["--queries", "new"]) == 0
    assert copies() == ["new/half.jpg"]
    found = {row["path"]: row["keep"] for row in groups()}
    assert found["new/flower.jpg"] == ""
    assert {role for path, role in found.items() if path.startswith("images/")} <= {"keep", ""}
    assert "**1 copy (" in Path("results/observations.md").read_text()


def test_the_list_of_copies_holds_paths_alone(own_folder: Path) -> None:
    """As they are, for a shell's loop: nothing is quoted, and what is no line is left out."""
    Path("images").mkdir()
    photograph().save("images/a.png")
    names = ["say \"no\" & 'yes'.png", "tab\tand  spaces.png", "Käse 猫.png", "two\nlines.png"]
    for name in names:
        shutil.copy("images/a.png", f"images/{name}")
    os.utime("images/a.png", ns=(1, 1))
    assert load("--images", "images") == 0
    assert query_code.main(["--queries", "images", "--top-k", "4"]) == 0
    listed = copies()
    assert sorted(listed) == sorted(f"images/{name}" for name in names[:3])
    assert all(map(os.path.exists, listed))
    assert [row["keep"] for row in groups()] == ["keep", *["copy"] * 4]
    assert "cannot hold their names: 1." in Path("results/observations.md").read_text()


def test_what_is_below_keep_in_is_kept(own_folder: Path) -> None:
    for folder in ("images/a", "images/b", "images/c"):
        Path(folder).mkdir(parents=True)
        photograph().save(f"{folder}/x.png")
    assert load("--images", "images") == 0
    for kept in ("b", "c"):
        options = ["--queries", "images", "--top-k", "2", "--keep-in", f"images/{kept}"]
        assert query_code.main(options) == 0
        found = {row["path"]: row["keep"] for row in groups()}
        assert found.pop(f"images/{kept}/x.png") == "keep"
        assert sorted(found) == copies()
        assert len(found) == 2


def test_images_are_not_compared_if_that_is_not_wanted(loaded: Path) -> None:
    options = ["--queries", "database_set", "--no-near-duplicates"]
    assert query_code.main(options) == 0
    assert len(pairings()) == 180
    assert not Path("results/duplicate_groups.txt").exists()
    report = Path("results/observations.md").read_text()
    assert "Images were not compared (`--no-near-duplicates`)" in report
    assert "Pairs whose pixels were compared" not in report
    page = Path("results/gallery.html").read_text()
    assert "Images were not compared." in page
    assert page.count('role="img"') > 20


def test_files_dated_after_2262_are_images_like_others(
    loaded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows, and the reductions of a query, hold 64 bits of nanoseconds."""
    dated = [Path("database_set/dated 1.png"), Path("database_set/dated 2.png")]
    for path in dated:
        shutil.copy(next(Path("query_set").rglob("*.png")), path)
        os.utime(path, (10**10, 10**10))
    if dated[0].stat().st_mtime_ns < 2**63:
        pytest.skip("this file system holds no such time")
    assert load("--images", "database_set") == 0
    assert load("--images", "database_set") == 0
    assert "Loaded 0 images" in capsys.readouterr().out
    assert query_code.main(["--queries", "database_set"]) == 0
    assert "182 embeddings read from the collection" in capsys.readouterr().out
    assert {str(path) for path in dated} <= {copy["path"] for copy in groups()}
    shutil.copy2(dated[0], "query.png")
    assert query_code.main(["query.png"]) == 0


def test_results_do_not_become_images(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever they lie; a user's own image of such a name stays one. A row of one is pruned."""
    database, output = Path("database_set"), Path("database_set/results")
    output.mkdir()
    for name in ("comparison.png", "named_comparison.png"):
        Image.new("RGB", (30, 20), "teal").save(database / name)
        shutil.copy(database / name, output / name)
    assert load("--images", database) == 0
    assert len(rows()) == 184
    shutil.rmtree(output)
    for queries in (["--queries", "database_set"], ["database_set/comparison.png"]) * 2:
        assert query_code.main([*queries, "--output", str(output)]) == 0
        assert len(pairings(str(output))) == 182
    capsys.readouterr()
    assert load("--images", database, "--prune") == 0
    assert "2 written by query_code.py, " in capsys.readouterr().out
    assert len(rows()) == 182


def test_queries_from_elsewhere_that_the_collection_has_are_leaks(own_folder: Path) -> None:
    """So are links to its images. In part the same is none, nor is an image of it itself."""
    for name in ("train/a/b", "train/c", "test/a/b c"):
        Path(name).mkdir(parents=True)
    photograph().save("train/a/b/1.png")
    photograph("flower.jpg").save("train/c/2.png")
    photograph().save("train/c/also 1.jpg", quality=90)
    photograph().resize((320, 213)).save("test/a/b c/leak's.jpg")
    sticker(photograph("flower.jpg")).save("test/a/in part.png")
    Image.effect_noise((200, 200), 90).save("test/another.png")
    os.symlink("../../train/c/2.png", "test/a/link.png")
    assert load("--images", "train") == 0
    assert query_code.main(["--queries", "test", "--top-k", "3"]) == 0
    lines = Path("results/leaks.txt").read_text().splitlines()
    assert lines[0] == "query\trank\tmatch\tsimilarity\tverdict\tchange"
    leak, link = (line.split("\t") for line in lines[1:])
    assert leak[:1] + leak[4:] == ["test/a/b c/leak's.jpg", "same", "resized"]
    assert link[:3] == ["test/a/link.png", "1", "train/c/2.png"]
    assert not [row for row in pairings() if not row["match"].startswith("train/")]
    report = Path("results/observations.md").read_text()
    assert "**2 queries from elsewhere are the same as an image of the collection**" in report
    conflicts = Path("results/label_conflicts.txt").read_text()
    assert "test/a/link.png\ta\ttrain/c/2.png\tc" in conflicts, "a link has its own folder's label"
    assert query_code.main(["--queries", "train"]) == 0
    assert len(groups()) == 2
    assert not Path("results/leaks.txt").exists()
    # Images in the collection's folder that it leaves out are not the collection's.
    assert load("--images", ".", "--exclude", "test", "--recreate") == 0
    assert query_code.main(["--queries", "test", "--top-k", "3"]) == 0
    assert [line.split("\t")[0] for line in Path("results/leaks.txt").read_text().splitlines()] == [
        "query",
        "test/a/b c/leak's.jpg",
        "test/a/link.png",
    ]


def test_pairs_that_the_user_found_to_be_no_duplicates_are_left_out(
    own_folder: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either order, though a third image is the same as both; named from wherever they are."""
    Path("images/a").mkdir(parents=True)
    Path("images/b").mkdir()
    photograph().save("images/a/1.png")
    photograph().save('images/b/2 "best".jpg', quality=90)
    assert load("--images", "images") == 0
    ignoring = ["--queries", "images", "--ignore-pairs", "ignored.txt"]
    assert "no such file" in fails(query_code.main, *ignoring).lower()
    Path("ignored.txt").write_text("images/a/1.png\n")
    assert "ignored.txt, line 1" in fails(query_code.main, *ignoring)
    assert query_code.main(ignoring[:2]) == 0
    lines = Path("results/near_duplicates.txt").read_text().splitlines()
    assert len(lines) == 3
    assert len(copies()) == 1
    Path("ignored.txt").write_text("\n".join(lines[:2]) + "\n")
    assert query_code.main([*ignoring, "--queries", str(own_folder / "images")]) == 0
    assert {path.name for path in Path("results").iterdir()} == {
        *("pairings.txt", "comparison.png", "gallery.html", "observations.md")
    }
    report = Path("results/observations.md")
    assert "`--ignore-pairs` leaves out: 1 of 1.\n" in report.read_text()
    assert "near-duplicate here" not in capsys.readouterr().err
    Path("elsewhere.txt").write_text(lines[1].replace("images/", "../images/"))
    assert query_code.main([*ignoring[:3], "elsewhere.txt"]) == 0
    assert "warning: no pair of elsewhere.txt is a near-duplicate" in capsys.readouterr().err
    assert "`--ignore-pairs` leaves out: 0 of 1.\n" in report.read_text()
    photograph().resize((320, 213)).save("images/a/3.png")
    assert load("--images", "images") == 0
    assert query_code.main([*ignoring, "--top-k", "2"]) == 0
    roles = {row["path"]: row["keep"] for row in groups()}
    kept = next(path for path, role in roles.items() if role == "keep")
    assert {path for path, role in roles.items() if role == "copy"} == {"images/a/3.png"}
    assert roles.keys() - {kept, "images/a/3.png"}
