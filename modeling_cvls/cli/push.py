"""`cvls push`: a trained segmenter goes up to the Hub in one commit."""

from pathlib import Path

from jsonargparse import ArgumentParser

DESCRIPTION = """Pushes a trained segmenter to the Hub in one commit: weights, configuration, processor, code and model
card. Log in first with `hf auth login`, or set HF_TOKEN. If the command is interrupted, the repository stays as it was;
run it again."""


def main(arguments: list[str] | None = None, prog: str = "cvls push") -> None:
    parser = ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("--model", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--repo-id", required=True, help="the repository, USER/NAME; it is made if there is none")
    parser.add_argument("--private", action="store_true", help="only you or your organization can see the repository")
    parser.add_argument("--revision", help="branch to push to, made if there is none; without it, main")
    parser.add_argument("--max-shard-size", default="5GB", help="largest file of weights")
    args = parser.parse_args(arguments)
    from ..push import push  # after the arguments were read, so that help comes at once

    url = push(args.model, args.repo_id, args.private, args.revision, args.max_shard_size)
    print(f"pushed: {url}")
    print(f'load it: pipeline("video-language-segmentation", model="{args.repo_id}", trust_remote_code=True)')
