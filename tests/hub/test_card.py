"""What a model card says, and its new name."""

from huggingface_hub import EvalResult, ModelCard

from modeling_cvls.hub_cvls import rename
from modeling_cvls.model_card import make_card


def test_card_names_base_models_and_data_set_of_the_hub_only(make_model, tmp_path):
    model = make_model()
    model.config.backbone_config._name_or_path = "microsoft/resnet-50"
    model.config.text_config._name_or_path = str(tmp_path)
    card = make_card(model, "someone/model", {"J&F": 0.5, "num_objects": 1}, dataset="someone/davis", split="valid")
    assert card.data.base_model == ["microsoft/resnet-50"]
    assert card.data.datasets == ["someone/davis"]
    assert card.data.eval_results == [
        EvalResult(
            task_type="image-segmentation", task_name="Video-language segmentation", dataset_type="someone/davis",
            dataset_name="davis", dataset_split="valid", metric_type="J&F", metric_value=0.5,
        )
    ]  # fmt: skip
    model.config._name_or_path = "someone/segmenter"
    assert make_card(model, "someone/model").data.base_model == ["someone/segmenter"]
    assert make_card(model, "someone/model").data.eval_results is None


def test_a_renamed_card_is_the_card_made_for_the_new_name(make_model, tmp_path):
    given = {"results": {"mean_iou": 0.5}, "dataset": str(tmp_path), "split": "test"}
    make_card(make_model(), str(tmp_path / "checkpoint"), **given).save(tmp_path / "README.md")
    renamed = rename(ModelCard.load(tmp_path / "README.md"), "someone/else")
    assert renamed.content == make_card(make_model(), "someone/else", **given).content
