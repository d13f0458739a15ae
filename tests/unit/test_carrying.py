"""A state that sentences carry from window to window, and the benchmark that trains it (benchmarks/identity.py)."""

from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from factories import NOISE, ROOT, SENTENCES, random_batch
from identity import clip_loss, draw_clip, masks_of, measure
from modeling_cvls import CVLSConfig, CVLSModel, CVLSPipeline
from modeling_cvls.carrying_cvls import CVLSSentenceState
from modeling_cvls.encoding_cvls import EncodedWindows, SentenceLogits
from modeling_cvls.masks_cvls import FrameSizes
from modeling_cvls.rle_cvls import encode_masks
from modeling_cvls.synthetic import make_long_scene, render
from modeling_cvls.training import CVLSTrainer, CVLSTrainingArguments, DataArguments, collator_for
from modeling_cvls.windows_cvls import plan_windows


@pytest.fixture
def carrying(make_model):
    """A model with a state that has learned something."""
    model = make_model(carry_state=True)
    torch.manual_seed(1)
    for parameter in model.carry.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def segmenter(carrying, processor):
    return CVLSPipeline(model=carrying, processor=processor, device="cpu", presence_threshold=0)


def check_same(frames, expected, differing=0.0):
    """Results of frames, of `stream` or of `push`, are the same."""
    for one, other in zip(frames, expected, strict=True):
        assert one["frame_index"] == other["frame_index"]
        assert (one["masks"] != other["masks"]).mean() <= differing
        np.testing.assert_allclose(one["frame_scores"], other["frame_scores"], atol=1e-5)


def frames_of(results):
    """Results of sentences as those of frames."""
    for index, frame in enumerate(results[0]["frame_indices"]):
        masks = np.stack([result["masks"][index] for result in results])
        frame_scores = [result["frame_scores"][index] for result in results]
        yield {"frame_index": frame, "masks": masks, "frame_scores": frame_scores}


def differ(one, other):
    return any((a["masks"] != b["masks"]).any() for a, b in zip(one, other, strict=True))


def without_referents(**shape):
    return {name: value for name, value in random_batch(**shape).items() if name != "referents"}


def test_without_training_the_state_changes_no_bit(make_model, processor):
    off, on = make_model(), make_model(carry_state=True)
    weights = on.state_dict()
    assert {name for name in weights if name.startswith("carry.")} == weights.keys() - off.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in off.state_dict().items())
    off, on = (CVLSPipeline(model=m, processor=processor, device="cpu", presence_threshold=0) for m in (off, on))
    expected = off(NOISE, SENTENCES)
    for found in (on(NOISE, SENTENCES), on(NOISE, SENTENCES, passes=0), off(NOISE, SENTENCES, passes=2)):
        for one, other in zip(found, expected, strict=True):
            assert (one["masks"] == other["masks"]).all() and one["frame_scores"] == other["frame_scores"]
    for one, other in zip(on.stream(NOISE, SENTENCES), off.stream(NOISE, SENTENCES), strict=True):
        assert (one["masks"] == other["masks"]).all() and one["frame_scores"] == other["frame_scores"]


def test_checkpoints(carrying, make_model, tmp_path):
    """An older one has no state, may be given one, and a state that has learned is saved with the code it needs."""
    assert not CVLSConfig.from_pretrained(ROOT / "tests/checkpoint_0_1").carry_state
    make_model().save_pretrained(tmp_path / "old")
    model = CVLSModel.from_pretrained(tmp_path / "old", carry_state=True)
    values = {name: parameter.tolist() for name, parameter in model.carry.named_parameters()}
    assert values["evidence_scale"] == [1] and values["evidence_bias"] == [0]
    assert not np.any(values["mark"]) and not np.any(values["pull"])
    carrying.save_pretrained(tmp_path / "new")
    again = CVLSModel.from_pretrained(tmp_path / "new")
    assert again.config.carry_state and torch.equal(again.carry.mark, carrying.carry.mark)
    assert (tmp_path / "new" / "carrying_cvls.py").is_file()


