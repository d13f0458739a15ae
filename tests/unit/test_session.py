"""Sessions: what is asked of kept features is what the pipeline gives; caches, saving, refusals."""

import inspect
import json
from collections import Counter

import av
import numpy as np
import pytest
import torch

from factories import NOISE, SENTENCES, tiny_config
from modeling_cvls import CVLSModel, CVLSPipeline, CVLSProcessor, FrameReader
from numbered_videos import without_parts, write_numbered


def check_same(results, expected, same=1.0):
    for one, other in zip(results, expected, strict=True):
        assert (one["sentence"], one["frame_indices"]) == (other["sentence"], other["frame_indices"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5 if same == 1 else 1e-2)
        assert (one["masks"] == other["masks"]).mean() >= same
        assert 0.05 < other["masks"].mean() < 0.95


def count_frames(model):
    """Counts the frames that the backbone sees, from now on."""
    seen = Counter()
    model.vision.backbone.register_forward_pre_hook(lambda module, args: seen.update(frames=len(args[0])))
    return seen


@pytest.mark.parametrize(
    ("windows", "ask"),
    [
        ({}, {}),
        ({}, {"batch_size": 2}),
        ({"window": 4, "overlap": 3}, {"batch_size": 3}),
        ({"window": 5, "overlap": 0}, {"frame_indices": [9, 3, 4, 3]}),
        ({"window": 4, "overlap": 3}, {"frame_indices": [12]}),
        ({"window": 20}, {}),
    ],
)
def test_answers_are_those_of_the_pipeline_and_encode_nothing(segmenter, windows, ask):
    expected = segmenter(NOISE, SENTENCES, **windows, **ask)
    seen = count_frames(segmenter.model)
    session = segmenter.open(NOISE, dtype=None, **windows)
    assert seen["frames"] == 13
    check_same(session.ask(SENTENCES, **ask), expected)
    (alone,) = session.ask(SENTENCES[1], **ask)
    check_same([alone], expected[1:])
    assert seen["frames"] == 13


def test_stream_and_options(segmenter):
    options = {"threshold": 0.6, "presence_threshold": 0.1, "exclusive": [[0, 1]], "mask_format": "rle"}
    expected = list(segmenter.stream(NOISE, SENTENCES, video_fps=5, start=0.4, **options, return_frames=True))
    with segmenter.open(NOISE, dtype=None, video_fps=5, start=0.4) as session:
        results = list(session.stream(SENTENCES, **options, return_frames=True))
        assert len(results) == len(session) == 11
    for one, other in zip(results, expected, strict=True):
        assert {**one, "frame": 0, "scores": 0, "frame_scores": 0} == {
            **other,
            "frame": 0,
            "scores": 0,
            "frame_scores": 0,
        }
        np.testing.assert_array_equal(one["frame"], other["frame"])
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    with pytest.raises(ValueError, match="this session is closed"):
        session.ask(SENTENCES)


@pytest.mark.parametrize(
    ("options", "on_disk", "in_memory"),
    [
        ({"cache": "cpu"}, 0, True),
        ({"cache": "device"}, 0, True),
        ({"cache": "disk"}, 4, False),
        ({"cache": "cpu", "max_memory": "100 KB"}, 2, True),
        ({"cache": "cpu", "max_memory": 0}, 4, False),
        ({"cache": "cpu", "max_memory": None}, 0, True),
    ],
)
def test_features_lie_where_they_are_told_to(segmenter, options, on_disk, in_memory):
    expected = segmenter(NOISE, SENTENCES)
    session = segmenter.open(NOISE, **options)
    store = session.store
    assert store.num_on_disk == on_disk and (session.num_bytes_in_memory > 0) == in_memory
    # pixel features of 13 frames (16, 12, 16) and tokens (6, 8, 16) of four windows of 4, in half precision
    if not on_disk:
        assert session.num_bytes_in_memory == 2 * (13 * 16 * 16 * 16 + 4 * 4 * 8 * 8 * 16)
    check_same(session.ask(SENTENCES), expected, same=0.995)
    folder = store.folder
    assert (folder is not None and len(list(folder.iterdir())) == on_disk) if on_disk else folder is None
    session.close()
    assert session.num_bytes_in_memory == 0 and not (folder and folder.exists())


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["cpu", "disk"])
def test_a_saved_session_comes_back(segmenter, tmp_path, cache):
    path = tmp_path / "clip.features"
    session = segmenter.open(NOISE, cache=cache, video_fps=5)
    expected = session.ask(SENTENCES)
    session.save(path)
    session.close()
    assert {file.suffix for file in path.iterdir()} == {".json", ".safetensors"}
    assert [file.name for file in tmp_path.iterdir()] == ["clip.features"]
    for options in ({}, {"cache": "disk"}, {"max_memory": "60KB"}):
        seen = count_frames(segmenter.model)
        opened = segmenter.open(path, **options)
        check_same(opened.ask(SENTENCES), expected)
        times = [result["time"] for result in opened.stream(SENTENCES)]
        np.testing.assert_allclose(times, np.arange(13) / 5)
        assert not seen
        opened.save(tmp_path / "again")
        check_same(segmenter.open(str(tmp_path / "again")).ask(SENTENCES), expected)
        opened.close()
        assert (path / "session.json").is_file() and len(list(path.iterdir())) == 5
        for file in (tmp_path / "again").iterdir():
            file.unlink()
        (tmp_path / "again").rmdir()
    with pytest.raises(FileExistsError, match="give the session a new name"):
        opened.save(path)
    with pytest.raises(ValueError, match="holds features and no frames"):
        segmenter.open(path).stream(SENTENCES, return_frames=True)
    with pytest.raises(ValueError, match="is a saved session, whose frames and windows are chosen"):
        segmenter.open(path, window=3)


