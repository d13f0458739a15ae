"""Puts a trained segmenter up on the Hub, in one commit: weights, configuration, processor, code and model card.

python scripts/push_to_hub.py --model outputs/demo/checkpoint --repo-id USER/NAME [--private]

The card is the checkpoint's README.md (scripts/report.py and the trainer write it, with the measured results); without
one, a card without results. Log in before, with `hf auth login` or the environment's HF_TOKEN. Where it is interrupted,
the repository stays as it was; start it again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoProcessor

from modeling_cvls import CVLSModel
from modeling_cvls.hub_cvls import rename
from modeling_cvls.model_card import make_card


def push(model_folder: Path, repo_id: str, private: bool, revision: str | None, max_shard_size: str) -> str:
    """Makes the repository where there is none, pushes the checkpoint; returns the URL of the commit."""
    if not (model_folder / "config.json").is_file():
        raise FileNotFoundError(f"{model_folder} is no folder of a checkpoint: it holds no config.json")
    model = CVLSModel.from_pretrained(model_folder)
    processor = AutoProcessor.from_pretrained(model_folder)
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--repo-id", required=True, help="where to: USER/NAME")
    parser.add_argument("--private", action="store_true", help="seen only by you, or your organization")
    parser.add_argument("--revision", help="branch to push to, made where there is none; default: main")
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights")
    args = parser.parse_args(arguments)
    try:
        url = push(args.model, args.repo_id, args.private, args.revision, args.max_shard_size)
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"pushed: {url}")
    print(f'load it: pipeline("video-language-segmentation", model="{args.repo_id}", trust_remote_code=True)')


if __name__ == "__main__":
    main()