def test_one_pass_is_that_of_sessions_and_live_streams(segmenter):
    expected = list(segmenter.stream(NOISE, SENTENCES))
    assert differ(expected, segmenter.stream(NOISE, SENTENCES, passes=0))
    check_same(segmenter.stream(NOISE, SENTENCES, batch_size=3), expected, differing=1e-4)
    check_same(frames_of(segmenter(NOISE, SENTENCES, passes=1)), expected)
    with segmenter.open(NOISE, dtype=None) as session:
        for _ in range(2):  # a second question starts with nothing known
            check_same(session.stream(SENTENCES), expected, differing=1e-4)
    live = segmenter.live(SENTENCES)
    check_same([result for picture in NOISE for result in live.push(picture)] + live.close(), expected, differing=1e-4)
    with pytest.raises(TypeError, match="a live stream takes no passes"):
        segmenter.live(SENTENCES, passes=2)


def test_two_passes_are_those_of_files_and_sessions(segmenter):
    expected = list(segmenter.stream(NOISE, SENTENCES, passes=2, return_frames=True))
    assert differ(expected, segmenter.stream(NOISE, SENTENCES))
    assert all((result["frame"] == frame).all() for result, frame in zip(expected, NOISE, strict=True))
    check_same(frames_of(segmenter(NOISE, SENTENCES)), expected)
    check_same(frames_of(segmenter(NOISE, SENTENCES, batch_size=3)), expected, differing=1e-4)
    for max_memory in (0, None):
        with segmenter.open(NOISE, dtype=None, max_memory=max_memory) as session:
            check_same(frames_of(session.ask(SENTENCES)), expected, differing=1e-4)
    with pytest.raises(ValueError, match="passes is 0, 1 or 2, not 3"):
        segmenter(NOISE, SENTENCES, passes=3)


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_what_the_pipeline_is_told_holds_for_its_sessions_and_live_streams(carrying, processor, segmenter, passes):
    told = CVLSPipeline(model=carrying, processor=processor, device="cpu", presence_threshold=0, passes=passes)
    expected = list(segmenter.stream(NOISE, SENTENCES, passes=passes))
    check_same(told.stream(NOISE, SENTENCES), expected, differing=1e-4)
    check_same(frames_of(told(NOISE, SENTENCES)), expected, differing=1e-4)
    with told.open(NOISE, dtype=None) as session:
        check_same(session.stream(SENTENCES), expected, differing=1e-4)
        check_same(frames_of(session.ask(SENTENCES)), expected, differing=1e-4)
        assert differ(expected, session.stream(SENTENCES, passes=(passes + 1) % 3))
    live = told.live(SENTENCES)
    found = [result for picture in NOISE for result in live.push(picture)] + live.close()
    check_same(found, segmenter.stream(NOISE, SENTENCES, passes=min(passes, 1)), differing=1e-4)


def test_some_frames_have_the_results_that_they_have_among_all(segmenter):
    of_all = {passes: list(segmenter.stream(NOISE, SENTENCES, passes=passes)) for passes in (1, 2)}
    chosen = [5, 11]
    for passes, expected in of_all.items():
        expected = [expected[index] for index in chosen]
        check_same(segmenter.stream(NOISE, SENTENCES, passes=passes, frame_indices=chosen), expected)
        with segmenter.open(NOISE, dtype=None) as session:
            found = session.ask(SENTENCES, passes=passes, frame_indices=chosen)
            check_same(frames_of(found), expected, differing=1e-4)
    model, processor = segmenter.model, segmenter.processor
    session = processor.add_text_prompt(processor.init_video_session(NOISE, dtype=None), SENTENCES)
    for options, order in (
        ({}, range(13)),
        ({"start_frame_idx": 4, "max_frame_num_to_track": 3}, range(4, 7)),
        ({"start_frame_idx": 11, "max_frame_num_to_track": 9, "reverse": True}, range(10, 1, -1)),
        ({"reverse": True}, []),
    ):
        outputs = list(model.propagate_in_video_iterator(session, **options))
        assert [output.frame_idx for output in outputs] == list(order)
        for output in outputs:
            found = processor.postprocess_outputs(session, output, presence_threshold=0)
            expected = of_all[1][output.frame_idx]["masks"]
            masks = np.zeros_like(expected)
            masks[found["object_ids"]] = found["masks"]
            assert (masks != expected).mean() < 1e-4


