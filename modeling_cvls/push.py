"""A trained segmenter goes up to the Hub in one commit: weights, configuration, processor, code and model card."""

import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

from .hub_cvls import rename
from .launch import load_model, load_processor
from .model_card import make_card


def push(
    model_folder: Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    max_shard_size: str = "5GB",
) -> str:
    """Makes the repository where there is none and pushes a checkpoint to it.

    The card is the checkpoint's README.md, which `cvls report` and the trainer write with the measured results;
    without it, a card without results. Where pushing is interrupted, the repository stays as it was.

    Args:
        model_folder: folder of the checkpoint.
        repo_id: USER/NAME.
        private: seen only by the user or the organization.
        revision: branch to push to, made where there is none; default: main.
        max_shard_size: the largest file of weights.

    Returns:
        The URL of the commit.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: naming a file of the checkpoint that is damaged.
        ValueError: private was asked for, and the repository is public.
        HfHubHTTPError, HFValidationError: the Hub refuses.
    """
    if not (model_folder / "config.json").is_file():
        raise FileNotFoundError(f"{model_folder} is no folder of a checkpoint: it holds no config.json")
    model = load_model(model_folder, "--model")
    processor = load_processor(model_folder, "--model", model)
    own_card = model_folder / "README.md"

    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    if private and not api.model_info(repo_id).private:
        raise ValueError(f"{repo_id} exists and is public: make it private in its settings, or give another name")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    card = rename(ModelCard.load(own_card), repo_id) if own_card.is_file() else make_card(model, repo_id)
    with tempfile.TemporaryDirectory() as folder:
        # saved anew: the code that goes up is the code that has just loaded the checkpoint
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        processor.save_pretrained(folder)
        card.save(Path(folder) / "README.md")
        files = {path.name: path for path in Path(folder).iterdir()}
        stale = [
            name
            for name in api.list_repo_files(repo_id, revision=revision)
            if name not in files and name.endswith((".safetensors", ".safetensors.index.json"))
        ]
        # one commit, not `upload_folder`, which may take several: whoever loads meanwhile gets all of it or nothing
        return api.create_commit(
            repo_id=repo_id,
            operations=[CommitOperationAdd(name, path) for name, path in files.items()]
            + [CommitOperationDelete(name) for name in stale],
            commit_message="Upload CVLS segmenter",
            revision=revision,
        ).commit_url
