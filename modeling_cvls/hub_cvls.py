"""The model card goes along when a checkpoint is loaded somewhere and pushed elsewhere."""

import re
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError


def push_card(source: str, repo_id: str, private: bool | None = None, token: str | bool | None = None) -> str:
    """Makes the repository where there is none, and gives it the card of the checkpoint that `source`, a folder or a
    name on the Hub, holds; unless the repository has a card, or the checkpoint has none. Returns its USER/NAME.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if not api.file_exists(repo_id, "README.md") and (card := load_card(source, token)):
        rename(card, repo_id).push_to_hub(repo_id, token=token, commit_message="Upload model card")
    return repo_id


def load_card(source: str, token: str | bool | None = None) -> ModelCard | None:
    """The card of the checkpoint that `source`, a folder or a name on the Hub, holds; None where it has none."""
    own = Path(source) / "README.md"
    if not source or (Path(source).is_dir() and not own.is_file()):
        return None
    try:
        return ModelCard.load(own if own.is_file() else source, token=token)
    except (EntryNotFoundError, RepositoryNotFoundError, HFValidationError):
        return None


def rename(card: ModelCard, repo_id: str) -> ModelCard:
    """The card of the same model at another place: its title, its results' model and the code in it name `repo_id`."""
    card.data.model_name = repo_id.split("/")[-1]
    card.text = re.sub(r"^# .*$", f"# {card.data.model_name}", card.text, count=1, flags=re.MULTILINE)
    card.text = re.sub(r'model="[^"]*"', f'model="{repo_id}"', card.text)
    return card


__all__ = ["load_card", "push_card", "rename"]
