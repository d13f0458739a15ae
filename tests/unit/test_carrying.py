"""benchmarks/carrying.py and identity.py: a state without training changes nothing, and numbers are those of the
metric."""

from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch

from carrying import Carry, State, pairs_of, segment
from factories import NOISE, ROOT, SENTENCES, random_batch
from identity import clip_loss, draw_clip, measure
from modeling_cvls import CVLSPipeline
from modeling_cvls.fusion_cvls import word_mask_of
from modeling_cvls.rle_cvls import encode_masks
from modeling_cvls.synthetic import make_long_scene, render


@pytest.fixture
def carry(make_model):
    """One that has learned something."""
    torch.manual_seed(1)
    carry = Carry(make_model())
    for parameter in carry.new_parameters():
        torch.nn.init.normal_(parameter)
    return carry


def windows_of(carry, batch, frames=range(4)):
    """The pairs of a batch of windows."""
    video = carry.model.get_video_features(batch["pixel_values_videos"])
    text = carry.model.get_text_features(batch["input_ids"], batch["attention_mask"], batch["sentence_mask"])
    return pairs_of(video, text, word_mask_of(batch["attention_mask"], batch["sentence_mask"]), frames)


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_without_training_it_is_the_segmenter(make_model, processor, passes):
    model = make_model()
    logits = segment(Carry(model), processor, NOISE, SENTENCES, passes)
    assert logits.positions == list(range(13))
    expected = CVLSPipeline(model=model, processor=processor)(NOISE, SENTENCES, presence_threshold=0.0)
    outputs = SimpleNamespace(mask_logits=logits.mask_logits[None], presence_logits=logits.presence_logits[None])
    size = NOISE.shape[1:3]
    (found,) = processor.post_process_masks(
        outputs, processor(videos=NOISE)["frame_sizes"], [size], presence_threshold=0.0
    )
    for index, result in enumerate(expected):
        assert (found["masks"][index].numpy() != result["masks"]).mean() < 1e-4
        np.testing.assert_allclose(found["frame_scores"][index], result["frame_scores"], atol=1e-4)


def test_what_is_known_changes_the_next_window_as_far_as_there_was_evidence(carry):
    batch = random_batch(clips=1, sentences=2)
    with torch.no_grad():
        pairs = windows_of(carry, batch)
        places = torch.rand(2, 8, 8)
        alone = carry(pairs, None).mask_logits
        nothing = carry(pairs, State(0, places, torch.zeros(2))).mask_logits
        something = carry(pairs, State(0, places, torch.tensor([1.0, 0.0]))).mask_logits
    torch.testing.assert_close(nothing, alone)
    torch.testing.assert_close(something[1], alone[1])
    assert (something[0] - alone[0]).abs().max() > 0.1


@pytest.mark.parametrize(("bias", "places"), [(-200.0, None), (200.0, 1.0)])
def test_an_object_that_is_not_seen_is_remembered_where_it_was(carry, bias, places):
    before = State(0, torch.rand(3, 8, 8), torch.full((3,), 0.4))
    with torch.no_grad():
        carry.model.mask_bias.fill_(bias)
        step = carry(windows_of(carry, random_batch(clips=1)), before)
    expected = before.places if places is None else torch.full((3, 8, 8), places)
    torch.testing.assert_close(step.state.places, expected)
    assert (step.state.evidence >= 0.4).all() and step.state.frame == 3


def test_the_gradient_of_the_last_window_goes_through_the_state(carry):
    """Into the first window, of which the last one holds no frame."""
    batch = random_batch(frames=10)
    pixels = batch["pixel_values_videos"].requires_grad_()
    state = None
    for start in (0, 3, 6):
        shown = pixels[:, start : start + 4]
        step = carry(windows_of(carry, {**batch, "pixel_values_videos": shown}, range(start, start + 4)), state)
        state = step.state
    (gradient,) = torch.autograd.grad(step.mask_logits.square().sum(), pixels)
    assert (gradient[:, :3].abs().amax(dim=(0, 2, 3, 4)) > 0).all()


def test_without_state_the_loss_is_the_mean_of_the_windows(carry):
    batch = random_batch(frames=7)
    losses = []
    for shown in (slice(0, 4), slice(3, 7)):
        per_frame = ("pixel_values_videos", "frame_mask", "instance_masks", "annotated_frames", "annotated_instances")
        losses.append(carry.model(**batch | {name: batch[name][:, shown] for name in per_frame}).loss)
    torch.testing.assert_close(clip_loss(carry, batch, with_state=False, presence=True), sum(losses) / 2)
    with_state = clip_loss(carry, batch, with_state=True, presence=True)
    assert (with_state - sum(losses) / 2).abs() > 1e-4


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
