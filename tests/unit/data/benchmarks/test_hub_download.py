"""Download of benchmarks by name, from a local server with the interface of the hub."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from hbt_ray.data.benchmarks import load_benchmark
from hbt_ray.errors import UserError


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
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Run the server, and let the hub's library, which reads its address when it is imported, use it."""
    server = HubServer()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HBT_BENCHMARKS", str(tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()


def test_benchmark_is_downloaded_once_and_then_checked(hub: HubServer, tmp_path: Path):
    first = load_benchmark("beir/tiny", None).judgements
    assert first == {"q": {"p": 1}}
    assert hub.requests
    assert not [path for path in hub.requests if "huge.bin" in path]
    hub.requests.clear()
    assert load_benchmark("beir/tiny", None).judgements == first
    assert hub.requests == []
    corpus = tmp_path / "beir-tiny-test" / "corpus.jsonl.gz"
    corpus.write_bytes(corpus.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"corpus.jsonl.gz is not as it was fetched; delete"):
        load_benchmark("beir/tiny", None)


@pytest.mark.parametrize(
    ("name", "judgements", "files"),
    [
        ("miracl/sw", {"sw:q": {"sw:p": 1}}, {"topics.miracl-v1.0-sw-dev.tsv", "qrels.miracl-v1.0-sw-dev.tsv"}),
        ("mrtydi/sw", {"sw:q": {"sw:p": 1}}, {"test.jsonl.gz"}),
        ("mldr/de", {"de:q": {"de:p": 1}}, {"test.jsonl.gz"}),
    ],
)
def test_only_the_files_of_the_language_are_downloaded(
    hub: HubServer, tmp_path: Path, name: str, judgements: dict[str, dict[str, int]], files: set[str]
):
    assert load_benchmark(name, None).judgements == judgements
    kept = json.loads(next(tmp_path.rglob("sha256.json")).read_text())
    passages = "docs-0.jsonl.gz" if name == "miracl/sw" else "corpus.jsonl.gz"
    assert {Path(file).name for file in kept} == {*files, passages}


@pytest.mark.parametrize(
    ("name", "languages"),
    [("miracl/swahili", "ar, bn, de"), ("mrtydi/swahili", "ar, bn, en"), ("mldr/sw", "ar, de, en")],
)
def test_unknown_language_is_refused_without_a_request(hub: HubServer, name: str, languages: str):
    family = name.partition("/")[0]
    with pytest.raises(UserError, match=f"there is no benchmark {name!r}; languages of {family}: {languages}"):
        load_benchmark(name, None)
    assert hub.requests == []


def test_missing_data_set_is_named(hub: HubServer, tmp_path: Path):
    with pytest.raises(UserError, match=r"(?s)cannot be fetched from BeIR/none.*write beir/none=FOLDER"):
        load_benchmark("beir/none", None)
    assert not list(tmp_path.rglob("sha256.json"))
