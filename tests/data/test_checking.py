"""Every fault of a row is found before a training; a page shows what the rows hold."""

import base64
import io
import re

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from pycocotools import mask as coco_mask

from factories import tiny_tokenizer
from modeling_cvls.cli import check as check_command
from modeling_cvls.cli import show as show_command
from modeling_cvls.data import FEATURES, ClipSampler, check_rows, find_faults, video_of
from modeling_cvls.data.checking import row_faults
from modeling_cvls.data.reading import check_image, inspect_image
from modeling_cvls.data.review import review_page
from modeling_cvls.images_cvls import decode_image


def encoded(format, height=32, width=48, **options):
    buffer = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(picture if format == "jpeg" else 0 * picture).save(buffer, format, **options)
    return buffer.getvalue()


def png(height=32, width=48):
    return encoded("png", height, width)


def counts(height=32, width=48):
    mask = np.zeros((height, width), np.uint8)
    mask[4:20, 6:30] = 1
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def make_row(name="a", **changes):
    return {
        "video_id": name,
        "video": None,
        "frames": [{"bytes": png(), "path": f"{n}.png"} for n in range(3)],
        "num_frames": 3,
        "height": 32,
        "width": 48,
        "fps": None,
        "annotated_frames": [0, 2],
        "evaluation_frames": None,
        "instance_ids": ["7", "8"],
        "masks": [[counts(), None], [counts(), counts()]],
        "sentences": [
            {"sentence_id": f"{name}/0", "text": "the red <circle>", "instances": [0], "kind": None},
            {"sentence_id": f"{name}/1", "text": "a square", "instances": [], "kind": None},
        ],
        **changes,
    }


def sentence(**changes):
    return [{**make_row()["sentences"][0], **changes}]


WRONG = {
    "no video": ({"frames": None}, "the row has neither video nor frames"),
    "broken frame": ({"frames": [{"bytes": b"x", "path": None}] * 3}, "frame 0 cannot be decoded"),
    "other sizes": (
        {"frames": [{"bytes": png(*size), "path": None} for size in ((32, 48), (32, 48), (8, 8))]},
        "its frames have 2 sizes",
    ),
    "broken video": ({"frames": None, "video": {"bytes": b"x", "path": None}}, "cannot be decoded"),
    "url": ({"frames": None, "video": {"bytes": None, "path": "http://a/b.mp4"}}, "is at http://a/b.mp4; download it"),
    "num_frames": ({"num_frames": 4}, "it has 3 frames of 32 x 48 .* but the row says 4 frames of 32 x 48"),
    "size": ({"height": 48, "width": 32, "masks": [], "annotated_frames": []}, "3 frames of 32 x 48.* 3 frames of 48"),
    "outside": ({"annotated_frames": [0, 3]}, "annotated_frames holds 3, but the frames are 0 to 2"),
    "order": ({"annotated_frames": [2, 0]}, "annotated_frames must ascend"),
    "evaluated": ({"evaluation_frames": [1]}, "frame 1 is to be evaluated, but is not one"),
    "masks": ({"masks": [[counts(), None]]}, "masks of 1 frames, but 2 annotated frames"),
    "instances": ({"instance_ids": ["7"]}, "frame 0 has 2 masks, but there are 1 instance_ids"),
    "ids": ({"instance_ids": ["7", "7"]}, "instance_ids holds an id twice"),
    "mask size": (
        {"masks": [["11", None], [None, None]]},
        "frame 0, instance '7': the mask has 2 pixels, the",
    ),
    "no mask": ({"masks": [["ä", None], [None, None]]}, "frame 0, instance '7': the mask is not the counts"),
    "empty": ({"sentences": sentence(text=" ")}, "sentence 'a/0' is empty"),
    "reference": ({"sentences": sentence(instances=[2])}, r"sentence 'a/0': instances \[2\] do not exist"),
    "twice": ({"sentences": sentence() * 2}, "a sentence_id stands there twice"),
    "long": ({"sentences": sentence(text="the " * 20)}, "sentence 'a/0' has 20 tokens, the model takes 16"),
    "unannotated": ({"annotated_frames": [], "masks": []}, "no frame is annotated"),
    "unsaid": ({"sentences": []}, "there is no sentence"),
}


@pytest.mark.parametrize("case", WRONG)
def test_every_fault_is_found(case):
    changes, why = WRONG[case]
    faults = list(row_faults(make_row(**changes), for_training=True, tokenizer=tiny_tokenizer()))
    assert any(re.search(why, fault) for fault in faults), faults
    assert not list(row_faults(make_row(), for_training=True, tokenizer=tiny_tokenizer()))


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "bmp", "tiff"])
def test_images_are_inspected_as_well_as_by_decoding_them(format, tmp_path):
    whole = encoded(format)
    assert inspect_image(whole) == check_image(whole) == (32, 48)
    (tmp_path / "image").write_bytes(whole)
    assert inspect_image(str(tmp_path / "image")) == (32, 48)
    for number in (10, 30, len(whole) // 3, len(whole) - 30):  # cut off anywhere, and with other bytes inside
        cases = [whole[:number]]
        if format == "png":
            cases.append(whole[:number] + bytes([255 - whole[number]]) + whole[number + 1 :])
        for content in cases:
            with pytest.raises(Exception):  # noqa: B017 (Pillow raises what it runs into)
                inspect_image(content)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_an_inspected_image_has_the_size_that_is_shown(format):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(format, exif=exif)
    assert inspect_image(turned) == check_image(turned) == decode_image(turned).size[::-1] == (48, 32)


@pytest.mark.parametrize("look", [inspect_image, check_image])
def test_pixels_that_cannot_be_read_are_found_by_inspecting(look):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 9), np.float32)).save(buffer, "tiff")
    with pytest.raises(ValueError, match="its pixels are floating-point numbers"):
        look(buffer.getvalue())
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 9), 70_000, np.int32)).save(buffer, "tiff")
    with pytest.raises(ValueError, match="32-bit integers from 70000"):
        look(buffer.getvalue())


