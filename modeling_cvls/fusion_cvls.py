"""The language side, and the layers in which a sentence and a clip's tokens meet."""

import inspect

import torch
import torch.nn.functional as F
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_cvls import CVLSConfig
from .layers_cvls import CVLSLayer, CVLSPreTrainedModel


class CVLSLanguage(CVLSPreTrainedModel):
    """The features of sentences: any text encoder, its words projected to the segmenter's width, their mean the
    sentence."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: CVLSConfig, encoder: nn.Module):
        super().__init__(config)
        self.encoder = encoder
        self.project = nn.Linear(config.text_config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            input_ids, attention_mask: (N, L) int64.
            output_hidden_states, output_attentions: whether to return those of the text encoder.

        Returns:
            last_hidden_state (N, L, hidden_size), the words; pooler_output (N, hidden_size), the sentences.
        """
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        outputs = self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            return_dict=True,
            **{name: True for name, value in wanted.items() if value},
        )
        words = self.norm(self.project(outputs.last_hidden_state))
        weights = attention_mask[..., None].to(words.dtype)
        return BaseModelOutputWithPooling(
            last_hidden_state=words,
            pooler_output=(words * weights).sum(dim=1) / weights.sum(dim=1),
            hidden_states=outputs.get("hidden_states") if output_hidden_states else None,
            attentions=outputs.get("attentions") if output_attentions else None,
        )


def without_pooler(text_config: PreTrainedConfig) -> dict[str, bool]:
    """Arguments of `AutoModel` that leave a text encoder's pooler out, which nothing here reads; none where the encoder
    has no such argument."""
    encoder_class = MODEL_MAPPING.get(type(text_config), None)
    has_argument = inspect.isclass(encoder_class) and "add_pooling_layer" in inspect.signature(encoder_class).parameters
    return {"add_pooling_layer": False} if has_argument else {}


class CVLSFusionLayer(nn.Module):
    """The clip's tokens attend to the words and the sentence; the sentence attends to the clip's tokens."""

    def __init__(self, config: CVLSConfig):
        super().__init__()
        self.tokens_to_words = CVLSLayer(config)
        self.sentence_to_tokens = CVLSLayer(config)

    def forward(
        self,
        tokens: torch.Tensor,
        words: torch.Tensor,
        sentence: torch.Tensor,
        token_attention_mask: torch.Tensor | None = None,
        word_attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor | None, torch.Tensor | None]]:
        """
        Args:
            tokens: (N, S, hidden_size).
            words: (N, L, hidden_size).
            sentence: (N, 1, hidden_size).
            token_attention_mask, word_attention_mask: what the library's `create_bidirectional_mask` makes of the
                padding in the tokens, and in the sentence followed by its words.

        Returns:
            tokens, sentence, and the attention weights of tokens to the sentence and its words (N, heads, S, 1 + L) and
            of the sentence to the tokens (N, heads, 1, S).
        """
        said = torch.cat([sentence, words], dim=1)
        tokens, to_words = self.tokens_to_words(tokens, said, word_attention_mask)
        sentence, to_tokens = self.sentence_to_tokens(sentence, tokens, token_attention_mask)
        return tokens, sentence, (to_words, to_tokens)


def word_mask_of(attention_mask: torch.Tensor | None, sentence_mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, K, L) bool, the words that are attended to; None: all of them. A padding sentence, or one without a word, has
    none: it looks at its first token, and its output is dropped."""
    if attention_mask is None:
        return None
    words = attention_mask.bool()
    said = words.any(dim=-1, keepdim=True)
    if sentence_mask is not None:
        said = said & sentence_mask.bool()[..., None]
    first = torch.arange(words.shape[-1], device=words.device) == 0
    return (words & said) | (first & ~said)  # not `where`, which onnxruntime has for no booleans


def mask_with_sentence(attention_mask: torch.Tensor) -> torch.Tensor:
    """(N, L) bool of words -> (N, 1 + L) of the sentence, which is never padding, followed by its words."""
    return F.pad(attention_mask, (1, 0), value=True)


__all__ = ["CVLSFusionLayer", "CVLSLanguage"]
