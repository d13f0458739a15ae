"""The contrastive side of the model: embeddings, filter, alignment and selection, against their plain definitions."""

import pytest
import torch
import torch.nn.functional as F

from factories import random_batch
from modeling_cvls.outputs_cvls import CVLSFusedFeatures, CVLSVideoFeatures


def head_inputs(sentences, generator):
    """Two clips of 2 frames: stride-4 features, fused tokens and sentences of the sizes in `tiny_config`."""
    pixels = torch.randn(2, 2, 16, 8, 12, generator=generator)
    tokens = torch.randn(2, sentences, 2, 4, 6, 16, generator=generator)
    return pixels, tokens, torch.randn(2, sentences, 16, generator=generator)


def test_similarity_and_instances_equal_those_of_written_out_embeddings(make_model):
    """f^ = (normalize(pixels) + upsampled normalize(tokens)) / 2 at every position, then the plain definitions."""
    head = make_model().contrast.double()
    generator = torch.Generator().manual_seed(4)
    pixels, tokens, sentence = (x.double() for x in head_inputs(3, generator))
    embeddings = head(pixels, tokens, sentence)

    def unit(x):
        return x / x.norm(dim=-1, keepdim=True)

    fine = head.project_pixels(pixels.flatten(0, 1)).unflatten(0, (2, 2)).movedim(2, -1)[:, None]
    fine, coarse = unit(fine), unit(head.project_tokens(tokens))
    coarse = torch.nn.functional.interpolate(coarse.movedim(-1, 3).flatten(0, 2), size=(8, 12), mode="bilinear")
    f = (fine + coarse.unflatten(0, (2, 3, 2)).movedim(3, -1)) / 2
    e = unit(head.project_sentence(sentence))
    torch.testing.assert_close(embeddings.similarity(), (f * e[:, :, None, None, None]).sum(dim=-1))
    assert embeddings.similarity().abs().max() <= 1

    weights = torch.rand(2, 3, 2, 5, 8, 12, generator=generator, dtype=torch.float64)
    v = unit((weights[..., None] * f[:, :, :, None]).sum(dim=(4, 5)))
    torch.testing.assert_close(embeddings.pool(weights), v)


def test_the_filter_leaves_its_share_of_channels_and_acts_in_the_loss_alone(make_model):
    batch = random_batch(seed=1)
    filtered, whole, without = (
        make_model(**changes).eval()(**batch)
        for changes in ({"kept_channels": 0.5}, {"kept_channels": 1.0}, {"channel_filter": False})
    )
    assert (filtered.kept_channels.sum(dim=-1) == 6).all() and whole.kept_channels.all()
    assert without.kept_channels is None
    assert abs(filtered.losses["alignment"] - whole.losses["alignment"]) > 1e-3
    assert abs(whole.losses["alignment"] - without.losses["alignment"]) > 1e-3
    for output in (filtered, whole):
        torch.testing.assert_close(output.mask_logits, without.mask_logits)
        torch.testing.assert_close(output.losses["contrast"], without.losses["contrast"])


def test_objects_of_the_alignment_are_means_of_where_they_are(make_model):
    """Plain loops over two instances, one annotated in one frame only; whole coarse tokens. Of two sentences each
    channel of one is +1 and of the other -1, whatever they were: all that tells them apart."""
    head = make_model().alignment.double()
    generator = torch.Generator().manual_seed(5)
    pixels, tokens, sentence = (x.double() for x in head_inputs(1, generator))
    tokens = tokens[:, 0]
    blocks = torch.rand(2, 2, 2, 4, 6, generator=generator) > 0.5  # whole coarse cells: means are then plain means
    blocks[1, 1, 0] = False
    masks = blocks.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1).double()
    sentence = 100 * sentence  # far apart
    sentences, objects, channels = head(pixels, tokens, sentence, torch.ones(2, 1, dtype=torch.bool), masks)

    def unit(x):
        return x / x.norm()

    for b in range(2):
        sign = (sentence[b, 0] - sentence[1 - b, 0]).sign()
        torch.testing.assert_close(sentences[b, 0], unit(head.project_sentence(sign)), rtol=0, atol=1e-3)
        dropped = sentences[b, 0].abs()[channels[b, 0] == 0]
        assert len(dropped) == 3 and dropped.max() <= sentences[b, 0].abs()[channels[b, 0] == 1].min()  # of 12
        for m in range(2):
            fine, coarse = [], []
            for t, y, x in torch.nonzero(blocks[b, :, m]).tolist():
                coarse.append(tokens[b, t, y, x])
                fine += [pixels[b, t, :, 2 * y + i, 2 * x + j] for i in (0, 1) for j in (0, 1)]
            mean = unit(head.project_pixels(sum(fine) / len(fine))) + unit(
                head.project_tokens(sum(coarse) / len(coarse))
            )
            torch.testing.assert_close(objects[b, m], unit(mean))