@pytest.mark.slow
def test_a_compiled_model_has_the_same_sessions(segmenter, processor, tmp_path):
    expected = segmenter(NOISE, SENTENCES)
    compiled = CVLSPipeline(model=segmenter.model, processor=processor, device="cpu", presence_threshold=0)
    compiled.model = torch.compile(segmenter.model, backend="eager")
    with compiled.open(NOISE, dtype=None) as session:
        session.save(tmp_path / "clip.features")
    check_same(segmenter.open(tmp_path / "clip.features").ask(SENTENCES), expected)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.ao.quantization, "quantize_dynamic"), reason="this torch has no quantization")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantized_model_has_sessions_of_its_own(segmenter, processor, tmp_path):
    own = CVLSPipeline(model=segmenter.model, processor=processor, device="cpu", presence_threshold=0)
    own.model = torch.ao.quantization.quantize_dynamic(segmenter.model, {torch.nn.Linear}, dtype=torch.qint8)
    own.open(NOISE, dtype=None).save(tmp_path / "clip.features")
    check_same(own.open(tmp_path / "clip.features").ask(SENTENCES), own(NOISE, SENTENCES))
    with pytest.raises(ValueError, match="has other weights"):
        segmenter.open(tmp_path / "clip.features")


@pytest.mark.slow
def test_a_saved_session_is_refused_by_another_checkpoint(segmenter, processor, tmp_path):
    path = tmp_path / "clip.features"
    segmenter.model.name_or_path = "somebody/one"
    segmenter.open(NOISE).save(path)
    torch.manual_seed(1)
    other = CVLSPipeline(model=CVLSModel(tiny_config()).eval(), processor=processor, device="cpu")
    other.model.name_or_path = "somebody/another"
    with pytest.raises(ValueError, match="of the checkpoint 'somebody/one' .*, 'somebody/another', has other weights"):
        other.open(path)
    segmenter.model.save_pretrained(tmp_path / "checkpoint")
    same = CVLSPipeline(model=CVLSModel.from_pretrained(tmp_path / "checkpoint"), processor=processor, device="cpu")
    assert len(same.open(path).ask(SENTENCES)) == 2  # the weights count, not the name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: (path / "session.json").write_text("{"), ValueError, "session.json is damaged"),
        (lambda path: (path / "session.json").write_text("{}"), ValueError, "session.json is damaged"),
        (
            lambda path: (path / "features-000001.safetensors").unlink(),
            FileNotFoundError,
            "000001.safetensors is missing",
        ),
        (
            lambda path: (path / "features-000001.safetensors").write_bytes(b"x" * 9),
            ValueError,
            "000001.safetensors is dam",
        ),
        (
            lambda path: (path / "session.json").write_text(
                json.dumps({**json.loads((path / "session.json").read_text()), "format": "cvls-session-9"})
            ),
            ValueError,
            "of the format 'cvls-session-9'",
        ),
    ],
)
def test_a_damaged_session_is_named(segmenter, tmp_path, damage, error, message):
    path = tmp_path / "clip.features"
    segmenter.open(NOISE).save(path)
    damage(path)
    with pytest.raises(error, match=message):
        segmenter.open(path)


def test_encoding_goes_on_where_it_was_interrupted(segmenter, monkeypatch):
    expected = segmenter(NOISE, SENTENCES)
    frames, left = FrameReader.frames, [10]

    def interrupted(self, indices):
        for picture in frames(self, indices):
            if not left[0]:
                left[0] = -1
                raise KeyboardInterrupt
            left[0] -= 1
            yield picture

    monkeypatch.setattr(FrameReader, "frames", interrupted)
    session = segmenter.processor.init_video_session(NOISE, dtype=None)
    session.bind(segmenter.model)
    with pytest.raises(KeyboardInterrupt):
        session.encode()
    seen = count_frames(segmenter.model)
    session.encode()
    assert seen["frames"] < 13
    check_same(session.ask(SENTENCES, presence_threshold=0), expected)