def test_an_image_with_something_behind_its_end_is_decoded():
    whole = encoded("jpeg")
    assert inspect_image(whole + b"more") == (32, 48)
    with pytest.raises(OSError, match="truncated"):
        inspect_image(whole[: len(whole) // 2] + b"more")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def save(tmp_path, *rows):
    (tmp_path / "set").mkdir(exist_ok=True)
    Dataset.from_list(list(rows), features=FEATURES).to_parquet(tmp_path / "set" / "train.parquet")
    return str(tmp_path / "set")


@pytest.mark.slow
@pytest.mark.parametrize("num_proc", [1, 2])
def test_all_faults_are_listed_and_what_is_right_is_not_checked_again(tmp_path, cache, capsys, num_proc):
    wrong = [make_row(f"v{n}", **({"num_frames": 9} if n in (3, 8) else {})) for n in range(10)]
    folder = save(tmp_path, *wrong)
    with pytest.raises(SystemExit) as stopped:
        check_command.main([folder, "--num-proc", str(num_proc)])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert re.findall(r"video '(v\d)': it has 3 frames", printed.out) == ["v3", "v8"]
    assert "cvls check: error: 2 faults" in printed.err

    folder = save(tmp_path, *[make_row(f"v{n}") for n in range(10)])
    for text in ("train]: 10 videos are right", "train]: checked before, 10 videos are right"):
        check_command.main([folder, "--num-proc", str(num_proc)])
        assert text in capsys.readouterr().out
    check_command.main([folder, "--again"])
    assert "checked before" not in capsys.readouterr().out
    with pytest.raises(ValueError, match="--split test: .* has the splits train"):
        check_command.main([folder, "--split", "test"])


def test_rows_of_the_same_name_are_a_fault(cache):
    dataset = Dataset.from_list([make_row("a"), make_row("b"), make_row("a")], features=FEATURES)
    assert find_faults(dataset, "toy") == [("a", "2 rows have this video_id")]


def test_a_training_names_the_first_fault_and_prints_them(cache, capsys):
    rows = [make_row("right"), make_row("wrong", num_frames=9, sentences=[])]
    dataset = Dataset.from_list(rows, features=FEATURES)
    with pytest.raises(ValueError, match="^toy: 2 faults in its rows, such as video 'wrong': it has 3 .*`cvls check`"):
        check_rows(dataset, "toy")
    assert "video 'wrong': there is no sentence" in capsys.readouterr().out
    assert len(find_faults(dataset, "toy")) == 1  # for an evaluation a row needs no sentence


def test_urls_are_not_fetched_unless_asked_for():
    row = make_row(frames=None, video={"bytes": None, "path": "http://127.0.0.1:9/a.mp4"})
    with pytest.raises(ValueError, match="pass allow_urls"):
        video_of(row)
    assert video_of(row, allow_urls=True) == "http://127.0.0.1:9/a.mp4"
    with pytest.raises(ValueError, match="pass allow_urls"):
        ClipSampler(2)(row)
    assert not list(row_faults(row, allow_urls=True))


# The page -------------------------------------------------------------------------------------------------------------


def test_page_shows_frames_objects_and_sentences():
    page = review_page([make_row(name="<b>")], "A & B", columns=2)
    assert "<title>A &amp; B</title>" in page and "&lt;b&gt;" in page and "<circle>" not in page
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (2 * 7 * 48, 7 * 32)  # two frames, enlarged
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels[7 * 10, 7 * 10].max() > 40 > pixels[7 * 28, 7 * 40].max()  # inside the object, and outside
    assert pixels[7 * 10, 7 * 10].max() < 60  # a light tint: the colors that sentences name are seen
    assert re.search(r"the red &lt;circle&gt; <b [^>]*>7</b>", page) and "a square <i>no referent</i>" in page


def test_show(tmp_path, cache, capsys):
    folder = save(tmp_path, *[make_row(f"v{n}") for n in range(5)])
    show_command.main([folder, "--rows", "2", "--output", str(tmp_path / "pages" / "a.html")])
    page = (tmp_path / "pages" / "a.html").read_text()
    assert re.findall(r"<h2>(v\d)</h2>", page) == ["v0", "v2"] and "2 of 5 videos" in page
    with pytest.raises(ValueError, match="--split test"):
        show_command.main([folder, "--split", "test"])
