"""The needed columns of hub data sets, read by byte ranges and kept in one small file."""

import io
import json
import os
import socket
import sys
import urllib.request
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from huggingface_hub import HfFileSystem, constants
from pyarrow import parquet

from llm_envs.datasets.rows import Rows, TableRows, check_columns, open_rows
from llm_envs.datasets.source import DatasetSource

__all__ = ["CACHE_VARIABLE", "cache_path", "rows_from_hub"]

CACHE_VARIABLE = "LLM_ENVS_CACHE"

_PROBE_TIMEOUT_SECONDS = 3.0
_DOWNLOADS_AT_ONCE = 4  # requests are small and many, so that time goes into waiting
_BLOCK_BYTES = 8 << 20
_BATCH_BYTES = 32 << 20
_MARK = b"llm_envs"
_UNKEPT: dict[bytes, Rows] = {}
"""Rows that no file could keep, by their mark."""


def cache_path(source: DatasetSource, split: str) -> Path:
    """Where the rows of a split are kept."""
    folder = os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "llm-envs")
    return Path(folder, f"{source.name}-{split}-{source.revision[:12]}.parquet").expanduser()


def rows_from_hub(source: DatasetSource, split: str) -> Rows:
    """The rows of a split; asks the hub only where the cache file is not there, damaged or of something else.

    Where the file cannot be written, a warning says so and the rows stay in memory as long as the process.

    Raises:
        ConnectionError: If no way leads to the hub.
        ValueError: If what is there does not hold the columns.
        Exception: Whatever else the hub's client or the disk raises.
    """
    path = cache_path(source, split)
    mark = _mark(source, split)
    if mark in _UNKEPT:
        return _UNKEPT[mark]
    try:
        if (parquet.read_schema(path).metadata or {}).get(_MARK) == mark:
            return open_rows(path, source.columns, source.optional_columns)
    except (ValueError, OSError):  # not there, or damaged: read it again
        pass
    _check_reachable()
    refusal = _refusal(path.parent)
    if refusal is None:
        try:
            with closing(_read(source, split, f"in {path}")) as tables:
                _write(tables, path, mark)
            return open_rows(path, source.columns, source.optional_columns)
        except _UnfitError:  # of so many kinds that no part shows what the whole is like
            with closing(_read(source, split, f"in {path}")) as tables:
                whole = pa.concat_tables(tables, promote_options="permissive")
            with suppress(_WriteError):
                _write(iter([whole]), path, mark)
                return open_rows(path, source.columns, source.optional_columns)
        except _WriteError as error:  # such as a full disk
            refusal = error.reason
    with closing(_read(source, split, "in memory")) as tables:
        _UNKEPT[mark] = TableRows(pa.concat_tables(tables, promote_options="default"), source.hub_id)
    warnings.warn(
        f"{source.hub_id} is kept in memory and will be read from the hub again, for it cannot be written to "
        f"{path.parent} ({refusal}); {CACHE_VARIABLE} names another folder",
        stacklevel=2,
    )
    return _UNKEPT[mark]


def _mark(source: DatasetSource, split: str) -> bytes:
    """What the cache file was made from."""
    made = {
        "form": 2,  # of the cache file
        "hub_id": source.hub_id,
        "revision": source.revision,
        "files": source.hub_files[split],
        "columns": [*source.columns, *source.optional_columns],
    }
    return json.dumps(made).encode()


