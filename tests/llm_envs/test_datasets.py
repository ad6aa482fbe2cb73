import builtins
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_envs.datasets import (
    DatasetSource,
    DataUnavailableError,
    _check_cached_revision,
    _read_file,
    _rows_from_hub,
    fixed_order,
    load_rows,
)

SOURCE = DatasetSource("toy", "owner/toy", "main", "abc123", ("train", "test"), ("question", "answer"))
ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "2 + 2?", "answer": "4"}]


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.delenv("LLM_ENVS_DATA", raising=False)
    _read_file.cache_clear()
    _rows_from_hub.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """A hub client that notes its calls and has the rows of ``ROWS``, with one column too many."""
    calls = []

    class Rows(list[Any]):
        def select_columns(self, names):
            return Rows({name: row[name] for name in names} for row in self)

        def to_list(self):
            return list(self)

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return Rows({**row, "level": 1} for row in ROWS)

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    fake.config = types.SimpleNamespace(HF_HUB_OFFLINE=False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(
        "llm_envs.datasets.socket.create_connection", lambda *a, **k: types.SimpleNamespace(close=lambda: None)
    )
    return calls


def write_jsonl(path, rows) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_in_hand():
    assert list(load_rows(SOURCE, data=[{**ROWS[0], "level": 1}], split="train")) == ROWS[:1]


def test_a_jsonl_file_is_read_once_until_it_changes(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    rows = load_rows(SOURCE, data=path, split="train")
    assert list(rows) == ROWS
    assert load_rows(SOURCE, data=str(path), split="test") is rows
    write_jsonl(path, ROWS[:1])
    assert list(load_rows(SOURCE, data=path, split="train")) == ROWS[:1]


def test_a_parquet_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist([{**row, "level": 1} for row in ROWS]), path)
    assert list(load_rows(SOURCE, data=path, split="train")) == ROWS
    parquet.write_table(pa.Table.from_pylist([{"question": "?"}]), path)
    with pytest.raises(ValueError, match=r"rows\.parquet, row 0: no column \['answer'\]"):
        load_rows(SOURCE, data=path, split="train")
    path.write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet: not a Parquet file"):
        load_rows(SOURCE, data=path, split="train")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "rows.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'llm-envs\[hub\]'"):
        load_rows(SOURCE, data=tmp_path / "rows.parquet", split="train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "?", "answer": "1"}\n\n{"question": \n', "line 3: not JSON"),
        (b'{"question": "\xff", "answer": "1"}\n', "line 1: not JSON"),
        (b'{"question": "?"}\n', r"line 1: no column \['answer'\]; there are \['question'\]"),
        (b"5\n", "line 1: expected an object"),
        (b"\n", "holds no rows"),
    ],
)
def test_broken_files_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl.*" + message):
        load_rows(SOURCE, data=path, split="train")


def test_given_data_is_never_replaced(tmp_path, monkeypatch, hub):
    write_jsonl(tmp_path / "toy" / "train.jsonl", ROWS)
    monkeypatch.setenv("LLM_ENVS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="missing"):
        load_rows(SOURCE, data=tmp_path / "missing.jsonl", split="train")
    with pytest.raises(ValueError, match="data: holds no rows"):
        load_rows(SOURCE, data=[], split="train")
    with pytest.raises(ValueError, match=r"row 1: no column \['answer'\]"):
        load_rows(SOURCE, data=[ROWS[0], {"question": "?"}], split="train")
    with pytest.raises(ValueError, match=r"ends in \.jsonl or \.parquet"):
        load_rows(SOURCE, data=tmp_path, split="train")
    assert hub == []


def test_the_folder(tmp_path, monkeypatch, hub):
    write_jsonl(tmp_path / "toy" / "train.jsonl", ROWS)
    monkeypatch.setenv("LLM_ENVS_DATA", str(tmp_path))
    assert list(load_rows(SOURCE, split="train")) == ROWS
    assert hub == []
    assert list(load_rows(SOURCE, split="test")) == ROWS  # not in the folder, so from the hub
    assert hub == [(("owner/toy", "main"), {"split": "test", "revision": "abc123"})]


def test_a_broken_file_in_the_folder_is_not_passed_over(tmp_path, monkeypatch, hub):
    write_jsonl(tmp_path / "toy" / "train.jsonl", [{"question": "?"}])
    monkeypatch.setenv("LLM_ENVS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="no column"):
        load_rows(SOURCE, split="train")
    assert hub == []


def test_a_folder_that_does_not_exist(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("LLM_ENVS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match=r"LLM_ENVS_DATA=.*nowhere is not a folder"):
        load_rows(SOURCE, split="train")
    assert hub == []


def test_the_hub_is_asked_once(hub):
    rows = load_rows(SOURCE, split="train")
    assert list(rows) == ROWS
    assert load_rows(SOURCE, split="train") is rows
    assert len(hub) == 1


def test_without_a_way_to_the_hub_only_its_cache_is_asked(hub, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("llm_envs.datasets.urllib.request.getproxies", dict)
    seen = []

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    def load_dataset(*args, **kwargs):
        seen.append(constants.HF_HUB_OFFLINE)
        raise ConnectionError("not in the cache")

    monkeypatch.setattr("llm_envs.datasets.socket.create_connection", unreachable)
    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", load_dataset)
    with pytest.raises(DataUnavailableError, match=r"hub .*owner/toy.*ConnectionError: not in the cache"):
        load_rows(SOURCE, split="train")
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False


def test_one_error_names_all_three_places(monkeypatch, tmp_path):
    real_import = builtins.__import__

    def no_datasets(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_datasets)
    with pytest.raises(DataUnavailableError) as caught:
        load_rows(SOURCE, split="train")
    said = str(caught.value)
    assert "no rows for toy, split train" in said
    assert "data=          not given" in said
    assert f"LLM_ENVS_DATA  not set; it would be read from {Path('$LLM_ENVS_DATA/toy/train.jsonl')}" in said
    assert "`datasets` is not installed: pip install 'llm-envs[hub]'" in said
    monkeypatch.setenv("LLM_ENVS_DATA", str(tmp_path))
    with pytest.raises(DataUnavailableError, match=f"there is no {tmp_path}/toy/train.jsonl"):
        load_rows(SOURCE, split="train")


def test_an_unknown_split():
    with pytest.raises(ValueError, match=r"unknown split 'dev' of toy; known: \['train', 'test'\]"):
        load_rows(SOURCE, data=ROWS, split="dev")


def test_the_order_is_a_fixed_permutation():
    order = fixed_order(10, 0)
    assert order.tolist() == np.random.default_rng(0).permutation(10).tolist()
    assert sorted(order) == list(range(10))
    assert fixed_order(10, 0) is order
    assert fixed_order(10, 1).tolist() != order.tolist()
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 5


def test_a_cache_of_another_revision_is_refused():
    pinned = f"/cache/owner___toy/main/0.0.0/{SOURCE.revision}/toy-test.arrow"
    _check_cached_revision(SOURCE, [pinned])
    other = pinned.replace(SOURCE.revision, "def456")
    with pytest.raises(ValueError, match=r"holds another revision: .*def456"):
        _check_cached_revision(SOURCE, [pinned, other])
