"""Synthetic sets in the layouts of benchmarks give back, converted, what was drawn."""

import runpy
import sys

import numpy as np
import pytest
from trees import convert

from factories import ROOT
from modeling_cvls.conversion import mevis, ref_davis17, refer_youtube_vos
from modeling_cvls.data import read_frames, read_masks
from modeling_cvls.synthetic import make_scene, render, write_mevis, write_ref_davis17, write_refer_youtube_vos
from modeling_cvls.synthetic.sentences import describe_by_annotators, describe_together, referents

# Synthetic sets -------------------------------------------------------------------------------------------------------

SPLITS = {"train": 2, "validation": 1, "heldout": 1}


@pytest.mark.parametrize(
    ("script", "write", "valid", "every"),
    [
        (refer_youtube_vos, write_refer_youtube_vos, "valid", 2),
        (ref_davis17, write_ref_davis17, "valid", 1),
        (mevis, write_mevis, "valid_u", 1),
    ],
)
def test_synthetic_trees_give_back_what_was_drawn(tmp_path, script, write, valid, every):
    written = write(tmp_path / "raw", SPLITS, seed=3)
    splits = convert(script, tmp_path / "raw", tmp_path / "out")
    assert set(splits) == {"train", valid, "heldout"}
    assert written == {
        "videos": sum(map(len, splits.values())),
        "sentences": sum(len(row["sentences"]) for rows in splits.values() for row in rows),
    }
    for split, count in SPLITS.items():
        rows = splits[valid if split == "validation" else split]
        assert len(rows) == count
        for index, row in enumerate(rows):
            assert row["video_id"] == f"{split}_{index:06d}"
            scene, sentences = make_scene(split, index, seed=3)
            frames, masks = render(scene)
            difference = np.abs(read_frames(row, range(8)).astype(int) - frames)
            assert difference.mean() < 2 and difference.max() < 20
            read, annotated, _ = read_masks(row, range(8))
            assert annotated.tolist() == [t % every == 0 for t in range(8)]
            # MeViS: only what a sentence refers to; ids count from 1 in palette images, through the split in MeViS.
            first = 1 if script is not mevis else min(map(int, row["instance_ids"]))
            objects = [int(name) - first for name in row["instance_ids"]]
            if script is not mevis:
                assert objects == sorted(set(np.flatnonzero(masks[::every].any(axis=(0, 2, 3)))))
            else:
                shift = next(  # the first object may not be spoken of
                    s for s in range(len(scene.objects)) if np.array_equal(read[:, 0], masks[:, s])
                )
                objects = [number + shift for number in objects]
            np.testing.assert_array_equal(read[annotated], masks[annotated][:, objects])
            said = [(s["text"], tuple(objects[m] for m in s["instances"])) for s in row["sentences"]]
            true = [(s.text, s.instances) for s in sentences]
            if script is refer_youtube_vos:
                assert said == [pair for pair in true if pair[1]]
            elif script is mevis:
                assert said[: len(true)] == true and all(len(instances) > 1 for _, instances in said[len(true) :])


def test_annotators_describe_each_object_four_times(tmp_path):
    write_ref_davis17(tmp_path / "raw", {"test": 3}, seed=1)
    for row in convert(ref_davis17, tmp_path / "raw", tmp_path / "out")["test"]:
        referred = [m for sentence in row["sentences"] for m in sentence["instances"]]
        assert len(referred) >= 4 and referred == [m for m in sorted(set(referred)) for _ in range(4)]
        assert [sentence["sentence_id"].split("/")[1] for sentence in row["sentences"]] == [
            str(n) for n in range(len(referred))
        ]
    wordings = []
    for index in range(20):
        scene, _ = make_scene("train", index)
        sentences = describe_by_annotators(scene, np.random.default_rng(index))
        assert all(referents(scene, s.predicate) == list(s.instances) for s in sentences)
        wordings += [len({s.text for s in sentences[n : n + 4]}) for n in range(0, len(sentences), 4)]
    assert np.mean(wordings) > 3.5


def test_sentences_with_several_referents_are_true_of_all_of_them_and_of_no_other():
    words = {"circles": "circle", "squares": "square", "triangles": "triangle", "crosses": "cross"}
    texts = set()
    for index in range(150):
        scene, _ = make_scene("train", index)
        for sentence in describe_together(scene, np.random.default_rng(index)):
            texts.add(sentence.text)
            value = sentence.text.removeprefix("all ").removesuffix(" objects").split()[-1]
            value = {"place": "still"}.get(value, words.get(value, value))
            value = "still" if "standing" in sentence.text else "circling" if "circles" == value else value
            value = "circling" if sentence.text.endswith("in circles") else value
            fitting = [m for m, o in enumerate(scene.objects) if value in (o.size, o.color, o.shape, o.motion)]
            assert list(sentence.instances) == fitting and len(fitting) > 1
    assert len(texts) == 18  # one for each value of each attribute


def test_synthetic_trees_are_the_same_for_the_same_seed(tmp_path):
    for write in (write_refer_youtube_vos, write_ref_davis17, write_mevis):
        trees = []
        for number, num_proc in enumerate((1, 2)):
            root = tmp_path / f"{write.__name__}_{number}"
            write(root, {"train": 2, "test": 1}, seed=4, num_proc=num_proc)
            trees.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
        assert trees[0] == trees[1]


@pytest.mark.parametrize("write", [write_refer_youtube_vos, write_ref_davis17, write_mevis])
def test_bad_arguments_say_what_is_wrong(tmp_path, write):
    with pytest.raises(ValueError, match="unknown split 'valid'"):
        write(tmp_path / "a", {"valid": 1})
    with pytest.raises(ValueError, match="nothing to write"):
        write(tmp_path / "a", {"train": 0})
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write(tmp_path / "a", {"train": 1})
    if write is write_refer_youtube_vos:
        with pytest.raises(ValueError, match="annotate_every must be at least 1, got 0"):
            write(tmp_path / "b", {"train": 1}, annotate_every=0)


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        ("jhmdb", "puppet_mask/*/validation_000000/puppet_mask.mat"),
        ("refer_youtube_vos", "valid/Annotations/validation_000000/00006.png"),
        ("ref_davis17", "valid/Annotations/validation_000000/00007.png"),
        ("mevis", "valid_u/mask_dict.json"),
    ],
)
def test_make_synthetic(tmp_path, monkeypatch, capsys, layout, path):
    arguments = ["--output", str(tmp_path), "--layout", layout, "--validation", "1", "--num-proc", "1"]
    monkeypatch.setattr(sys, "argv", ["make_synthetic.py", *arguments])
    runpy.run_path(str(ROOT / "scripts" / "make_synthetic.py"), run_name="__main__")
    assert "Wrote 1 videos (1 validation)" in capsys.readouterr().out
    assert len(list(tmp_path.glob(path))) == 1
