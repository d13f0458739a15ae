"""`cvls export`: the graph in bare onnxruntime and the graph of torch.export against the model itself."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import cvls
from factories import tiny_config
from modeling_cvls import CVLSModel

pytest.importorskip("onnxscript", reason="onnx, onnxscript and onnxruntime are not installed (the extra `export`)")
pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are not installed (the extra `export`)")
exporting = pytest.importorskip("modeling_cvls.export", reason="this version of transformers has no exporters")

# clips, frames, sentences, words, height, width; the graphs are traced at 2, 3, 5, 6, 64, 96
SHAPES = [(1, 1, 1, 1, 64, 64), (1, 2, 3, 8, 64, 160), (2, 5, 1, 4, 128, 64), (1, 7, 6, 16, 96, 96)]
SIZE = (64, 96)
SHAPES_OF_ONE_SIZE = [(1, 1, 1, 1, *SIZE), (1, 7, 6, 16, *SIZE), (2, 2, 1, 4, *SIZE)]

BARE = """
import sys
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for path in sys.argv[2:]:
    with np.load(path) as inputs:
        outputs = session.run(None, dict(inputs))
    np.savez(path, **{output.name: value for output, value in zip(session.get_outputs(), outputs)})
assert not {"torch", "transformers", "modeling_cvls"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model and the folder it is saved in."""
    torch.manual_seed(0)
    model = CVLSModel(tiny_config(num_fusion_layers=1)).eval()
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return model, folder


def processed(processor, height: int, width: int) -> dict[str, torch.Tensor]:
    """What the processor makes of two clips of this size that differ in their numbers of frames and sentences."""
    clips = [np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), np.uint8) for frames in (2, 3)]
    text = [["the red circle", "the small square moving left"], ["a square"]]
    return dict(processor(videos=clips, text=text, size={"shortest_edge": height, "longest_edge": width}))


def cases(model, shapes) -> list[tuple[dict, dict]]:
    """[(inputs, outputs of the model)], one per shape; sentences end after 1, 2, 3 ... words, and the last clip has a
    frame and a sentence less than the others."""
    generator = torch.Generator().manual_seed(1)
    cases = []
    for clips, frames, sentences, words, height, width in shapes:
        ends = torch.arange(sentences)[:, None] % words
        inputs = {
            "pixel_values_videos": torch.randn(clips, frames, 3, height, width, generator=generator),
            "frame_mask": torch.ones(clips, frames, dtype=torch.bool),
            "frame_sizes": torch.tensor([[height, width]] * clips),
            "input_ids": torch.randint(2, 17, (clips, sentences, words), generator=generator),
            "attention_mask": (torch.arange(words) <= ends).long().repeat(clips, 1, 1),
            "sentence_mask": torch.ones(clips, sentences, dtype=torch.bool),
        }
        inputs["frame_mask"][-1, max(1, frames - 1) :] = False
        inputs["sentence_mask"][-1, max(1, sentences - 1) :] = False
        inputs["attention_mask"][~inputs["sentence_mask"]] = 0
        with torch.no_grad():
            cases.append((inputs, {name: value.numpy() for name, value in model(**inputs).items()}))
    return cases


def assert_close(outputs: dict, expected: dict) -> None:
    assert set(outputs) == set(expected) == {"mask_logits", "presence_logits", "similarity"}
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_sample_inputs_are_named_as_the_processor_names_them(make_model, processor):
    sample = exporting.sample_inputs(make_model(), clips=2, frames=3, sentences=2, words=4, size=(96, 96))
    given = processed(processor, 96, 96)
    assert list(sample) == list(given)
    for name, value in given.items():
        assert sample[name].dtype == value.dtype and sample[name].ndim == value.ndim, name


@pytest.mark.slow
def test_onnx_in_bare_onnxruntime(model, processor, tmp_path, capsys):
    model, folder = model
    graph = tmp_path / "new" / "model.onnx"
    cvls.main(["export", "--model", str(folder), "--format", "onnx", "--output", str(graph)])
    assert f"{graph} written" in capsys.readouterr().out
    assert [path.name for path in graph.parent.iterdir()] == ["model.onnx"]  # the weights are inside

    given, expected = zip(*cases(model, SHAPES), strict=True)
    padded = processed(processor, 96, 96)
    with torch.no_grad():
        of_padded = {name: value.numpy() for name, value in model(**padded).items()}
    given, expected = [*given, padded], [*expected, of_padded]
    # and once more, as if the second clip had padding pixels
    smaller = {**padded, "frame_sizes": torch.tensor([[96, 96], [64, 96]])}
    given, expected = [*given, smaller], [*expected, {name: value.copy() for name, value in of_padded.items()}]
    for value in expected[-1].values():
        value[1] = np.nan
    files = [tmp_path / f"{index}.npz" for index in range(len(given))]
    for path, inputs in zip(files, given, strict=True):
        np.savez(path, **{name: value.numpy() for name, value in inputs.items()})
    subprocess.run([sys.executable, "-c", BARE, graph, *files], check=True, cwd=tmp_path)
    for path, of_model in zip(files, expected, strict=True):
        assert np.nanstd(of_model["mask_logits"]) > 0.01  # there is something to compare
        with np.load(path) as outputs:
            assert_close(outputs, of_model)


@pytest.mark.slow
def test_torch_export_of_one_frame_size(model, processor, tmp_path):
    model, folder = model
    graph = tmp_path / "model.pt2"
    size = [str(side) for side in SIZE]
    cvls.main(["export", "--model", str(folder), "--format", "torch_export", "--output", str(graph), "--size", *size])
    command = "import sys, torch; torch.export.load(sys.argv[1]); assert 'modeling_cvls' not in sys.modules"
    subprocess.run([sys.executable, "-c", command, graph], check=True, cwd=tmp_path)
    module = torch.export.load(graph).module()
    given = processed(processor, *SIZE)
    with torch.no_grad():
        of_given = {name: value.numpy() for name, value in model(**given).items()}
    for inputs, expected in [*cases(model, SHAPES_OF_ONE_SIZE), (given, of_given)]:
        with torch.no_grad():
            outputs = module(**inputs)
        assert_close({name: value.numpy() for name, value in outputs.items()}, expected)
    with pytest.raises(AssertionError, match="Guard failed"):
        module(**{**inputs, "pixel_values_videos": torch.zeros(2, 2, 3, 64, 64)})
    with pytest.raises(RuntimeError, match="clips of one size without padding"):
        module(**{**inputs, "frame_sizes": torch.tensor([SIZE, (64, 64)])})


@pytest.mark.parametrize("carry_state", [True, False])
def test_a_state_that_is_left_out_is_named(make_model, tmp_path, capsys, monkeypatch, carry_state):
    make_model(carry_state=carry_state).save_pretrained(tmp_path / "checkpoint")
    monkeypatch.setattr(exporting, "export_model", lambda *arguments: (None, 0.0))
    monkeypatch.setattr(exporting, "save_exported", lambda exported, kind, path: path.touch())
    graph = ["--format", "torch_export", "--output", str(tmp_path / "model.pt2")]
    cvls.main(["export", "--model", str(tmp_path / "checkpoint"), *graph])
    assert ("the state that goes from window to window is left out" in capsys.readouterr().out) == carry_state


@pytest.mark.parametrize(
    ("output", "model_name", "message"),
    [("model.pt2", None, "ends in .onnx"), ("model.onnx", "no/such/folder", "no/such/folder")],
)
def test_bad_input_is_named(model, tmp_path, capsys, output, model_name, message):
    with pytest.raises(SystemExit) as stopped:
        cvls.main(
            ["export", "--model", model_name or str(model[1]), "--format", "onnx", "--output", str(tmp_path / output)]
        )
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
