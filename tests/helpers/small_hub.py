"""A hub on this machine: enough of the Hugging Face hub's HTTP API to make repositories, commit to them and download snapshots."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_for_this_test_only"


@dataclass
class Repository:
    """All that a repository is here: who may read it, and the files of every commit, the last one being `main`."""

    private: bool
    gated: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)

    def sha(self, number: int) -> str:
        return hashlib.sha1(f"{id(self)} {number}".encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return self.commits[-1] if self.commits else {}
        return next((files for number, files in enumerate(self.commits) if self.sha(number) == revision), None)

    def commit(self, revision: str) -> str:
        return self.head if revision == "main" else revision

    @property
    def head(self) -> str:
        return self.sha(len(self.commits) - 1)


@dataclass
class Hub:
    """The state of the server, and how it shall misbehave."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    broken: bool = False
    read_only: bool = False


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: object = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def repository(self, name: str) -> Repository | None:
            """The repository, where this caller may see it; else the refusal has been sent."""
            found = hub.repositories.get(name)
            trusted = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if found is None or (found.private and not trusted):
                self.answer(404 if trusted else 401, {}, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
                return None
            if found.gated:
                self.answer(403, {}, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
                return None
            return found

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if hub.broken:
                return self.answer(500, {"error": "the disk of the hub is broken"})
            if path.startswith("/api/models/"):
                name, _, rest = path.removeprefix("/api/models/").partition("/revision/")
                name, _, tree = name.partition("/tree/")
                if (repository := self.repository(name)) is None:
                    return None
                revision = rest or tree or "main"
                if (files := repository.files(revision)) is None:
                    return self.answer(404, {}, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
                if tree:
                    return self.answer(
                        200,
                        [
                            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                            for path, data in files.items()
                        ],
                    )
                return self.answer(
                    200,
                    {
                        "id": name,
                        "modelId": name,
                        "private": repository.private,
                        "sha": repository.commit(revision),
                        "siblings": [],
                        "tags": [],
                    },
                )
            name, _, rest = path.lstrip("/").partition("/resolve/")
            if (repository := self.repository(name)) is None:
                return None
            revision, _, file = rest.partition("/")
            files = repository.files(revision)
            if files is None or file not in files:
                return self.answer(404, {}, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            etag = hashlib.sha1(files[file]).hexdigest()
            return self.answer(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=repository.commit(revision))

        do_HEAD = do_GET

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"POST {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(401, {"error": "Invalid username or password."})
            if hub.read_only:
                return self.answer(403, {"error": "the token cannot write"})
            if path == "/api/repos/create":
                wanted = json.loads(body)
                name = f"{wanted['organization']}/{wanted['name']}"
                url = f"http://{self.headers['Host']}/{name}"
                if name in hub.repositories:
                    return self.answer(409, {"error": "You already created this model repo", "url": url})
                hub.repositories[name] = Repository(wanted.get("private") is True or wanted.get("visibility") == "private")
                return self.answer(200, {"url": url, "id": name})
            name, _, rest = path.removeprefix("/api/models/").partition("/preupload/")
            if rest:
                files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
                return self.answer(200, {"files": files})
            name, _, rest = name.partition("/commit/")
            repository = hub.repositories[name]
            lines = [json.loads(line) for line in body.splitlines()]
            added = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
            repository.commits.append(repository.files("main") | added)
            url = f"http://{self.headers['Host']}/{name}/commit/{repository.head}"
            return self.answer(200, {"commitUrl": url, "commitOid": repository.head, "success": True})

    return Handler


@contextmanager
def small_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve an empty hub, and let huggingface_hub talk to it, logged in, with its cache in `cache`."""
    from huggingface_hub import close_session, constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()  # the client that is open already knows nothing of NO_PROXY
    try:
        yield hub
    finally:
        close_session()
        server.shutdown()
        thread.join()
        server.server_close()
