"""Answers that a model gave before."""

import json
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from llm_envs.games.twenty_questions.answerers.answers import Answer

__all__ = ["AnswerCache"]

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""The secret's name, and the question."""


class AnswerCache:
    """The latest answers, in memory and, if wished, in a file that several processes may share.

    The file holds one JSON object a line: ``{"by": ..., "secret": ..., "question": ..., "answer": "YES"}``. A line is
    written at once, at the file's end. Lines of another ``by`` and lines that are damaged are passed over.

    Args:
        by: Who answers; only what the same one said is read from the file.
        size: How many answers are kept in memory; the least used go first.
        file: The file; None: memory alone. Its folder must exist.
    """

    def __init__(self, by: str, *, size: int = 100_000, file: str | Path | None = None) -> None:
        self._by, self._size = by, size
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._lock = threading.Lock()
        self._file = None if file is None else Path(file)
        if self._file is not None:
            self._read(self._file)

    def after_fork(self) -> None:
        """Another process: the lock may have been held by a thread that is not here."""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: Key) -> Answer | None:
        """The answer given before, if it is still known."""
        with self._lock:
            answer = self._answers.get(key)
            if answer is not None:
                self._answers.move_to_end(key)
            return answer

    def put(self, key: Key, answer: Answer) -> None:
        """Remember an answer."""
        with self._lock:
            self._remember(key, answer)
            if self._file is not None:
                try:
                    self._append(self._file, key, answer)
                except OSError as error:
                    _log.warning("answers are no longer kept in %s: %s", self._file, error)
                    self._file = None

    def _remember(self, key: Key, answer: Answer) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > self._size:
            self._answers.popitem(last=False)

    def _append(self, file: Path, key: Key, answer: Answer) -> None:
        row = {"by": self._by, "secret": key[0], "question": key[1], "answer": answer.name}
        line = (json.dumps(row) + "\n").encode("ascii")
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a line was cut short: leave it on its own
                line = b"\n" + line
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _read(self, file: Path) -> None:
        try:
            lines = file.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines[-2 * self._size :]:
            try:
                row: Any = json.loads(line)
                if row["by"] == self._by:
                    self._remember((str(row["secret"]), str(row["question"])), Answer[row["answer"]])
            except (ValueError, KeyError, TypeError):
                continue