def test_each_window_takes_the_way_with_more_evidence():
    """By hand: four windows, two sentences, and a model whose masks say which window's state it was given."""
    evidence = torch.tensor([[0.9, 0.1, 0.2, 0.3], [0.1, 0.2, 0.1, 0.8]])

    def next_state(video, output, state, frame):
        places = (output.index + 1.0) * (1 if frame == -1 else -1)  # from 1 up, going backward below 0
        best = output.evidence if state is None else torch.maximum(output.evidence, state.evidence)
        return CVLSSentenceState(torch.full((1, 2, 1, 1), places), best, 0)

    def model(video_features, sentence_state, **text):
        index = int(video_features.pixel_features.flatten()[0])
        given = torch.zeros(1, 2, 1, 1) if sentence_state is None else sentence_state.places
        logits = given[:, :, None].expand(1, 2, 4, 1, 1)
        return SimpleNamespace(
            index=index, evidence=evidence[None, :, index], mask_logits=logits, presence_logits=given[..., 0, 0]
        )

    model.config, model.device = SimpleNamespace(carry_state=True), "cpu"
    model.carry = SimpleNamespace(next_state=next_state)
    model.get_text_features = lambda **text: BaseModelOutputWithPooling(torch.zeros(1, 2, 1, 1), torch.zeros(1, 2, 1))
    windows = [window for (window,) in plan_windows(16, 4, 0)]
    numbers = torch.arange(4.0)[:, None, None, None, None].expand(4, 4, 1, 1, 1)
    encoded = EncodedWindows(windows, numbers, numbers, FrameSizes((4, 4), (4, 4)))
    sentences = SentenceLogits(model, {"attention_mask": torch.ones(1, 2, 1)}, passes=2)
    sentences.look_back(encoded)
    found = sentences.add(encoded)
    # the first sentence is clear from the first window on; what tells the second one comes in the last window
    expected = torch.tensor([[0.0, 1, 2, 3], [-2, -3, -4, 3]])
    torch.testing.assert_close(found.presence_logits[:, ::4], expected)
    torch.testing.assert_close(found.mask_logits[:, ::4, 0, 0], expected)


def test_what_is_known_changes_the_next_window_as_far_as_there_was_evidence(carrying):
    batch, places = without_referents(clips=1, sentences=2), torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        alone = carrying(**batch).mask_logits
        nothing = carrying(**batch, sentence_state=CVLSSentenceState(places, torch.zeros(1, 2), 0)).mask_logits
        first = CVLSSentenceState(places, torch.tensor([[1.0, 0.0]]), 0)
        something = carrying(**batch, sentence_state=first).mask_logits
    torch.testing.assert_close(nothing, alone)
    torch.testing.assert_close(something[:, 1], alone[:, 1])
    assert (something[:, 0] - alone[:, 0]).abs().max() > 0.1


def test_what_joins_the_logits_by_hand(carrying):
    """The pull of a place with certainty p and evidence e, d frames later: e (2 p - 1) pull_d."""
    state = CVLSSentenceState(torch.full((1, 1, 8, 8), 0.75), torch.full((1, 1), 0.5), 1)
    pull = carrying.carry.pull.detach()
    expected = 0.25 * torch.stack([pull[1], pull[0], pull[1], pull[2]])
    logits = carrying.carry.logits(state, 4, (16, 16)).detach()
    torch.testing.assert_close(logits, expected[:, None, None].expand(1, 1, 4, 16, 16))
    # counted from a window that starts two frames later, the frame lies before the window
    logits = carrying.carry.logits(state.seen_from(2), 4, (16, 16)).detach()
    torch.testing.assert_close(logits[0, 0, :, 0, 0], 0.25 * torch.stack([pull[1], pull[2], pull[3], pull[3]]))