def test_sentences_of_the_alignment_are_compared_by_what_tells_them_apart(make_model):
    """What all sentences share, its scale and what stands in padding change nothing; a lone sentence stays as it is."""
    head = make_model().alignment.double()
    generator = torch.Generator().manual_seed(6)
    pixels, tokens, sentence = (x.double() for x in head_inputs(3, generator))
    masks = torch.ones(2, 2, 1, 8, 12, dtype=torch.float64)
    known = torch.tensor([[True, True, False], [True, True, True]])

    def align(sentence, known):
        return head(pixels, tokens[:, 0], sentence, known, masks)[0][known]

    said = sentence[known]
    standard = (said - said.mean(dim=0)) / said.std(dim=0, correction=0)
    expected = torch.nn.functional.normalize(head.project_sentence(standard), dim=-1)
    torch.testing.assert_close(align(sentence, known), expected, rtol=0, atol=1e-3)
    shared, scale = torch.randn(16, generator=generator).double(), 2 + torch.rand(16, generator=generator).double()
    torch.testing.assert_close(align(scale * sentence + shared, known), expected, rtol=0, atol=1e-3)
    sentence[0, 2] = 1e6
    torch.testing.assert_close(align(sentence, known), expected, rtol=0, atol=1e-3)

    alone = torch.tensor([[False, True, False], [False] * 3])
    found = torch.nn.functional.normalize(head.project_sentence(sentence[0, 1]), dim=-1)
    torch.testing.assert_close(align(sentence, alone)[0], found)

    head = make_model(channel_filter=False).alignment.double()
    expected = torch.nn.functional.normalize(head.project_sentence(said), dim=-1)
    torch.testing.assert_close(align(sentence, known), expected)


def test_alignment_is_the_contrast_of_sentences_and_objects_before_they_meet(make_model):
    """A sentence without referent, one with two, a padding sentence, an object that is annotated nowhere."""
    model = make_model().double()
    batch = random_batch(sentences=4)
    batch["pixel_values_videos"] = batch["pixel_values_videos"].double()
    batch["referents"][:] = False
    batch["referents"][0, 0, 1] = batch["referents"][0, 1, :2] = batch["referents"][0, 3, 0] = True
    batch["referents"][1, 0, 0] = batch["referents"][1, 2, 0] = batch["referents"][1, 3, 1] = True
    batch["sentence_mask"] = torch.tensor([[True, True, True, False], [True, True, True, True]])
    batch["annotated_instances"] = batch["annotated_frames"][..., None].repeat(1, 1, batch["instance_masks"].shape[2])
    batch["annotated_instances"][1, :, 1] = False
    found = model(**batch).losses["alignment"]

    size = batch["pixel_values_videos"].shape[-1] // 4
    shares = F.interpolate(batch["instance_masks"].double().flatten(0, 1), size=(size, size), mode="area")
    known = shares.view(*batch["instance_masks"].shape[:3], size, size)
    known = known * (batch["annotated_instances"] & batch["annotated_frames"][..., None])[..., None, None]
    video = model.get_video_features(batch["pixel_values_videos"], torch.ones_like(batch["annotated_frames"]))
    sentence = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    sentences, objects, channels = model.alignment(
        video.pixel_features, video.last_hidden_state, sentence, batch["sentence_mask"], known
    )
    of_sentences = []
    for b, k in torch.nonzero(batch["sentence_mask"]).tolist():
        there = [m for m in range(known.shape[2]) if known[b, :, m].any()]
        kept = channels[b, k] > 0
        cosines = F.cosine_similarity(sentences[b, k, kept], objects[b][:, kept], dim=-1)
        e = {m: (cosines[m] / model.config.temperature).exp() for m in there}
        against = sum(e[m] for m in there if not batch["referents"][b, k, m])
        each = [-(e[m] / (e[m] + against)).log() for m in there if batch["referents"][b, k, m]]
        if each:
            of_sentences.append(sum(each) / len(each))
    assert len(of_sentences) == 4
    torch.testing.assert_close(found, (sum(of_sentences) / len(of_sentences)).to(found.dtype), rtol=1e-5, atol=1e-6)


def test_what_is_chosen_is_the_most_similar_token_of_the_frame_and_of_the_clip(make_model):
    model = make_model()
    model.choice_sharpness.data.fill_(50.0)
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(1, 1, 3, 2, 2, 16, generator=generator)
    similarity = torch.zeros(1, 1, 3, 4, 4)
    similarity[0, 0, 0, :2, 2:] = 0.5  # token (0, 1) of frame 0
    similarity[0, 0, 1, 2:, :2] = 0.9  # token (1, 0) of frame 1
    similarity[0, 0, 2, 2:, 2:] = 1.0  # a padding frame
    token_mask = torch.tensor([True, True, False])[None, :, None, None].expand(1, 3, 2, 2)
    video = CVLSVideoFeatures(token_mask=token_mask)
    choice = model.select_referent(video, CVLSFusedFeatures(token_features=tokens), similarity)
    torch.testing.assert_close(choice.of_frame[0, 0, :2], torch.stack([tokens[0, 0, 0, 0, 1], tokens[0, 0, 1, 1, 0]]))
    torch.testing.assert_close(choice.of_clip[0, 0], tokens[0, 0, 1, 1, 0])
    assert choice.similarity.item() == pytest.approx(0.9 / model.config.temperature, rel=1e-5)


def test_presence_does_not_move_the_choice(make_model):
    model = make_model().train()
    model(**random_batch()).losses["presence"].backward()
    assert model.presence_query.weight.grad.any()
    for name, parameter in model.contrast.named_parameters():
        assert parameter.grad is None or not parameter.grad.any(), name