@pytest.mark.slow
def test_half_precision_that_does_not_hold_the_features_is_an_error(segmenter):
    with torch.no_grad():
        segmenter.model.vision.norm.weight.fill_(1e6)
    with pytest.raises(ValueError, match="token_features holds numbers that torch.float16 cannot hold.*dtype=None"):
        segmenter.open(NOISE)
    segmenter.open(NOISE, dtype=torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        ("open", {"cache": "gpu"}, ValueError, "cache is one of 'cpu', 'device', 'disk', not 'gpu'"),
        ("open", {"dtype": torch.int8}, ValueError, "dtype is a floating point type"),
        (
            "open",
            {"max_memory": "much"},
            ValueError,
            "max_memory is a number of bytes or text such as '4GB', not 'much'",
        ),
        ("open", {"max_memory": "-1GB"}, ValueError, "max_memory"),
        ("open", {"frame_indices": [1]}, TypeError, "unknown argument frame_indices for opening"),
        ("open", {"start": 1}, ValueError, "give video_fps"),
        ("open", {"overlap": 4}, ValueError, "overlap is a number from 0 to below the window of 4 frames"),
        ("ask", {"treshold": 1}, TypeError, "unknown argument treshold"),
        ("ask", {"threshold": 2}, ValueError, "threshold is a probability"),
        ("ask", {"frame_indices": []}, ValueError, "at least one frame number"),
        ("ask", {"frame_indices": [3, 13]}, ValueError, "holds 13, which is none of the 13 frames .*, 0 to 12"),
        ("ask", {"sentences": [" "]}, ValueError, "sentence 0 of video 0 is empty"),
        ("ask", {"sentences": []}, ValueError, "no sentence"),
        ("ask", {"batch_size": 0}, ValueError, "batch_size is a number of at least 1"),
    ],
)
def test_bad_arguments(segmenter, function, arguments, error, message):
    if function == "open":
        with pytest.raises(error, match=message):
            segmenter.open(NOISE, **arguments)
    else:
        session = segmenter.open(NOISE)
        with pytest.raises(error, match=message):
            session.ask(**{"sentences": "the circle", **arguments})


def test_the_names_of_transformers_video_models(segmenter):
    """Written as for Sam3Video."""
    model, processor = segmenter.model, segmenter.processor
    session = processor.init_video_session(video=NOISE, inference_device="cpu", dtype=torch.float32)
    session = processor.add_text_prompt(inference_session=session, text=SENTENCES)
    session = processor.add_text_prompt(session, SENTENCES[0])
    assert session.prompts == SENTENCES  # one that is there already counts once
    found = {}
    for outputs in model.propagate_in_video_iterator(inference_session=session):
        found[outputs.frame_idx] = processor.postprocess_outputs(session, outputs, presence_threshold=0)
    for number, expected in enumerate(segmenter.stream(NOISE, SENTENCES)):
        result = found[number]
        assert result["object_ids"].tolist() == [0, 1]
        np.testing.assert_array_equal(result["masks"].numpy(), expected["masks"])
        np.testing.assert_allclose(result["scores"].numpy(), expected["frame_scores"], atol=1e-5)
        assert result["prompt_to_obj_ids"] == {SENTENCES[0]: [0], SENTENCES[1]: [1]}
        for mask, box in zip(result["masks"].numpy(), result["boxes"].tolist(), strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    seen = count_frames(model)
    some = list(model.propagate_in_video_iterator(session, start_frame_idx=5, max_frame_num_to_track=3))
    assert [outputs.frame_idx for outputs in some] == [5, 6, 7] and not seen
    assert not processor.postprocess_outputs(session, some[0], presence_threshold=1)["object_ids"].numel()
    with pytest.raises(ValueError, match="there is no prompt yet"):
        next(model.propagate_in_video_iterator(processor.init_video_session(NOISE)))
    with pytest.raises(ValueError, match="features of this session are those of another model"):
        session.bind(CVLSModel(tiny_config()))
    with pytest.raises(ValueError, match="has no model yet"):
        next(processor.init_video_session(NOISE).stream("the circle"))


def test_functions_take_the_arguments_of_transformers_video_models():
    """By name, and in the same places: those of the installed version."""
    models = pytest.importorskip("transformers.models.sam3_video.modeling_sam3_video")
    processing = pytest.importorskip("transformers.models.sam3_video.processing_sam3_video")
    own, other = (CVLSModel, CVLSProcessor), (models.Sam3VideoModel, processing.Sam3VideoProcessor)
    names = ["propagate_in_video_iterator"], ["init_video_session", "add_text_prompt", "postprocess_outputs"]
    for ours, theirs, functions in zip(own, other, names, strict=True):
        for name in functions:
            found, expected = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (ours, theirs))
            assert found[: len(expected)] == expected, name