def _check_reachable() -> None:
    """Fail at once where no way leads to the hub; its client would retry for half a minute."""
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    url = urlsplit(constants.ENDPOINT)
    host = url.hostname or ""
    proxies = urllib.request.getproxies()
    if (proxies.get(url.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(host):
        return  # behind a proxy the host need not be reachable from here
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached: {error}") from error


def _read(source: DatasetSource, split: str, place: str) -> Generator[Any, None, None]:
    """Arrow tables of the needed columns of all files of a split, in the order of the files' names."""
    files = HfFileSystem(endpoint=constants.ENDPOINT, skip_instance_cache=True)
    pattern = f"datasets/{source.hub_id}@{source.revision}/{source.hub_files[split]}"
    names = sorted(files.glob(pattern))
    if not names:
        raise FileNotFoundError(f"no file matches {source.hub_files[split]} at revision {source.revision}")
    tell = _progress(len(names), source, place)
    parquets = [name for name in names if name.endswith(".parquet")]
    # A few at once where columns can be picked; the lines of other files may be gigabytes, and come one by one.
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        found = deque(pool.submit(_read_parquet, files, name, source) for name in parquets)
        try:
            for number, name in enumerate(names, start=1):
                tell(number)
                if name.endswith(".parquet"):
                    yield found.popleft().result()
                else:
                    yield from _read_jsonl(files, name, source)
        finally:
            pool.shutdown(cancel_futures=True)


def _read_parquet(files: Any, name: str, source: DatasetSource) -> Any:
    # Without a cache of fsspec's, which would read 5 MB ahead of each column chunk and so fetch what is not needed.
    with files.open(name, "rb", cache_type="none") as stream, parquet.ParquetFile(stream, pre_buffer=True) as file:
        names = file.schema_arrow.names
        check_columns(source.columns, names, name)
        columns = [column for column in (*source.columns, *source.optional_columns) if column in names]
        return file.read(columns=columns).replace_schema_metadata(None)


def _read_jsonl(files: Any, name: str, source: DatasetSource) -> Iterator[Any]:
    """Tables of some `_BATCH_BYTES` of lines each; the whole may be larger than memory."""
    columns = (*source.columns, *source.optional_columns)
    with files.open(name, "rb", block_size=_BLOCK_BYTES) as stream:
        rows: list[dict[str, Any]] = []
        size = 0
        for line in io.BufferedReader(stream, _BLOCK_BYTES):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(  # noqa: TRY004 (of data, not of an argument)
                    f"{name}: a line is no object but {type(row).__name__}"
                )
            missing = [column for column in source.columns if column not in row]
            if missing:
                raise ValueError(f"{name}: no column {missing}")
            rows.append({column: row[column] for column in columns if column in row})
            size += len(line)
            if size >= _BATCH_BYTES:
                yield _table(rows, columns)
                rows, size = [], 0
        if rows:
            yield _table(rows, columns)
        elif not stream.tell():
            raise ValueError(f"{name} is empty")


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    kept = [column for column in columns if any(column in row for row in rows)]
    return pa.table({column: [row.get(column) for row in rows] for column in kept})


def _progress(total: int, source: DatasetSource, place: str) -> Callable[[int], None]:
    """Say once that something is read, and for people at a terminal how far it is."""
    sys.stderr.write(f"llm-envs: reading {', '.join(source.columns)} of {source.hub_id}, to be kept {place}\n")

    def tell(number: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\rllm-envs: file {number} of {total}" + ("\n" if number == total else ""))
            sys.stderr.flush()

    return tell


def _refusal(folder: Path) -> OSError | None:
    """Why no file can be written in a folder, which is made if need be; None if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        return error
    return None


class _UnfitError(Exception):
    """A later part does not have the form of the first."""


class _WriteError(Exception):
    """The cache file cannot be written."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _write(tables: Iterator[Any], path: Path, mark: bytes) -> None:
    """Write under another name first: what is interrupted leaves no broken file behind.

    Raises:
        _WriteError: If the disk refuses; what else goes wrong comes from the tables.
    """
    partial = NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False)  # noqa: SIM115
    writer: Any = None
    try:
        for table in tables:
            with _as_write_error():
                if writer is None:
                    schema = _schema(table).with_metadata({_MARK: mark})
                    writer = parquet.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True)
                writer.write_table(_fitted(table, schema))
        with _as_write_error():
            writer.close()
            partial.close()
            Path(partial.name).replace(path)
    except BaseException:
        for end in (writer, partial):
            with suppress(OSError):  # a full disk says so once more
                if end is not None:
                    end.close()
        Path(partial.name).unlink(missing_ok=True)
        raise


@contextmanager
def _as_write_error() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _WriteError(error) from error


def _schema(first: Any) -> Any:
    """Of the file: the first table's; what it has no value of is text, until a later one says otherwise."""
    return pa.schema(
        [(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in first.schema]
    )


def _fitted(table: Any, schema: Any) -> Any:
    """A later table in the form of the first.

    Raises:
        _UnfitError: If it cannot be brought into it.
    """
    if not set(table.column_names) <= set(schema.names):
        raise _UnfitError
    columns = [table[name] if name in table.column_names else pa.nulls(table.num_rows) for name in schema.names]
    try:
        return pa.table(dict(zip(schema.names, columns, strict=True))).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _UnfitError from error
