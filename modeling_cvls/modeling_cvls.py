"""CVLS: the segmenter. A clip is encoded once; each sentence is encoded, fused with the clip, and segmented."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .carrying_cvls import CVLSCarry, CVLSSentenceState, forward_windows
from .checkpoint_cvls import as_of_today, register_conversions
from .configuration_cvls import CVLSConfig
from .contrastive_cvls import (
    CVLSAlignment,
    CVLSContrastiveHead,
    CVLSEmbeddings,
    ReferentSelection,
    select_referent,
)
from .fusion_cvls import (
    CVLSFusionLayer,
    CVLSLanguage,
    mask_with_sentence,
    without_pooler,
    word_mask_of,
)
from .layers_cvls import CVLSPreTrainedModel, extend_edges, freeze_what_cannot_learn, upsample
from .loss_cvls import CVLSCriterion, CVLSLosses, CVLSTargets, targets_of
from .outputs_cvls import CVLSFusedFeatures, CVLSOutput, CVLSVideoFeatures
from .parts_cvls import load_backbone, load_text_encoder, register_text_tower
from .session_mixins_cvls import SessionModelMixin
from .vision_cvls import CVLSVision, backbone_of


class CVLSModel(SessionModelMixin, CVLSPreTrainedModel):
    """The full segmenter: frames of a clip and sentences in; for each sentence a mask in every frame, and presence.

    Liang, Luo, Wu, Yang, "Contrastive Video-Language Segmentation", arXiv 2109.14131.

    It takes B clips of T frames with K sentences of L tokens each. Masks may be boolean or integer, 0 being false.

    Args:
        pixel_values_videos: (B, T, 3, H, W) normalized frames; H and W multiples of 32 and of `token_stride`.
        input_ids, attention_mask: (B, K, L) sentences.
        frame_mask: (B, T), false on padding frames.
        frame_sizes: (B, 2) height and width of each clip's frames; the rest is padding.
        sentence_mask: (B, K), false on padding sentences.
        instance_masks: (B, T, M, h, w) every annotated instance of the clip, at full size or a quarter of it.
        annotated_frames: (B, T), which frames carry masks.
        annotated_instances: (B, T, M), which instances are annotated in a frame; default: all of it.
        referents: (B, K, M), which instances a sentence refers to: none, one or several.
        video_features: what `get_video_features` gave for the clips, in place of `pixel_values_videos`, `frame_mask`
            and `frame_sizes`.
        text_features: what `get_text_features` gave for the sentences, in place of `input_ids`.
        output_hidden_states, output_attentions: whether to return them, component by component; default: as the
            configuration says. Attention weights need `attn_implementation="eager"`.
        return_loss: whether to compute the losses where `referents` are given.
        sentence_state: what `self.carry.next_state` gave for the window before, of a model with `carry_state`.
        window_starts: the first frames of windows of `num_frames` frames, increasing or decreasing, for the training of
            long clips, as `forward_windows`. None: the clip is one window.
        return_dict: False gives a tuple of what is not None; default: as the configuration says.

    Returns:
        [`CVLSOutput`]. With `referents`, the losses too.
    """

    # older checkpoints hold the pooler of the text encoder, which nothing read
    _keys_to_ignore_on_load_unexpected = [r"^language\.encoder\.pooler\."]

    def __init__(self, config: CVLSConfig):
        super().__init__(config)
        self.vision = CVLSVision(config, backbone_of(config))
        register_text_tower(config.text_config)
        encoder = AutoModel.from_config(config.text_config, **without_pooler(config.text_config))
        self.language = CVLSLanguage(config, freeze_what_cannot_learn(encoder))
        self.fusion = nn.ModuleList(CVLSFusionLayer(config) for _ in range(config.num_fusion_layers))
        self.norm_tokens = nn.LayerNorm(config.hidden_size)
        self.norm_sentence = nn.LayerNorm(config.hidden_size)
        self.pixel_query = nn.Linear(config.hidden_size, config.pixel_size)
        self.token_query = nn.Linear(config.hidden_size, config.hidden_size)
        self.mask_bias = nn.Parameter(torch.zeros(1))
        self.presence = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.Linear(config.hidden_size, 1)
        )
        if config.carry_state:
            self.carry = CVLSCarry(config)
        self.criterion = CVLSCriterion(config)
        if config.contrast_weight > 0:
            # drawn aside, so that all other weights start alike with and without the contrast
            with torch.random.fork_rng(devices=[]):
                self.contrast = CVLSContrastiveHead(config)
                if config.alignment_weight > 0:
                    self.alignment = CVLSAlignment(config)
                if config.similarity_in_masks:
                    self.frame_query = nn.Linear(config.hidden_size, config.hidden_size)
                    self.clip_query = nn.Linear(config.hidden_size, config.hidden_size)
                    self.presence_query = nn.Linear(config.hidden_size + 1, config.hidden_size)
                    self.similarity_scale = nn.Parameter(torch.zeros(1))
                    self.choice_sharpness = nn.Parameter(torch.zeros(1))
        self.post_init()
        # Accelerate makes the word embeddings a unit of FSDP2 of their own, which must not lie in another unit.
        words = self.get_input_embeddings()
        around = (module for module in self.language.encoder.modules() if module is not words)
        self._no_split_modules -= {type(module).__name__ for module in around if words in module.modules()}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CVLSCarry):
            module.reset_parameters()
        if module is self:
            # most pixels belong to no referent: start near their share
            init.constant_(self.mask_bias, -2.0)
            if hasattr(self, "similarity_scale"):
                init.ones_(self.similarity_scale)
                # at s / tau itself most of a selection would fall on the background, which has the most positions
                init.constant_(self.choice_sharpness, 3.0)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args) -> None:
        as_of_today(state_dict, prefix, has_pooler=getattr(self.language.encoder, "pooler", None) is not None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ) -> None:
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)
        self.vision.checkpoint_backbone(gradient_checkpointing_func if enable else None)

    def get_input_embeddings(self) -> nn.Module:
        """Those of the text encoder."""
        return self.language.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces those of the text encoder."""
        self.language.encoder.set_input_embeddings(value)

    @classmethod
    def from_vision_text_pretrained(
        cls, vision: str, text: str, vision_features: list[str] | None = None, **kwargs
    ) -> "CVLSModel":
        """A new segmenter on a pretrained vision backbone and a pretrained text encoder.

        Args:
            vision: name on the Hub or folder of a model that `AutoBackbone` loads.
            text: name on the Hub or folder of a model that `AutoModel` loads; of one of images and text, such as CLIP,
                its text tower.
            vision_features: the backbone's stages to use, finest first. Without it: all of a pyramid's stages (ResNet,
                ConvNeXt, Swin, Hiera), four evenly spaced ones of a plain transformer's.
            kwargs: fields of [`CVLSConfig`].

        Returns:
            The model; what is not backbone or text encoder is newly initialized.

        Raises:
            ValueError: one of the two cannot serve; the message names some that can.
        """
        backbone, encoder = load_backbone(vision, vision_features), load_text_encoder(text)
        model = cls(CVLSConfig(backbone_config=backbone.config, text_config=encoder.config, **kwargs))
        model.vision.backbone, model.language.encoder = backbone, encoder
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values_videos: torch.FloatTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        frame_mask: torch.BoolTensor | None = None,
        frame_sizes: torch.LongTensor | None = None,
        sentence_mask: torch.BoolTensor | None = None,
        instance_masks: torch.BoolTensor | None = None,
        annotated_frames: torch.BoolTensor | None = None,
        annotated_instances: torch.BoolTensor | None = None,
        referents: torch.BoolTensor | None = None,
        video_features: CVLSVideoFeatures | None = None,
        text_features: BaseModelOutputWithPooling | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_loss: bool = True,
        sentence_state: CVLSSentenceState | None = None,
        window_starts: Sequence[int] | None = None,
    ) -> CVLSOutput:
        """The arguments are described with the class.

        Raises:
            ValueError: inputs that do not belong together, or of sizes that the model does not take.
        """
        wanted = self._wanted_states(output_hidden_states, output_attentions)
        if window_starts is not None:
            if pixel_values_videos is None or input_ids is None or video_features is not None:
                raise ValueError("`window_starts` needs `pixel_values_videos` and `input_ids`, and no `video_features`")
            clips = {"pixel_values_videos": pixel_values_videos, "frame_mask": frame_mask, "frame_sizes": frame_sizes}
            text = {"input_ids": input_ids, "attention_mask": attention_mask, "sentence_mask": sentence_mask}
            truth = instance_masks, annotated_frames, annotated_instances
            referents = referents if return_loss else None
            return forward_windows(self, window_starts, clips, text, referents, truth, sentence_state)
        video = self._video_features(pixel_values_videos, frame_mask, frame_sizes, video_features, wanted)
        if (input_ids is None) == (text_features is None):
            raise ValueError(
                "`input_ids` (B, K, L), the sentences, are needed, or `text_features` in their place, not both"
            )
        text = text_features
        _check_same_batch(input_ids if text is None else text.pooler_output, video)
        if text is None:
            text = self.get_text_features(input_ids, attention_mask, sentence_mask, **wanted, return_dict=True)
        words = word_mask_of(attention_mask, sentence_mask)
        output, embeddings = self._output(video, text, words, wanted, sentence_state)
        if referents is not None and return_loss:
            targets = targets_of(video, sentence_mask, referents, instance_masks, annotated_frames, annotated_instances)
            losses = self._losses(targets, video, text, output, embeddings)
            output.loss, output.losses = losses.loss, losses.parts
            output.instance_similarity, output.kept_channels = losses.instance_similarity, losses.kept_channels
        return output

    def _output(
        self,
        video: CVLSVideoFeatures,
        text: BaseModelOutputWithPooling,
        word_mask: torch.Tensor | None,
        wanted: dict[str, bool],
        sentence_state: CVLSSentenceState | None,
    ) -> tuple[CVLSOutput, CVLSEmbeddings | None]:
        """What `forward` returns, without losses, and the embeddings that the contrast compares."""
        fused = self.fuse(video, text, word_mask, **wanted, sentence_state=sentence_state)
        embeddings = similarity = selection = None
        if self.config.contrast_weight > 0:
            embeddings = self.contrastive_head(video, fused)
            similarity = embeddings.similarity()
            selection = self.select_referent(video, fused, similarity) if self.config.similarity_in_masks else None
        output = CVLSOutput(
            mask_logits=self.predict_masks(video, fused, selection, sentence_state),
            presence_logits=self.predict_presence(fused, selection),
            similarity=similarity,
            vision_hidden_states=video.vision_hidden_states,
            vision_attentions=video.vision_attentions,
            temporal_hidden_states=video.hidden_states,
            temporal_attentions=video.attentions,
            text_hidden_states=text.hidden_states,
            text_attentions=text.attentions,
            fusion_hidden_states=fused.hidden_states,
            fusion_attentions=fused.attentions,
        )
        return output, embeddings

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.FloatTensor,
        frame_mask: torch.BoolTensor | None = None,
        frame_sizes: torch.LongTensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> CVLSVideoFeatures:
        """What the clips give, whatever the sentences. Each clip is encoded at its own size.

        For a video that is longer than a window, `self.vision` has the same in three steps: `get_frame_features` and
        `get_motion_features`, once per frame, and `get_window_features`, once per window.

        Args:
            pixel_values_videos, frame_mask, frame_sizes, output_hidden_states, output_attentions: as for `forward`.

        Returns:
            [`CVLSVideoFeatures`], which `forward` takes in place of these arguments.
        """
        wanted = self._wanted_states(output_hidden_states, output_attentions)
        return self.vision(pixel_values_videos, frame_mask, frame_sizes, **wanted)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        sentence_mask: torch.BoolTensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPooling:
        """What the sentences give, whatever the clips.

        Args:
            input_ids, attention_mask, sentence_mask, output_hidden_states, output_attentions: as for `forward`.

        Returns:
            last_hidden_state (B, K, L, hidden_size), the words; pooler_output (B, K, hidden_size), the sentences;
            hidden_states and attentions of the text encoder, its batch being B * K sentences.
        """
        words = word_mask_of(attention_mask, sentence_mask)
        words = torch.ones_like(input_ids) if words is None else words.to(torch.int64)
        wanted = self._wanted_states(output_hidden_states, output_attentions)
        outputs = self.language(input_ids.flatten(0, 1), words.flatten(0, 1), **wanted)
        outputs.last_hidden_state = outputs.last_hidden_state.unflatten(0, input_ids.shape[:2])
        outputs.pooler_output = outputs.pooler_output.unflatten(0, input_ids.shape[:2])
        return outputs

    def fuse(
        self,
        video: CVLSVideoFeatures,
        text: BaseModelOutputWithPooling,
        word_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        sentence_state: CVLSSentenceState | None = None,
    ) -> CVLSFusedFeatures:
        """Each sentence and its clip's tokens, fused with each other.

        Args:
            video: of `get_video_features`.
            text: of `get_text_features`.
            word_mask: (B, K, L) bool, false on padding; None: there is none.
            output_hidden_states, output_attentions: whether to return those of the fusion.
            sentence_state: as for `forward`.
        """
        tokens, sentence = video.last_hidden_state, text.pooler_output
        batch, sentences = sentence.shape[:2]
        grid = tokens.shape[1:4]
        tokens = tokens[:, None].expand(-1, sentences, -1, -1, -1, -1)
        if sentence_state is not None:
            if not self.config.carry_state:
                raise ValueError("`sentence_state` needs a model whose configuration has `carry_state`")
            tokens = tokens + self.carry.marks(sentence_state, grid[0])
        tokens = tokens.flatten(2, 4).flatten(0, 1)
        words, sentence = text.last_hidden_state.flatten(0, 1), sentence.flatten(0, 1)[:, None]
        token_mask = said_mask = None
        if video.token_mask is not None:
            token_mask = video.token_mask[:, None].expand(-1, sentences, -1, -1, -1).flatten(2).flatten(0, 1)
        if word_mask is not None:
            said_mask = mask_with_sentence(word_mask.flatten(0, 1))
        # stands for the sentence followed by its words, of which the mask's maker reads nothing but the length
        said = words.new_empty((1, 1, 1)).expand(words.shape[0], words.shape[1] + 1, 1)
        token_mask = create_bidirectional_mask(self.config, sentence, token_mask, tokens)
        said_mask = create_bidirectional_mask(self.config, tokens, said_mask, said)

        hidden_states, attentions = (tokens,), ()
        for layer in self.fusion:
            tokens, sentence, weights = layer(tokens, words, sentence, token_mask, said_mask)
            hidden_states = (*hidden_states, tokens) if output_hidden_states else ()
            attentions = (*attentions, *weights) if output_attentions else ()
        tokens = self.norm_tokens(tokens).view(batch, sentences, *grid, -1)
        if video.frame_sizes is not None:
            tokens = extend_edges(tokens.movedim(-1, 2), video.frame_sizes // self.config.token_stride).movedim(2, -1)
        return CVLSFusedFeatures(
            token_features=tokens,
            sentence_features=self.norm_sentence(sentence).view(batch, sentences, -1),
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )

    def contrastive_head(self, video: CVLSVideoFeatures, fused: CVLSFusedFeatures) -> CVLSEmbeddings:
        """The embeddings that the contrast compares, for a model with the contrast switched on."""
        return self.contrast(video.pixel_features, fused.token_features, fused.sentence_features)

    def select_referent(
        self, video: CVLSVideoFeatures, fused: CVLSFusedFeatures, similarity: torch.Tensor
    ) -> ReferentSelection:
        """What the contrast finds most similar (B, K, T, H/4, W/4) to each sentence, per frame and in the clip."""
        return select_referent(
            fused.token_features, video.token_mask, similarity, self.config.temperature, self.choice_sharpness
        )

    def predict_masks(
        self,
        video: CVLSVideoFeatures,
        fused: CVLSFusedFeatures,
        selection: ReferentSelection | None = None,
        sentence_state: CVLSSentenceState | None = None,
    ) -> torch.Tensor:
        """Mask logits (B, K, T, H/4, W/4): the similarity selects the object, a query of it draws its outline.

        What is selected in the frame, and in the whole clip, so that one object is meant in all frames, joins the
        sentence in its query. The coarse part is upsampled as a map of logits, so that no stride-4 features exist once
        per sentence.
        """
        pixels, tokens = video.pixel_features, fused.token_features
        query = fused.sentence_features[:, :, None].expand(-1, -1, tokens.shape[2], -1)
        if selection is not None:
            query = query + self.frame_query(selection.of_frame) + self.clip_query(selection.of_clip)[:, :, None]
        fine = torch.einsum("btchw,bktc->bkthw", pixels, self.pixel_query(query)) * pixels.shape[2] ** -0.5
        coarse = torch.einsum("bkthwc,bktc->bkthw", tokens, self.token_query(query)) * tokens.shape[-1] ** -0.5
        mask_logits = fine + upsample(coarse, fine.shape[-2:]) + self.mask_bias
        if selection is not None:
            mask_logits = mask_logits + self.similarity_scale * selection.logits
        if sentence_state is not None:
            mask_logits = mask_logits + self.carry.logits(sentence_state, pixels.shape[1], fine.shape[-2:])
        return mask_logits if video.frame_sizes is None else extend_edges(mask_logits, video.frame_sizes // 4)

    def predict_presence(self, fused: CVLSFusedFeatures, selection: ReferentSelection | None = None) -> torch.Tensor:
        """Presence logits (B, K), from the sentence that has met the clip and from what was selected. The presence head
        sends no gradient into the selection: nearly every sentence has a referent, and any selection would do for
        those."""
        sentence = fused.sentence_features
        if selection is not None:
            found = torch.cat([selection.of_clip, selection.similarity[..., None]], dim=-1)
            sentence = sentence + self.presence_query(found.detach())
        return self.presence(sentence)[..., 0]

    def _video_features(
        self,
        pixel_values_videos: torch.Tensor | None,
        frame_mask: torch.Tensor | None,
        frame_sizes: torch.Tensor | None,
        video_features: CVLSVideoFeatures | None,
        wanted: dict[str, bool],
    ) -> CVLSVideoFeatures:
        """The features that were given, or those of the frames that were given."""
        if (pixel_values_videos is None) == (video_features is None):
            raise ValueError("give either `pixel_values_videos` or `video_features`, and not both")
        if video_features is None:
            return self.get_video_features(pixel_values_videos, frame_mask, frame_sizes, **wanted, return_dict=True)
        if frame_mask is not None or frame_sizes is not None:
            raise ValueError("`video_features` hold `frame_mask` and `frame_sizes`: do not give them again")
        return video_features

    def _losses(
        self,
        targets: CVLSTargets,
        video: CVLSVideoFeatures,
        text: BaseModelOutputWithPooling,
        output: CVLSOutput,
        embeddings: CVLSEmbeddings | None,
    ) -> CVLSLosses:
        shares = aligned = None
        if embeddings is not None:
            shares = targets.instance_shares(output.mask_logits.shape[-2:])
            if self.config.alignment_weight > 0:
                before = video.pixel_features, video.last_hidden_state, text.pooler_output
                aligned = self.alignment(*before, targets.sentence_mask, targets.annotated_shares(shares))
        predicted = output.mask_logits, output.presence_logits, output.similarity
        return self.criterion(targets, *predicted, embeddings, shares, aligned)

    def _wanted_states(self, output_hidden_states: bool | None, output_attentions: bool | None) -> dict[str, bool]:
        given = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return {name: bool(getattr(self.config, name) if value is None else value) for name, value in given.items()}


def _check_same_batch(sentences: torch.Tensor, video: CVLSVideoFeatures) -> None:
    clips = video.last_hidden_state.shape[0]
    if sentences.shape[0] != clips:
        raise ValueError(
            f"`input_ids` is of {sentences.shape[0]} clips and the video of {clips}; both start with the batch: (B, K, "
            "L) and `pixel_values_videos` (B, T, 3, H, W)"
        )


register_conversions(CVLSModel.__name__)
CVLSModel.register_for_auto_class("AutoModel")

__all__ = ["CVLSModel", "CVLSOutput", "CVLSPreTrainedModel"]