def test_code_for_a_video_model_of_transformers(segmenter):
    """Every argument that such code gives, other prompts on the same video, and the way back."""
    model, processor = segmenter.model, segmenter.processor
    session = processor.init_video_session(
        video=list(NOISE),
        inference_device="cpu",
        inference_state_device=None,
        processing_device="cpu",
        video_storage_device="cpu",
        max_vision_features_cache_size=1,
        dtype=torch.bfloat16,
    )
    assert (session.num_frames, session.video_height, session.video_width) == (13, 48, 64)
    session = processor.add_text_prompt(session, SENTENCES[0])
    forward = {}
    for outputs in model.propagate_in_video_iterator(
        inference_session=session, start_frame_idx=0, max_frame_num_to_track=None, reverse=False, show_progress_bar=True
    ):
        forward[outputs["frame_idx"]] = outputs
        processor.postprocess_outputs(session, outputs, original_sizes=[[48, 64]])
    assert list(forward) == list(range(13))
    backward = list(model.propagate_in_video_iterator(session, 11, 9, reverse=True))
    assert [outputs.frame_idx for outputs in backward] == list(range(10, 1, -1))
    for outputs in backward:
        torch.testing.assert_close(outputs.mask_logits, forward[outputs.frame_idx].mask_logits, rtol=1e-4, atol=1e-4)
    assert len(list(model.propagate_in_video_iterator(session, 13, reverse=True))) == 13
    assert not list(model.propagate_in_video_iterator(session, reverse=True))  # nothing is before the first frame
    seen = count_frames(model)
    session.reset_state()
    session = processor.add_text_prompt(session, SENTENCES[1])
    (first, *_) = model.propagate_in_video_iterator(session)
    assert len(first.mask_logits) == 1 and not seen
    with pytest.raises(ValueError, match=r"give a video: .* `pipeline\(...\).live\(sentences\)`"):
        processor.init_video_session(inference_device="cpu", dtype=torch.bfloat16)


def test_frames_lost_on_the_way_are_named_and_a_saved_session_knows_them(segmenter, tmp_path):
    content = write_numbered(tmp_path / "clip.ts", 12).read_bytes()
    (tmp_path / "clip.ts").write_bytes(without_parts(content, 0.5, 3))
    with pytest.warns(UserWarning, match=r"clip\.ts is damaged .*: .*it lacks \d frames? at 0\.\d\d s"):
        (expected,) = segmenter(tmp_path / "clip.ts", "the red circle")
    gaps = FrameReader(tmp_path / "clip.ts", on_damage="keep").gaps
    assert gaps and expected["gaps"] == gaps
    session = segmenter.open(tmp_path / "clip.ts", dtype=None)
    with pytest.warns(UserWarning, match="it lacks"):
        assert session.ask("the red circle")[0]["gaps"] == gaps
    session.save(tmp_path / "clip.features")
    assert segmenter.open(tmp_path / "clip.features").ask("the red circle")[0]["gaps"] == gaps


@pytest.mark.slow
def test_missing_frames_have_no_results_and_a_saved_session_knows_them(segmenter, tmp_path):
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p"
        for frame in NOISE:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start, size = places[6]
    start = content.index(b"\xff\xd8", start)  # a JPEG begins so
    content[start : start + size - 20] = bytes(size - 20)
    path.write_bytes(content)

    with pytest.warns(UserWarning, match="6"):
        (expected,) = segmenter(path, "the red circle")
    there = [number for number in range(13) if number != 6]
    assert expected["missing_frames"] == [6] and expected["frame_indices"] == there
    session = segmenter.open(path, dtype=None)
    with pytest.warns(UserWarning, match="6"):
        check_same(session.ask("the red circle"), [expected])
    session.save(tmp_path / "clip.features")
    (found,) = segmenter.open(tmp_path / "clip.features").ask("the red circle")
    assert found["missing_frames"] == [6]
    check_same([found], [expected])
    session = segmenter.processor.add_text_prompt(segmenter.processor.init_video_session(path), "the red circle")
    with pytest.warns(UserWarning, match="6"):
        frames = [outputs.frame_idx for outputs in segmenter.model.propagate_in_video_iterator(session)]
    assert frames == there
    with pytest.raises(ValueError, match="frame 6 of .*clip.avi cannot be decoded"):
        segmenter.open(path, on_damage="error")