@pytest.mark.parametrize(("bias", "places"), [(-200.0, None), (200.0, 1.0)])
def test_an_object_that_is_not_seen_is_remembered_where_it_was(carrying, bias, places):
    before = CVLSSentenceState(torch.rand(1, 3, 8, 8), torch.full((1, 3), 0.4), 0)
    batch = without_referents(clips=1)
    with torch.no_grad():
        carrying.mask_bias.fill_(bias)
        video = carrying.get_video_features(batch["pixel_values_videos"])
        state = carrying.carry.next_state(video, carrying(**batch, sentence_state=before), before)
    torch.testing.assert_close(state.places, before.places if places is None else torch.full((1, 3, 8, 8), places))
    assert (state.evidence >= 0.4).all() and state.frame == 3


def test_a_model_without_a_state_refuses_one(make_model):
    state = CVLSSentenceState(torch.zeros(2, 3, 8, 8), torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match="carry_state"):
        make_model()(**random_batch(), sentence_state=state)


def test_a_state_does_not_depend_on_padding(carrying):
    """A clip of 32 x 64 pixels, alone and in a batch with one of 64 x 64."""
    batch = without_referents()
    batch["frame_sizes"][0, 0] = 32
    alone = {name: value[:1] for name, value in batch.items()}
    alone["pixel_values_videos"] = alone["pixel_values_videos"][:, :, :, :32]

    def two_windows(batch):
        output = carrying(**batch)
        video = carrying.get_video_features(batch["pixel_values_videos"], batch["frame_mask"], batch["frame_sizes"])
        state = carrying.carry.next_state(video, output)
        again = carrying(**batch, sentence_state=state)
        states = state, carrying.carry.next_state(video, again, state, 0)
        return [(state.places[:1, :, :4], state.evidence[:1]) for state in states], again.mask_logits[:1, :, :, :8]

    with torch.no_grad():
        found, expected = two_windows(batch), two_windows(alone)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_padding_frame_shows_nothing(carrying):
    batch = without_referents()
    batch["frame_mask"][0, 3] = False
    before = CVLSSentenceState(torch.rand(2, 3, 8, 8), torch.full((2, 3), 0.4), 0)
    with torch.no_grad():
        video = carrying.get_video_features(batch["pixel_values_videos"], batch["frame_mask"])
        first, later = (carrying.carry.next_state(video, carrying(**batch), state) for state in (None, before))
    assert not first.places[0].any() and not first.evidence[0].any()
    assert first.places[1].any() and first.evidence[1].any()
    torch.testing.assert_close((later.places[0], later.evidence[0]), (before.places[0], before.evidence[0]))


@pytest.mark.parametrize("back", [False, True])
def test_the_gradient_of_the_last_window_goes_through_the_state(carrying, back):
    """Into the window that comes first, of which the last one holds no frame."""
    batch = random_batch(frames=10)
    pixels = batch["pixel_values_videos"].requires_grad_()
    output = carrying(**batch, window_starts=(6, 3, 0) if back else (0, 3, 6))
    (gradient,) = torch.autograd.grad(output.mask_logits.square().sum(), pixels)
    of_frames = gradient.abs().amax(dim=(0, 2, 3, 4))
    assert ((of_frames[7:] if back else of_frames[:3]) > 0).all()


def test_the_loss_of_windows_by_hand(carrying):
    """The mean of the windows' own, the second one being given the state of the first."""
    batch = random_batch(frames=7)
    per_frame = ("pixel_values_videos", "frame_mask", "instance_masks", "annotated_frames", "annotated_instances")
    first, second = (
        batch | {name: batch[name][:, shown] for name in per_frame} for shown in (slice(0, 4), slice(3, 7))
    )
    one = carrying(**first)
    state = carrying.carry.next_state(carrying.get_video_features(first["pixel_values_videos"]), one)
    assert state.frame == 3
    other = carrying(**second, sentence_state=state._replace(frame=0))
    found = carrying(**batch, window_starts=[0, 3])
    torch.testing.assert_close(found.loss, (one.loss + other.loss) / 2)
    for name, value in found.losses.items():
        torch.testing.assert_close(value, (one.losses[name] + other.losses[name]) / 2)
    torch.testing.assert_close(found.mask_logits, other.mask_logits, rtol=1e-4, atol=1e-4)


