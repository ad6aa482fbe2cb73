"""Rows of data sets: from a file, from rows in hand, from a folder, or from the Hugging Face hub."""

import json
import os
import socket
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

__all__ = ["DATA_VARIABLE", "Data", "DataUnavailableError", "DatasetSource", "Row", "fixed_order", "load_rows"]

DATA_VARIABLE = "LLM_ENVS_DATA"
_PROBE_TIMEOUT_SECONDS = 3.0
_SUFFIXES = (".jsonl", ".parquet")

Row = Mapping[str, Any]
Data = str | os.PathLike[str] | Sequence[Row]
"""A path to a JSONL or Parquet file, or the rows themselves."""


class DataUnavailableError(RuntimeError):
    """No place had the rows."""


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set lies and what of it is needed.

    Attributes:
        name: Its folder below ``$LLM_ENVS_DATA``.
        hub_id: The hub repository, ``owner/name``.
        hub_config: The hub configuration.
        revision: The hub commit, so that the rows never change.
        splits: Names of the splits.
        columns: The columns that are read; all others are left out.
    """

    name: str
    hub_id: str
    hub_config: str
    revision: str
    splits: tuple[str, ...]
    columns: tuple[str, ...]


def load_rows(source: DatasetSource, *, data: Data | None = None, split: str) -> Sequence[Row]:
    """The rows of one split, from the first of: ``data``, the folder ``$LLM_ENVS_DATA``, the hub.

    Nothing is passed over in silence: with ``data`` given, or with a file of the data set in the folder, the rows come
    from there or an error does. A file is read once a process; treat the rows as read-only, for they are shared.

    Raises:
        ValueError: If the split is not known, or rows are broken; the message names file and line.
        OSError: If ``data`` or the folder named by the variable does not exist.
        ImportError: If a Parquet file is given but pyarrow is not installed.
        DataUnavailableError: If no place has the rows; the message says what happened at each.
    """
    if split not in source.splits:
        raise ValueError(f"unknown split {split!r} of {source.name}; known: {list(source.splits)}")
    if data is None:
        return _rows_from_folder(source, split) or _rows_from_hub(source, split)
    if isinstance(data, str | os.PathLike):
        return _rows_from_file(Path(data), source.columns)
    return _checked(((f"row {number}", row) for number, row in enumerate(data)), source.columns, "data")


@lru_cache(maxsize=32)
def fixed_order(num_rows: int, order_seed: int) -> npt.NDArray[np.int64]:
    """The order in which seeds visit rows, [num_rows]: a permutation that ``order_seed`` decides. Read-only."""
    order: npt.NDArray[np.int64] = np.random.default_rng(order_seed).permutation(num_rows)
    order.flags.writeable = False
    return order


def _rows_from_folder(source: DatasetSource, split: str) -> Sequence[Row] | None:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return None
    if not Path(root).is_dir():
        raise NotADirectoryError(f"{DATA_VARIABLE}={root} is not a folder")
    for path in _folder_files(source, split, root):
        if path.exists():
            return _rows_from_file(path, source.columns)
    return None


def _folder_files(source: DatasetSource, split: str, root: str) -> list[Path]:
    return [Path(root, source.name, split + suffix) for suffix in _SUFFIXES]


def _rows_from_file(path: Path, columns: tuple[str, ...]) -> Sequence[Row]:
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in {' or '.join(_SUFFIXES)}")
    stat = path.stat()  # raises the clear FileNotFoundError
    return _read_file(path.resolve(), columns, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=16)
def _read_file(path: Path, columns: tuple[str, ...], mtime_ns: int, size: int) -> Sequence[Row]:  # noqa: ARG001 (the key)
    if path.suffix == ".parquet":
        numbered = ((f"{path}, row {number}", row) for number, row in enumerate(_parquet_rows(path, columns)))
        return _checked(numbered, columns, str(path))
    return _checked(_jsonl_rows(path), columns, str(path))


def _jsonl_rows(path: Path) -> Iterable[tuple[str, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield f"{path}, line {number}", json.loads(line)
                except ValueError as error:  # bad JSON and bad UTF-8 alike
                    raise ValueError(f"{path}, line {number}: not JSON: {error}") from error


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> list[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise ImportError(f"{path}: Parquet files need pyarrow: pip install 'llm-envs[hub]'") from error
    try:
        names = parquet.read_schema(path).names
        rows: list[Any] = parquet.read_table(path, columns=[name for name in columns if name in names]).to_pylist()
    except ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file: {error}") from error
    return rows


def _checked(numbered: Iterable[tuple[str, Any]], columns: tuple[str, ...], origin: str) -> Sequence[Row]:
    """Keep the needed columns of rows that come with a name for messages."""
    rows = []
    for where, row in numbered:
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: expected an object with {list(columns)}, got {row!r:.80}")  # noqa: TRY004 (data)
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(f"{where}: no column {missing}; there are {list(row)}")
        rows.append({column: row[column] for column in columns})
    if not rows:
        raise ValueError(f"{origin}: holds no rows")
    return tuple(rows)


@lru_cache(maxsize=16)
def _rows_from_hub(source: DatasetSource, split: str) -> Sequence[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _unavailable(
            source, split, "the package `datasets` is not installed: pip install 'llm-envs[hub]'"
        ) from error
    try:
        with _offline_where_unreachable() as offline:
            dataset = load_dataset(source.hub_id, source.hub_config, split=split, revision=source.revision)
        if offline:
            _check_cached_revision(source, [file["filename"] for file in dataset.cache_files])
    except Exception as error:  # whatever the hub client raises, the user learns about all three places
        raise _unavailable(source, split, f"{type(error).__name__}: {error}") from error
    rows = dataset.select_columns(list(source.columns)).to_list()
    where = f"{source.hub_id}, {split}"
    return _checked(((f"{where}, row {number}", row) for number, row in enumerate(rows)), source.columns, where)


@contextmanager
def _offline_where_unreachable() -> Iterator[bool]:
    """Where no way leads to the hub, let its client look into its cache only, not retry for half a minute.

    Yields whether that is so.
    """
    from datasets import config
    from huggingface_hub import constants

    url = urlsplit(constants.ENDPOINT)
    try:
        if not urllib.request.getproxies():  # behind a proxy the host need not be reachable from here
            port = url.port or (80 if url.scheme == "http" else 443)
            socket.create_connection((url.hostname or "", port), timeout=_PROBE_TIMEOUT_SECONDS).close()
    except OSError:
        before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
        try:
            yield True
        finally:
            constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before
    else:
        yield bool(constants.HF_HUB_OFFLINE)


def _check_cached_revision(source: DatasetSource, cache_files: Sequence[str]) -> None:
    """Refuse other data: without a hub its client takes whatever revision it has, in a folder named after it."""
    other = [path for path in cache_files if source.revision not in Path(path).parts]
    if other:
        raise ValueError(f"the hub cannot be reached, and its cache holds another revision: {other[0]}")


def _unavailable(source: DatasetSource, split: str, hub_failure: str) -> DataUnavailableError:
    root = os.environ.get(DATA_VARIABLE)
    files = " or ".join(map(str, _folder_files(source, split, root or f"${DATA_VARIABLE}")))
    folder = f"there is no {files}" if root else f"not set; it would be read from {files}"
    return DataUnavailableError(
        f"no rows for {source.name}, split {split}:\n"
        f"  data=          not given; it takes a JSONL or Parquet file, or rows with {list(source.columns)}\n"
        f"  {DATA_VARIABLE}  {folder}\n"
        f"  hub            {source.hub_id} ({source.hub_config}): {hub_failure}"
    )
