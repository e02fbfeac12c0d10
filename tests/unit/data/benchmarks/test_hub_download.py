"""Download of benchmarks by name, from a local server with the interface of the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def packed(line: object) -> bytes:
    """Return a line of JSON, gzipped."""
    return gzip.compress(json.dumps(line).encode() + b"\n")


PASSAGE = {"docid": "p", "title": "", "text": "Hapa."}
QUESTION = {"query_id": "q", "query": "Wapi?", "positive_passages": [PASSAGE]}
SETS = {
    "BeIR/tiny": {
        "corpus.jsonl.gz": packed({"_id": "p", "title": "", "text": "Here."}),
        "queries.jsonl.gz": packed({"_id": "q", "text": "Where?"}),
        "huge.bin": b"not requested",
    },
    "miracl/miracl": {
        "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv": b"q\tWapi?\n",
        "miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-train.tsv": b"r\tNani?\n",
        "miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv": b"q\tQ0\tp\t1\n",
        "miracl-v1.0-te/topics/topics.miracl-v1.0-te-dev.tsv": b"r\tx\n",
    },
    "miracl/miracl-corpus": {"miracl-corpus-v1.0-sw/docs-0.jsonl.gz": packed(PASSAGE)},
    "castorini/mr-tydi": {
        "mrtydi-v1.1-swahili/test.jsonl.gz": packed(QUESTION),
        "mrtydi-v1.1-swahili/train.jsonl.gz": packed(QUESTION),
        "mrtydi-v1.1-swahili/ir-format-data/topics.test.txt": b"q\tWapi?\n",
    },
    "castorini/mr-tydi-corpus": {"mrtydi-v1.1-swahili/corpus.jsonl.gz": packed(PASSAGE)},
    "Shitao/MLDR": {
        "mldr-v1.0-de/corpus.jsonl.gz": packed(PASSAGE),
        "mldr-v1.0-de/test.jsonl.gz": packed(QUESTION),
        "mldr-v1.0-de/train.jsonl.gz": packed(QUESTION),
    },
    "BeIR/tiny-qrels": {"test.tsv": b"query-id\tcorpus-id\tscore\nq\tp\t1\n"},
}


class HubHandler(BaseHTTPRequestHandler):
    """Responds to the requests of a download of a data set."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        assert isinstance(self.server, HubServer)
        self.server.requests.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        repository = "/".join(parts[2:4] if api else parts[1:3])
        files = SETS.get(repository)
        commit = hashlib.sha1(repository.encode()).hexdigest()
        body: bytes | None = None
        headers = {"X-Repo-Commit": commit, "Content-Type": "application/json"}
        if files is not None and api and "tree" in parts:
            listed = [
                {"type": "file", "path": f, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for f, c in files.items()
            ]
            body = json.dumps(listed).encode()
        elif files is not None and api:
            siblings = [{"rfilename": file} for file in files]
            body = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
        elif files is not None and (file := "/".join(parts[5:])) in files:  # datasets/OWNER/NAME/resolve/COMMIT/FILE
            body = files[file]
            headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        self.send_response(404 if body is None else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class HubServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.requests: list[str] = []  # paths


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def load(name: str, hub: HubServer, home: Path) -> subprocess.CompletedProcess[str]:
    """Load a benchmark in a subprocess, because the hub's library reads the address when it is imported."""
    code = (
        "import sys; from hbt_ray.data.benchmarks import load_benchmark; from hbt_ray.errors import UserError\n"
        "try: print(load_benchmark(sys.argv[1], None).judgements)\n"
        "except UserError as error: sys.exit(str(error))"
    )
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HBT_BENCHMARKS": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", code, name], env=environment, capture_output=True, text=True, timeout=60
    )


def test_benchmark_is_downloaded_once_and_then_checked(hub: HubServer, tmp_path: Path):
    first = load("beir/tiny", hub, tmp_path)
    assert first.stdout.strip() == "{'q': {'p': 1}}", first.stderr
    assert not [path for path in hub.requests if "huge.bin" in path]
    hub.requests.clear()
    assert load("beir/tiny", hub, tmp_path).stdout == first.stdout
    assert hub.requests == []
    corpus = tmp_path / "beir-tiny-test" / "corpus.jsonl.gz"
    corpus.write_bytes(corpus.read_bytes()[:-1])
    again = load("beir/tiny", hub, tmp_path)
    assert again.returncode == 1
    assert "corpus.jsonl.gz is not as it was fetched; delete" in again.stderr


@pytest.mark.parametrize(
    ("name", "judgements", "files"),
    [
        ("miracl/sw", "{'sw:q': {'sw:p': 1}}", {"topics.miracl-v1.0-sw-dev.tsv", "qrels.miracl-v1.0-sw-dev.tsv"}),
        ("mrtydi/sw", "{'sw:q': {'sw:p': 1}}", {"test.jsonl.gz"}),
        ("mldr/de", "{'de:q': {'de:p': 1}}", {"test.jsonl.gz"}),
    ],
)
def test_only_the_files_of_the_language_are_downloaded(
    hub: HubServer, tmp_path: Path, name: str, judgements: str, files: set[str]
):
    loaded = load(name, hub, tmp_path)
    assert loaded.stdout.strip() == judgements, loaded.stderr
    kept = json.loads(next(tmp_path.rglob("sha256.json")).read_text())
    passages = "docs-0.jsonl.gz" if name == "miracl/sw" else "corpus.jsonl.gz"
    assert {Path(file).name for file in kept} == {*files, passages}


@pytest.mark.parametrize(
    ("name", "languages"),
    [("miracl/swahili", "ar, bn, de"), ("mrtydi/swahili", "ar, bn, en"), ("mldr/sw", "ar, de, en")],
)
def test_unknown_language_is_refused_without_a_request(hub: HubServer, tmp_path: Path, name: str, languages: str):
    error = load(name, hub, tmp_path).stderr
    assert f"there is no benchmark {name!r}; languages of {name.partition('/')[0]}: {languages}" in error
    assert hub.requests == []


def test_missing_data_set_is_named(hub: HubServer, tmp_path: Path):
    missing = load("beir/none", hub, tmp_path)
    assert "cannot be fetched from BeIR/none" in missing.stderr
    assert "write beir/none=FOLDER" in missing.stderr
    assert not list(tmp_path.rglob("sha256.json"))