def test_a_clip_that_ended_before_a_window_has_no_part_in_its_loss(carrying):
    """A window of two clips, of which the first has only padding there: its losses are those of the second clip."""
    batch = random_batch(frames=4)
    for name in ("frame_mask", "annotated_frames"):
        batch[name][0] = False
    with torch.no_grad():
        found = carrying(**batch).losses
        expected = carrying(**{name: value[1:] for name, value in batch.items()}).losses
    assert found.keys() == expected.keys() >= {"bce", "dice", "presence", "contrast"}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_windows_take_pixels_and_give_no_loss_where_none_is_wanted(carrying):
    batch = random_batch(frames=7)
    with torch.no_grad():
        assert carrying(**batch, window_starts=[0, 3], return_loss=False).loss is None
        video = carrying.get_video_features(batch["pixel_values_videos"])
    with pytest.raises(ValueError, match="no `video_features`"):
        carrying(**batch, window_starts=[0, 3], video_features=video)


@pytest.mark.parametrize("starts", [[0, 3, 6], [6, 3, 0], [0]])
def test_every_parameter_has_a_finite_gradient(carrying, starts):
    """Also where a clip of the batch has ended before a window, and where no window comes after another."""
    batch = random_batch(frames=10)
    for name in ("frame_mask", "instance_masks", "annotated_frames", "annotated_instances"):
        batch[name][0, 5:] = False
    carrying.train()(**batch, window_starts=starts).loss.backward()
    assert all(parameter.grad is not None for parameter in carrying.carry.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in carrying.parameters())


def test_training_goes_through_windows_in_both_directions(make_model, make_trainer):
    given = make_trainer()
    model = make_model(carry_state=True, num_frames=2).train()
    trainer = CVLSTrainer(
        model=model, args=given.args, train_dataset=given.train_dataset, data_collator=given.data_collator,
        processing_class=given.processing_class,
    )  # fmt: skip
    own = set(model.carry.parameters())
    for group in trainer.create_optimizer().param_groups:
        assert {parameter in own for parameter in group["params"]} == {group["lr"] == pytest.approx(0.1)}
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["window_starts"]), with_kwargs=True)
    trainer.train()
    assert seen == [[0, 2], [2, 0]]
    assert model.carry.mark.any() and model.carry.pull.any()


def test_processes_that_share_weights_go_through_as_many_windows(make_model, make_trainer, monkeypatch):
    """The clips of another process are longer; those of this one are padded, which changes nothing of their windows."""
    trainer = make_trainer()
    trainer.model = make_model(carry_state=True)
    batch, given = random_batch(frames=4), {}
    trainer.model.register_forward_pre_hook(lambda module, args, kwargs: given.update(kwargs), with_kwargs=True)
    alone = trainer.compute_loss(trainer.model, batch)
    assert given["window_starts"] == [0] and given["pixel_values_videos"].shape[1] == 4

    def as_long_as_others(tensor, dim):
        return torch.cat([tensor, torch.zeros_like(tensor.narrow(dim, 0, 3))], dim=dim)

    trainer.is_fsdp_enabled = True
    monkeypatch.setattr(trainer.accelerator, "pad_across_processes", as_long_as_others)
    both = trainer.compute_loss(trainer.model, batch)
    assert given["window_starts"] == [0, 3]
    assert {value.shape[1] for name, value in given.items() if name in batch and value.shape[1] > 3} == {7}
    assert both.isfinite() and alone.isfinite()


def test_a_clip_of_training_has_as_many_windows_as_asked_for(make_model, processor):
    def length(windows, **config):
        data_args = DataArguments(windows_per_clip=windows)
        return collator_for(make_model(**config), processor, data_args, CVLSTrainingArguments()).sampler.clip_length

    assert [length(None), length(1)] == [4, 4]
    assert [length(windows, carry_state=True) for windows in (None, 2, 5)] == [13, 7, 16]
    for windows, config in ((2, {}), (1, {"carry_state": True})):
        with pytest.raises(ValueError, match="`data.windows_per_clip` is . and `model.config.carry_state` is"):
            length(windows, **config)
    with pytest.raises(ValueError, match="`data.windows_per_clip` must be at least 1, got 0"):
        length(0)


