"""The hub is a server in this process that speaks the endpoints that are used, and notes which bytes it gave away."""

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from llm_envs.datasets import DatasetSource, DataUnavailableError, load_rows

pa = pytest.importorskip("pyarrow")
pytest.importorskip("huggingface_hub")

from huggingface_hub import constants  # noqa: E402
from pyarrow import parquet  # noqa: E402

from llm_envs.datasets import hub as hub_module  # noqa: E402
from llm_envs.datasets.hub import cache_path  # noqa: E402

REVISION = "0123456789abcdef0123456789abcdef01234567"
SOURCE = DatasetSource(
    name="toy",
    hub_id="owner/toy",
    revision=REVISION,
    hub_files={"train": "data/train-*.parquet", "test": "test.jsonl", "many": "*/many-*.parquet", "none": "no.jsonl"},
    columns=("question", "answer"),
    optional_columns=("level",),
)
TRACES_BYTES = 400_000


class Hub(ThreadingHTTPServer):
    """Files of one revision of one repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.bytes_sent: dict[str, int] = {}
        self.requests: list[str] = []
        self.whole: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        self.server.requests.append(f"{self.command} {self.path}")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api = f"/api/datasets/owner/toy/(?:tree|revision)/{REVISION}"
        if match := re.fullmatch(f"{api}/?(.*)", path):
            kind = "tree" if "/tree/" in path else "revision"
            self.reply_json(self.tree(match[1]) if kind == "tree" else {"id": "owner/toy", "sha": REVISION})
        elif path.startswith(start := f"/datasets/owner/toy/resolve/{REVISION}/"):
            self.reply_file(path.removeprefix(start))
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if not self.path.startswith(f"/api/datasets/owner/toy/paths-info/{REVISION}"):
            self.send_error(404)
            return
        asked = json.loads(body)["paths"] if body.startswith("{") else re.findall(r"paths=([^&]*)", unquote(body))
        self.reply_json([entry for entry in self.tree("") if entry["path"] in asked])

    def tree(self, folder: str) -> list[dict[str, Any]]:
        below = [name for name in self.server.files if fnmatch(name, f"{folder}/*" if folder else "*")]
        folders = {name.rpartition("/")[0] for name in below} - {"", folder}
        return [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)] + [
            {"type": "file", "path": name, "size": len(self.server.files[name]), "oid": "1" * 40} for name in below
        ]

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply_file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match:
            first, last = int(match[1]), min(int(match[2]), len(content) - 1)
            part = content[first : last + 1]
            self.reply(206, part, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
        else:
            part = content
            self.server.whole.append(name)
            self.reply(200, part, {})
        self.server.bytes_sent[name] = self.server.bytes_sent.get(name, 0) + len(part)

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "X-Repo-Commit": REVISION}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM_ENVS_DATA", raising=False)
    monkeypatch.delenv("LLM_ENVS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(hub_module, "_UNKEPT", {})
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def rows_of(numbers) -> list[dict[str, str]]:
    return [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in numbers]


def parquet_bytes(rows, *, traces=False, folder) -> bytes:
    """As the hub has them: many row groups, and where asked long columns that nobody can compress away."""
    table = pa.Table.from_pylist(rows)
    if traces:
        noise = [os.urandom(TRACES_BYTES // len(rows)) for _ in rows]
        for name in ("r1_solution_1", "r1_solution_2"):
            table = table.append_column(name, pa.array(noise))
    parquet.write_table(table, folder / "made.parquet", row_group_size=5)
    return bytes((folder / "made.parquet").read_bytes())


def test_only_the_needed_columns_are_fetched(hub, tmp_path):
    for number in (1, 0):
        rows = rows_of(range(10 * number, 10 * number + 10))
        name = f"data/train-0000{number}-of-00002.parquet"
        hub.files[name] = parquet_bytes(rows, traces=True, folder=tmp_path)
        assert len(hub.files[name]) > 2 * TRACES_BYTES
    assert list(load_rows(SOURCE, split="train")) == rows_of(range(20))  # in the order of the files' names
    # Arrow looks for the table of contents in the last 64 KiB; what lies between the needed columns it never sees.
    assert all(sent < 2 * (1 << 16) + 20_000 for sent in hub.bytes_sent.values()), hub.bytes_sent
    assert len(hub.bytes_sent) == 2
    assert hub.whole == []
    path = cache_path(SOURCE, "train")
    assert path == tmp_path / "cache" / "llm-envs" / f"toy-train-{REVISION[:12]}.parquet"
    assert parquet.read_schema(path).names == ["question", "answer"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_jsonl_file(hub):
    rows = [{**row, "level": 3, "trace": "long"} for row in rows_of(range(3))]
    hub.files["test.jsonl"] = "\n\n".join(map(json.dumps, rows)).encode()
    assert list(load_rows(SOURCE, split="test")) == [{**row, "level": 3} for row in rows_of(range(3))]


def test_files_in_several_folders(hub, tmp_path):
    for number, folder in enumerate(("b", "a")):
        hub.files[f"{folder}/many-0.parquet"] = parquet_bytes(rows_of([number]), folder=tmp_path)
        hub.files[f"{folder}/other-0.parquet"] = b"never read"
    assert list(load_rows(SOURCE, split="many")) == rows_of([1, 0])


def test_with_the_cache_file_nobody_is_asked(hub, monkeypatch):
    hub.files["test.jsonl"] = json.dumps(rows_of([1])[0]).encode()
    rows = load_rows(SOURCE, split="test")
    before = len(hub.requests)
    monkeypatch.setattr("llm_envs.datasets.hub.socket.create_connection", None)
    monkeypatch.setattr("llm_envs.datasets.hub.HfFileSystem", None)
    assert load_rows(SOURCE, split="test") is rows
    assert len(hub.requests) == before


@pytest.mark.parametrize("damage", ["truncated", "no parquet", "other columns"])
def test_a_damaged_or_foreign_cache_file_is_read_again(hub, damage):
    text = "What is it? " * 500
    hub.files["test.jsonl"] = json.dumps({"question": text, "answer": "1"}).encode()
    load_rows(SOURCE, split="test")
    path = cache_path(SOURCE, "test")
    good = path.read_bytes()
    if damage == "other columns":
        table = parquet.read_table(path).replace_schema_metadata({b"llm_envs": b"something else"})
        parquet.write_table(table, path)
    else:
        path.write_bytes({"truncated": good[:-20], "no parquet": b"?"}[damage])
    assert list(load_rows(SOURCE, split="test")) == [{"question": text, "answer": "1"}]
    assert path.read_bytes() == good


def test_no_flipped_bit_of_the_cache_file_changes_a_row(hub):
    rows = [{"question": os.urandom(300).hex(), "answer": "1"}]
    hub.files["test.jsonl"] = json.dumps(rows[0]).encode()
    assert list(load_rows(SOURCE, split="test")) == rows
    path = cache_path(SOURCE, "test")
    good = path.read_bytes()
    for position in range(0, len(good), 20):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        assert list(load_rows(SOURCE, split="test")) == rows


def test_missing_columns_and_files(hub, tmp_path):
    hub.files["data/train-0.parquet"] = parquet_bytes([{"question": "?"}], folder=tmp_path)
    with pytest.raises(DataUnavailableError, match=r"train-0\.parquet: no column \['answer'\]"):
        load_rows(SOURCE, split="train")
    hub.files["test.jsonl"] = b'{"question": "?"}'
    with pytest.raises(DataUnavailableError, match=r"test\.jsonl: no column \['answer'\]"):
        load_rows(SOURCE, split="test")
    with pytest.raises(DataUnavailableError, match=r"no file matches no\.jsonl"):
        load_rows(SOURCE, split="none")
    assert not cache_path(SOURCE, "train").exists()


def test_the_lines_of_a_large_file_are_not_held_in_memory_at_once(hub, monkeypatch):
    monkeypatch.setattr("llm_envs.datasets.hub._BATCH_BYTES", 200)
    tables: list[int] = []
    write = parquet.ParquetWriter.write_table

    def counted(self, table, *args, **kwargs):
        tables.append(table.num_rows)
        return write(self, table, *args, **kwargs)

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", counted)
    rows = rows_of(range(50))
    hub.files["test.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    assert list(load_rows(SOURCE, split="test")) == rows
    assert sum(tables) == 50
    assert len(tables) >= 10
    assert max(tables) < 10


def test_columns_that_only_a_later_file_has(hub, tmp_path):
    early, late = rows_of(range(3)), [{**row, "level": "hard"} for row in rows_of(range(3, 6))]
    bare = [{"question": row["question"], "answer": row["answer"]} for row in early]
    hub.files["data/train-0.parquet"] = parquet_bytes(bare, folder=tmp_path)
    hub.files["data/train-1.parquet"] = parquet_bytes(late, folder=tmp_path)
    rows = load_rows(SOURCE, split="train")
    assert [row.get("level") for row in rows] == [None] * 3 + ["hard"] * 3
    assert list(cache_path(SOURCE, "train").parent.iterdir()) == [cache_path(SOURCE, "train")]


def test_values_that_only_the_whole_shows_the_type_of(hub, monkeypatch):
    monkeypatch.setattr("llm_envs.datasets.hub._BATCH_BYTES", 1)
    rows = [{"question": "q", "answer": "a", "level": level} for level in (1, 2.5, None)]
    hub.files["test.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    assert [row["level"] for row in load_rows(SOURCE, split="test")] == [1.0, 2.5, None]


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("[1]", "a line is no object but list")])
def test_lines_that_are_no_rows(hub, text, message):
    hub.files["test.jsonl"] = text.encode()
    with pytest.raises(DataUnavailableError, match=message):
        load_rows(SOURCE, split="test")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_is_full(hub, monkeypatch, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        monkeypatch.setenv("LLM_ENVS_CACHE", str(small))
        rows = [{"question": os.urandom(2000).hex(), "answer": str(i), "level": None} for i in range(100)]
        hub.files["test.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
        with pytest.warns(UserWarning, match="is kept in memory"):
            assert [row["answer"] for row in load_rows(SOURCE, split="test")] == [row["answer"] for row in rows]
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_download_that_breaks_leaves_nothing_behind(hub, monkeypatch):
    hub.files["test.jsonl"] = json.dumps(rows_of([1])[0]).encode()

    def full_disk(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("llm_envs.datasets.hub.parquet.ParquetWriter.write_table", full_disk)
    with pytest.warns(UserWarning, match=r"owner/toy is kept in memory .* \(disk full\); LLM_ENVS_CACHE names another"):
        rows = load_rows(SOURCE, split="test")
    assert list(rows) == rows_of([1])
    assert list(cache_path(SOURCE, "test").parent.iterdir()) == []


def test_where_nothing_can_be_written_the_rows_stay_in_memory(hub, monkeypatch, tmp_path, capsys):
    hub.files["data/train-0.parquet"] = parquet_bytes(rows_of(range(3)), traces=True, folder=tmp_path)
    monkeypatch.setenv("LLM_ENVS_CACHE", str(tmp_path / "made.parquet" / "cache"))  # a file, not a folder
    with pytest.warns(UserWarning, match="kept in memory") as caught:
        rows = load_rows(SOURCE, split="train")
    assert len(caught) == 1
    assert "to be kept in memory\n" in capsys.readouterr().err  # known before anything is read
    assert list(rows) == list(pickle.loads(pickle.dumps(rows))) == rows_of(range(3))
    before = len(hub.requests)
    assert load_rows(SOURCE, split="train") is rows  # and no second warning
    assert len(hub.requests) == before


def test_the_folder_of_the_cache(monkeypatch):
    name = f"toy-test-{REVISION[:12]}.parquet"
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LLM_ENVS_CACHE", raising=False)
    assert cache_path(SOURCE, "test") == Path("/home/me/.cache/llm-envs", name)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_path(SOURCE, "test") == Path("/xdg/llm-envs", name)
    monkeypatch.setenv("LLM_ENVS_CACHE", "~/kept")
    assert cache_path(SOURCE, "test") == Path("/home/me/kept", name)


def test_without_a_way_to_the_hub_the_error_is_quick_and_names_all_places(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    began = time.perf_counter()
    with pytest.raises(DataUnavailableError) as caught:
        load_rows(SOURCE, split="train")
    assert time.perf_counter() - began < 3
    assert "data=          not given" in str(caught.value)
    assert "LLM_ENVS_DATA  not set" in str(caught.value)
    assert "hub            owner/toy (data/train-*.parquet): ConnectionError: http://127.0.0.1" in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataUnavailableError, match="HF_HUB_OFFLINE is set"):
        load_rows(SOURCE, split="train")


@pytest.mark.parametrize(
    ("variables", "probed"),
    [
        ({}, True),
        ({"no_proxy": "localhost"}, True),
        ({"https_proxy": "http://proxy:1"}, True),  # the hub here is asked by http
        ({"http_proxy": "http://proxy:1", "no_proxy": "127.0.0.1"}, True),
        ({"http_proxy": "http://proxy:1"}, False),
        ({"all_proxy": "http://proxy:1"}, False),
    ],
)
def test_the_hub_is_looked_for_but_behind_a_proxy(hub, monkeypatch, variables, probed):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def refuse(*args, **kwargs):
        raise OSError("nobody there")

    def ask(*args, **kwargs):
        raise ValueError("asked")

    monkeypatch.setattr("llm_envs.datasets.hub.socket.create_connection", refuse)
    monkeypatch.setattr("llm_envs.datasets.hub.HfFileSystem", ask)
    with pytest.raises(DataUnavailableError, match="nobody there" if probed else "asked"):
        load_rows(SOURCE, split="test")


def test_the_endpoint_of_the_environment_is_asked(hub, tmp_path):
    hub.files["test.jsonl"] = json.dumps(rows_of([4])[0]).encode()
    code = (
        "from llm_envs.datasets import DatasetSource, load_rows\n"
        f"source = DatasetSource('toy', 'owner/toy', {REVISION!r}, {{'test': 'test.jsonl'}}, ('question', 'answer'))\n"
        "print(load_rows(source, split='test')[0]['answer'])"
    )
    env = {**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "no_proxy": "127.0.0.1"}
    run = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True)
    assert run.stdout == "8\n"
    assert "reading question, answer of owner/toy, to be kept in" in run.stderr
