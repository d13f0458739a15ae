"""A small Hub on loopback, of the standard library: the routes that pushing and loading a model take, and no more.

    with LoopbackHub() as hub:
        run_client(env=hub.environment(cache_folder))

Repositories are kept in memory: commits are maps of paths to bytes, a branch or a tag names a commit. Whoever bears the
token may write and read what is private.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

USER = "tester"
TOKEN = "hf_loopback"


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, ref: str, files: dict[str, bytes], message: str) -> str:
        self.messages.append(message)
        content = "".join(f"{path} {hashlib.sha1(data).hexdigest()}\n" for path, data in sorted(files.items()))
        sha = hashlib.sha1(f"{len(self.messages)}\n{content}".encode()).hexdigest()
        self.commits[sha] = files
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


class LoopbackHub:
    """The server; a context manager.

    Attributes:
        repositories: by "user/name".
        hold_after_upload: while set, the answer to an upload of weights is held back. `uploaded` is set meanwhile, so
            that a test can end the client between upload and commit.
        requests: (method, path) of every request.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.hold_after_upload = False
        self.uploaded, self.release = threading.Event(), threading.Event()
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home, token: str | None = TOKEN) -> dict[str, str]:
        """What a client must have in its environment before it imports huggingface_hub."""
        environment = {"HF_ENDPOINT": self.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return environment | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.refs.get(revision, revision)]


class _Refusal(Exception):
    def __init__(self, status: int, code: str):
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet

    def log_message(self, *_) -> None:
        pass

    def _answer(self, status: int, body: dict | list | bytes = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
        try:
            self._route(self.command, [unquote(part) for part in path.strip("/").split("/")], body)
        except _Refusal as refusal:
            self._answer(refusal.status, {"error": refusal.code}, {"X-Error-Code": refusal.code})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._may_write()):
            # the Hub does not tell a stranger whether a repository exists
            raise _Refusal(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        return repository

    @staticmethod
    def _files(repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        sha = repository.find(revision)
        if sha is None:
            raise _Refusal(404, "RevisionNotFound")
        return sha, repository.commits[sha]

    def _route(self, method: str, parts: list[str], body: bytes) -> None:
        open_to_all = method in ("GET", "HEAD") or parts[0] == "objects" or parts == ["api", "validate-yaml"]
        if not open_to_all and not self._may_write():
            raise _Refusal(401, "Unauthorized")
        match method, parts:
            case "GET", ["api", "whoami-v2"]:
                self._answer(200, {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})
            case "POST", ["api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case "POST", ["api", "repos", "create"]:
                self._create(json.loads(body))
            case "GET", ["api", "models", user, name]:
                self._info(f"{user}/{name}", "main")
            case "GET", ["api", "models", user, name, "revision", *revision]:
                self._info(f"{user}/{name}", "/".join(revision))
            case "GET", ["api", "models", user, name, "tree", revision, *folder]:
                self._tree(f"{user}/{name}", revision, "/".join(folder))
            case "POST", ["api", "models", user, name, "tag" | "branch" as kind, ref]:
                repository, wanted = self._repository(f"{user}/{name}"), json.loads(body)
                start = ref if kind == "tag" else wanted.get("startingPoint", "main")
                repository.refs[wanted["tag"] if kind == "tag" else ref], _ = self._files(repository, start)
                self._answer(200)
            case "POST", ["api", "models", user, name, "preupload", _]:
                self._repository(f"{user}/{name}")
                files = [
                    {
                        "path": file["path"],
                        "shouldIgnore": False,
                        "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".bin")) else "regular",
                    }
                    for file in json.loads(body)["files"]
                ]
                self._answer(200, {"files": files})
            case "POST", [_, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                objects = []
                for wanted in json.loads(body)["objects"]:
                    if wanted["oid"] not in self.hub.objects:
                        wanted["actions"] = {"upload": {"href": f"{self.hub.endpoint}/objects/{wanted['oid']}"}}
                    objects.append(wanted)
                self._answer(200, {"transfer": "basic", "objects": objects})
            case "PUT", ["objects", oid]:
                if hashlib.sha256(body).hexdigest() != oid:
                    raise _Refusal(400, "HashMismatch")
                self.hub.objects[oid] = body
                if self.hub.hold_after_upload:
                    self.hub.uploaded.set()
                    self.hub.release.wait(60)
                with contextlib.suppress(ConnectionError):  # the client may have been ended meanwhile
                    self._answer(200)
                    self.wfile.flush()
            case "POST", ["api", "models", user, name, "commit", revision]:
                self._commit(f"{user}/{name}", revision, body)
            case (("GET" | "HEAD"), [user, name, "resolve", revision, *path]) if path:
                self._resolve(f"{user}/{name}", revision, "/".join(path))
            case _:
                raise _Refusal(404, "EntryNotFound")

    def _create(self, wanted: dict) -> None:
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}
        with self.hub.lock:
            exists = name in self.hub.repositories
            if not exists:
                private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
                self.hub.repositories[name] = Repository(private)
                self.hub.repositories[name].commit("main", {".gitattributes": b""}, "initial commit")
        self._answer(409 if exists else 200, url)

    def _info(self, name: str, revision: str) -> None:
        repository = self._repository(name)
        sha, files = self._files(repository, revision)
        info = {"id": name, "modelId": name, "sha": sha, "private": repository.private}
        info |= {"siblings": [{"rfilename": path} for path in sorted(files)]}
        card = files.get("README.md", b"").decode()
        info |= dict(re.findall(r"^(pipeline_tag|library_name): (\S+)$", card, flags=re.MULTILINE))
        self._answer(200, info)

    def _tree(self, name: str, revision: str, folder: str) -> None:
        _, files = self._files(self._repository(name), revision)
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in sorted(files) if path.startswith(prefix)]
        if not inside:
            raise _Refusal(404, "EntryNotFound")
        self._answer(
            200,
            [
                {
                    "type": "file",
                    "path": path,
                    "size": len(files[path]),
                    "oid": hashlib.sha1(files[path]).hexdigest(),
                }
                for path in inside
            ],
        )

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        repository = self._repository(name)
        message = ""
        with self.hub.lock:
            files = dict(self._files(repository, revision)[1])
            for line in body.splitlines():
                match json.loads(line):
                    case {"key": "header", "value": value}:
                        message = value["summary"]
                    case {"key": "file", "value": value}:
                        files[value["path"]] = base64.b64decode(value["content"])
                    case {"key": "lfsFile", "value": value}:
                        files[value["path"]] = self.hub.objects[value["oid"]]
                    case {"key": "deletedFile", "value": value}:
                        del files[value["path"]]
            sha = repository.commit(revision, files, message)
        self._answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        sha, files = self._files(self._repository(name), revision)
        if path not in files:
            raise _Refusal(404, "EntryNotFound")
        etag = hashlib.sha256(files[path]).hexdigest()
        self._answer(200, files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": sha})