def test_without_state_the_loss_is_the_mean_of_the_windows(carrying):
    batch = random_batch(frames=7)
    losses = []
    for shown in (slice(0, 4), slice(3, 7)):
        per_frame = ("pixel_values_videos", "frame_mask", "instance_masks", "annotated_frames", "annotated_instances")
        losses.append(carrying(**batch | {name: batch[name][:, shown] for name in per_frame}).loss)
    with_state = clip_loss(carrying, batch, presence=True)
    carrying.config.carry_state = False
    torch.testing.assert_close(clip_loss(carrying, batch, presence=True), sum(losses) / 2)
    assert (with_state - sum(losses) / 2).abs() > 1e-4


def test_the_benchmark_measures_what_the_pipeline_gives(carrying, processor):
    for passes in (0, 1, 2):
        masks, presence = masks_of(carrying, processor, NOISE, SENTENCES, passes)
        segmenter = CVLSPipeline(model=carrying, processor=processor, device="cpu", presence_threshold=0)
        for index, result in enumerate(segmenter(NOISE, SENTENCES, passes=passes)):
            assert (masks[index] == result["masks"]).all()
            assert presence[index].max() == pytest.approx(result["score"])


def test_measures_are_those_of_the_metric():
    rng = np.random.default_rng(0)
    owner = rng.integers(0, 4, (5, 12, 16))  # objects share no pixel; 3 is the background
    masks = np.stack([owner == m for m in range(3)], axis=1)
    masks[2, 0] = masks[3, 1] = False
    referents = np.array([[True, False, False], [False, True, False]])
    predicted = rng.random((2, 5, 12, 16)) > 0.6
    predicted[0, :3] = masks[:3, 0]
    found = measure(predicted, np.zeros((2, 5)), masks, referents)
    metric = evaluate.load(str(ROOT / "modeling_cvls/metrics/video_language_segmentation"))
    for k, t in np.ndindex(2, 5):
        metric.add(
            prediction={"size": [12, 16], "counts": encode_masks(predicted[k, t, None])[0], "score": 0.5},
            reference={"size": [12, 16], "instances": encode_masks(masks[t]), "referents": [k], "kind": ""},
        )
    results = metric.compute()
    assert results["mean_iou"] == pytest.approx(found["iou"].mean())
    assert results["referent_accuracy"] == pytest.approx(found["right"].mean())
    np.testing.assert_array_equal(found["visible"], [[True, True, False, True, True], [True, True, True, False, True]])


@pytest.mark.parametrize("back", [False, True])
def test_a_clip_knows_nothing_of_what_it_has_not_shown(back):
    """Where its object is at the beginning is told only to a sentence whose part lies before the clip."""
    rng = np.random.default_rng(0)
    told, guesses = 0, []
    for index in range(30):
        scene, sentences = make_long_scene(11, index, num_frames=80)
        clip = draw_clip(scene, sentences, rng, 13, back)
        _, masks = render(scene)
        # several where nothing moves
        starts = np.array([t for t in range(68) if np.array_equal(masks[t : t + 13], clip.masks)])
        for sentence, known, evidence in zip(clip.sentences, clip.known, clip.evidence, strict=True):
            start, stop = scene.parts[sentence.instances[0]]
            truth = clip.masks[-1 if back else 0, sentence.instances[0]]
            if evidence >= 0.5:
                told += 1
                assert ((start >= starts + 13) if back else (stop <= starts)).any()
                assert known.any() and not (truth & (known == 0)).any()
            else:
                assert ((stop > starts) & (start < starts + 13)).any()
                assert known.any() == (evidence > 0)
                guesses.append((truth & (known > 0)).any())
    assert told > 5 and np.mean(guesses) < 0.5
