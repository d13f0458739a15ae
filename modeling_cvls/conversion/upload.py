"""Uploads a converted data set to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

from .shards import LEFT_OUT


def push_dataset(folder: Path, repo_id: str) -> None:
    """Uploads the folder that `write_dataset` wrote to the Hub's data set `repo_id` ("user/name").

    There is one commit, so that nothing half-uploaded loads. Shards of an earlier conversion go with the same commit.
    """
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        delete_patterns=["data/*", LEFT_OUT],
        commit_message="Upload data set",
    )
    print(f"Uploaded {folder} to {repo_id}")
