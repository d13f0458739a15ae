"""Sources that lead elsewhere, are cut off, or are bombs: refused by name, before anything is lost or allocated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from factories import ROOT
from modeling_cvls.cli import convert as command
from modeling_cvls.conversion.files import read_csv, read_json, read_text
from modeling_cvls.conversion.problems import Problems
from modeling_cvls.names import check_name, check_path, check_tree
from modeling_cvls.synthetic import write_a2d_sentences, write_jhmdb_sentences, write_mevis, write_refer_youtube_vos


def convert(name, source, output, *arguments):
    command.main([name, "--source", str(source), "--output", str(output), "--num-proc", "1", *arguments])


def left_out(output):
    return [json.loads(line) for line in (output / "left_out.jsonl").read_text().splitlines()]


@pytest.fixture
def rvos(tmp_path):
    write_refer_youtube_vos(tmp_path / "raw", {"train": 3, "test": 1}, seed=2)
    return tmp_path / "raw"


@pytest.fixture
def a2d(tmp_path):
    write_a2d_sentences(tmp_path / "raw", {"train": 2, "test": 1}, seed=2)
    return tmp_path / "raw"


@pytest.fixture
def jhmdb(tmp_path):
    write_jhmdb_sentences(tmp_path / "raw", {"train": 4}, seed=2)
    return tmp_path / "raw"


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "0_1-x y", "été", "a.b", "..a", "x" * 200])
def test_names(name):
    assert check_name(name, "the id") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "a\\b", "C:a", "C:\\a", "a\0", "a\nb", "x" * 201, "é" * 101, 3, None]
)
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="^the id (is .*must be a plain name|must be text)"):
        check_name(name, "the id")


@pytest.mark.parametrize("path", ["a", "a/b.jpg", "./a//b", "x" * 200 + "/" + "y" * 200])
def test_paths(path):
    assert check_path(path, "the file") == path


@pytest.mark.parametrize("path", ["", ".", "..", "/a", "a/../b", "a/..", "a\\b", "C:/a", "a/\0", "x" * 201, None, 3])
def test_what_is_no_path(path):
    with pytest.raises(ValueError, match="^the file .*(must be a plain name|must be text)"):
        check_path(path, "the file")


def edit_meta(root, change):
    path = root / "meta_expressions" / "train" / "meta_expressions.json"
    content = json.loads(path.read_text())
    change(content["videos"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["../../x", "{outside}", "a/b", "..", "x" * 300])
@pytest.mark.parametrize("what", ["video", "expression", "frame"])
def test_ids_that_lead_elsewhere_are_refused(rvos, tmp_path, name, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (64, 64)).save(outside / "00000.jpg")
    name = name.format(outside=outside)

    def change(videos):
        first = next(iter(videos))
        if what == "video":
            videos[name] = videos.pop(first)
        elif what == "frame":
            videos[first]["frames"][0] = name
        else:
            videos[first]["expressions"][name] = videos[first]["expressions"].pop("0")

    edit_meta(rvos, change)
    with pytest.raises(ValueError, match="must be a plain name"):
        convert("refer_youtube_vos", rvos, tmp_path / "out", "--split", "train")
    convert("refer_youtube_vos", rvos, tmp_path / "out", "--split", "train", "--skip-invalid")
    assert any("must be a plain name" in entry["why"] for entry in left_out(tmp_path / "out"))
    assert [path.name for path in outside.iterdir()] == ["00000.jpg"]


# Links and special files ----------------------------------------------------------------------------------------------


def test_links_may_lead_about_in_the_source_but_not_out_of_it(rvos, tmp_path):
    frames = next((rvos / "train" / "JPEGImages").iterdir())
    first = sorted(frames.iterdir())[0]
    elsewhere = tmp_path / "elsewhere.jpg"
    first.rename(rvos / "moved.jpg")
    first.symlink_to(rvos / "moved.jpg")
    convert("refer_youtube_vos", rvos, tmp_path / "inside")
    (rvos / "moved.jpg").rename(elsewhere)
    first.unlink()
    first.symlink_to(elsewhere)
    with pytest.raises(ValueError, match="00000.jpg is a link to .*elsewhere.jpg, which is outside .*--allow-links"):
        convert("refer_youtube_vos", rvos, tmp_path / "out", "--skip-invalid")
    assert not (tmp_path / "out").exists()
    convert("refer_youtube_vos", rvos, tmp_path / "out", "--allow-links")
    (tmp_path / "link").symlink_to(rvos)  # the source itself may be one
    convert("refer_youtube_vos", tmp_path / "link", tmp_path / "again", "--allow-links")


@pytest.mark.parametrize("where", ["train/JPEGImages/{video}/00000.jpg", "pipe"])
def test_pipes_are_refused(rvos, tmp_path, where):
    path = rvos / where.format(video=next((rvos / "train" / "JPEGImages").iterdir()).name)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is neither a file nor a folder, but a pipe"):
        convert("refer_youtube_vos", rvos, tmp_path / "out", "--skip-invalid")


def test_a_link_to_a_device_is_refused(tmp_path):
    (tmp_path / "frame.jpg").symlink_to("/dev/zero")
    for allow in (False, True):
        with pytest.raises(ValueError, match="frame.jpg is (a link to /dev/zero|neither a file)"):
            check_tree(tmp_path, allow)


# What the tree says and the sentences do not --------------------------------------------------------------------------


@pytest.mark.parametrize(("cut", "why"), [(-9, "no line break at its end"), (None, "belong to no sentence")])
@pytest.mark.parametrize("name", ["jhmdb", "a2d"])
def test_sentences_that_are_cut_off_are_missed(request, tmp_path, name, cut, why):
    source = request.getfixturevalue(name)
    path = next(source.rglob(f"{name}_annotation.txt"))
    lines = path.read_text().splitlines(keepends=True)
    last = lines[-1].split(",")[0]
    kept = [line for line in lines if cut is not None or line.split(",")[0] != last]
    path.write_text("".join(kept)[:cut])
    with pytest.raises(ValueError, match=why):
        convert(f"{name}_sentences", source, tmp_path / "out")
    convert(f"{name}_sentences", source, tmp_path / "out", "--skip-invalid")
    assert any(why in entry["why"] for entry in left_out(tmp_path / "out"))


def test_a_missing_json_of_a_split_is_missed(rvos, tmp_path):
    (rvos / "meta_expressions" / "test" / "meta_expressions.json").unlink()
    with pytest.raises(ValueError, match="test/meta_expressions.json: does not exist, but the frames of its split do"):
        convert("refer_youtube_vos", rvos, tmp_path / "out")
    convert("refer_youtube_vos", rvos, tmp_path / "out", "--split", "train")  # nobody asked for it


def test_a_video_that_no_sentence_describes_is_missed(rvos, tmp_path):
    edit_meta(rvos, lambda videos: videos.pop(next(iter(videos))))
    with pytest.raises(ValueError, match="train_000000: these frames belong to no video in"):
        convert("refer_youtube_vos", rvos, tmp_path / "out")


@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_missing_mask_is_missed(rvos, tmp_path, number):
    folder = next((rvos / "train" / "Annotations").iterdir())
    path = sorted(folder.iterdir())[number]
    path.unlink()
    with pytest.raises(ValueError, match=f"no mask of the frames .*{path.stem}.* multiple of 2"):
        convert("refer_youtube_vos", rvos, tmp_path / "out")


def test_masks_that_are_no_numbers_are_refused_in_h5(a2d, tmp_path):
    path = next(a2d.rglob("*.h5"))
    with h5py.File(path, "a") as file:
        shape = file["reMask"].shape
        del file["reMask"]
        file["reMask"] = np.full(shape, np.nan)
    with pytest.raises(ValueError, match="reMask holds values that are no numbers"):
        convert("a2d_sentences", a2d, tmp_path / "out")


def test_masks_that_are_no_numbers_are_refused_in_mat(jhmdb, tmp_path):
    path = next(jhmdb.rglob("*.mat"))
    shape = scipy.io.loadmat(path)["part_mask"].shape
    scipy.io.savemat(path, {"part_mask": np.full(shape, np.nan)})
    with pytest.raises(ValueError, match="part_mask holds values that are no numbers"):
        convert("jhmdb_sentences", jhmdb, tmp_path / "out")


def test_mevis_without_its_anno_ids(tmp_path):
    write_mevis(tmp_path / "raw", {"train": 1}, seed=2)
    path = tmp_path / "raw" / "train" / "meta_expressions.json"
    path.write_text(path.read_text().replace("anno_id", "anno"))
    with pytest.raises(ValueError, match="no expression has an anno_id, but .*mask_dict.json holds masks"):
        convert("mevis", tmp_path / "raw", tmp_path / "out")


# Damaged and hostile files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,b\nx,\xff\n", "line 2: not UTF-8 text .byte 0xff"),
        (b'a,b\nx,"y\nz,w\n', "line 2: (not a row of csv|the last line has no|the row spans)"),
        (b"a,b\nx," + b"y" * 200_000 + b"\n", "line 2: not a row of csv: field larger"),
        (b"a,b\nx,y", "line 2: the last line has no line break"),
        (b"a,b\nx\n", "line 2: 1 fields, expected 2 .a,b."),
        (b"c,d\n", "line 1: the header is 'c,d', expected 'a,b'"),
        (b"", "line 1: the header is '', expected 'a,b'"),
        (b"a,b\n" + b"x" * 2_000_000 + b"\n", "line 2: "),
    ],
)
def test_a_wrong_csv_is_named_in_few_words(tmp_path, content, why):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.csv, {why}") as raised:
        list(read_csv(tmp_path / "a.csv", Problems(), ["a", "b"]))
    assert len(str(raised.value)) - len(str(tmp_path)) < 260


def test_a_right_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b\r\nx,"y, z"\r\nv,w\r\n')
    assert list(read_csv(tmp_path / "a.csv", Problems(), ["a", "b"])) == [(2, ["x", "y, z"]), (3, ["v", "w"])]
    assert read_text(tmp_path / "a.csv").startswith("a,b")


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": 1, "a": 2}', "{", "\0", '{"a": ' + "9" * 5000 + "}"])
def test_a_wrong_json_is_named_in_few_words(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match="a.json: not json, or not an object") as raised:
        read_json(tmp_path / "a.json", "an object")
    assert len(str(raised.value)) - len(str(tmp_path)) < 200


@pytest.mark.slow
def test_a_picture_that_is_a_bomb(rvos, tmp_path):
    path = next(rvos.rglob("00000.jpg"))
    Image.new("1", (40_000, 10_000)).save(path, "png")
    with pytest.raises(ValueError, match="00000.jpg: cannot be decoded.*exceeds limit"):
        convert("refer_youtube_vos", rvos, tmp_path / "out")


def write_h5_bomb(path):
    """A small file of declared 16 GB."""
    with h5py.File(path, "w") as file:
        file["instance"] = np.arange(2)
        file.create_dataset("reMask", (2, 64, 1 << 27), "u1", chunks=(1, 64, 1 << 20), compression="gzip", fillvalue=1)


def write_h5_link(path):
    path.with_name("secret.bin").write_bytes(bytes(64 * 64))
    with h5py.File(path, "w") as file:
        file["instance"] = np.arange(1)
        file.create_dataset("reMask", (64, 64), "u1", external=[(str(path.with_name("secret.bin")), 0, 64 * 64)])


def write_h5_external_link(path):
    with h5py.File(path.with_suffix(".other"), "w") as file:
        file["reMask"] = np.ones((64, 64), np.uint8)
    with h5py.File(path, "w") as file:
        file["instance"] = np.arange(1)
        file["reMask"] = h5py.ExternalLink(path.with_suffix(".other").name, "/reMask")


@pytest.mark.parametrize("write", [write_h5_bomb, write_h5_link, write_h5_external_link])
def test_h5_files_that_are_bombs_or_lead_elsewhere(a2d, tmp_path, write):
    path = next(a2d.rglob("*.h5"))
    write(path)
    with pytest.raises(ValueError, match=f"{path.name}: (reMask has the shape|cannot read 'instance' and 'reMask')"):
        convert("a2d_sentences", a2d, tmp_path / "out")


@pytest.mark.slow
def test_a_mat_file_that_is_a_bomb_takes_no_memory(jhmdb, tmp_path):
    """Zeros that deflate to little, of a shape that is not the frames': refused by its header."""
    path = next(jhmdb.rglob("*.mat"))
    scipy.io.savemat(path, {"part_mask": np.zeros((64, 64, 125_000), np.uint8)}, do_compression=True)
    program = Path(__file__).parent / "programs" / "convert_with_little_memory.py"
    result = subprocess.run(
        [sys.executable, program, "jhmdb_sentences", jhmdb, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2, result.stderr[-2000:]
    assert result.stderr.splitlines()[-1].startswith("cvls convert: error: ")
    assert "125000 masks for 8 frames" in result.stderr
