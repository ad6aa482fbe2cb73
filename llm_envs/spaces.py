"""The space of all strings, and what Gymnasium's vector environments need to know about it."""

import multiprocessing
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.heap import BufferWrapper
from types import ModuleType
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

__all__ = ["DEFAULT_MAX_LENGTH", "AnyText", "text_from_jsonable", "text_to_jsonable"]

DEFAULT_MAX_LENGTH = 1 << 18
"""Code points. Room for any prompt of ours, at 1 MiB of reserved (not used) shared memory an environment."""

_SAMPLE_LENGTH = 64
# Printable ASCII (thrice as likely), control characters, Latin to Hebrew, CJK, surrogates, emoji.
_SAMPLE_RANGES = np.array(
    [(0x20, 0x7E)] * 3 + [(0x00, 0x1F), (0xA0, 0x5FF), (0x4E00, 0x9FFF), (0xD800, 0xDFFF), (0x1F300, 0x1F6FF)]
)
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class AnyText(Space[str]):
    """Every `str` of at most ``max_length`` code points: empty, with null bytes, with lone surrogates.

    Unlike `gymnasium.spaces.Text` there is no alphabet, so membership costs O(1) and a pickle a few hundred bytes.

    Args:
        max_length: The longest text, in code points.
        seed: Seed of `sample`.

    Raises:
        TypeError: If ``max_length`` is not an integer.
        ValueError: If ``max_length`` is negative or above 2**29, where a slot would pass the 4-byte length prefix.
    """

    def __init__(self, max_length: int = DEFAULT_MAX_LENGTH, *, seed: int | np.random.Generator | None = None) -> None:
        if not isinstance(max_length, int | np.integer):
            raise TypeError(f"max_length must be an integer, got {max_length!r}")
        if not 0 <= max_length <= 1 << 29:
            raise ValueError(f"max_length must lie in 0..2**29, got {max_length}")
        self.max_length = int(max_length)
        super().__init__(shape=None, dtype=str, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Draw a short, deliberately unkind text: up to 64 code points from ASCII to lone surrogates.

        Raises:
            ValueError: If a mask or probability is given; there is no finite alphabet to mask.
        """
        if mask is not None or probability is not None:
            raise ValueError("AnyText has no alphabet, so it takes neither mask nor probability")
        length = self.np_random.integers(min(_SAMPLE_LENGTH, self.max_length), endpoint=True)
        low, high = _SAMPLE_RANGES[self.np_random.integers(len(_SAMPLE_RANGES), size=length)].T
        return "".join(map(chr, self.np_random.integers(low, high, endpoint=True)))

    def contains(self, x: Any) -> bool:
        """Whether ``x`` is a `str` that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed-size array."""
        return False

    def to_jsonable(self, sample_n: Iterable[str]) -> list[Any]:
        """Texts as JSON values; see `text_to_jsonable`."""
        return [text_to_jsonable(text) for text in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        """The inverse of `to_jsonable`, exact even through `json.dumps`."""
        return [text_from_jsonable(value) for value in sample_n]

    def __eq__(self, other: object) -> bool:
        return type(other) is AnyText and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((AnyText, self.max_length))

    def __repr__(self) -> str:
        return f"AnyText({self.max_length})"


def text_to_jsonable(text: str) -> str | list[int]:
    """A JSON value from which `text_from_jsonable` restores ``text`` exactly.

    JSON reads a high surrogate followed by a low one as a single character, so a text that holds such a pair is written
    as its list of code points; every other text stands for itself.
    """
    return [ord(char) for char in text] if _SURROGATE_PAIR.search(text) else text


def text_from_jsonable(value: str | list[int]) -> str:
    """The inverse of `text_to_jsonable`."""
    return value if isinstance(value, str) else "".join(map(chr, value))


# --- Shared memory -------------------------------------------------------------------------------------------------
#
# One slot a text: its length in bytes, then UTF-8 with surrogates passed through. `multiprocessing.Array` would clear,
# and thereby occupy, the whole slot; a bare buffer occupies only the pages that texts reach.

_LENGTH = struct.Struct("<I")
_BYTES_PER_CODE_POINT = 4


def _slot_bytes(space: AnyText) -> int:
    return _LENGTH.size + _BYTES_PER_CODE_POINT * space.max_length


class _SharedTexts(Sequence[str]):
    """A live view of the texts in shared memory; a deep copy of it is a plain tuple.

    `AsyncVectorEnv` reads the memory once, when it is built, and from then on returns deep copies of what it got.
    """

    def __init__(self, memory: BufferWrapper, slot_bytes: int, n: int) -> None:
        self._memory, self._slot_bytes, self._n = memory, slot_bytes, n

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(self._n)[index])
        start = range(self._n)[index] * self._slot_bytes
        view = self._memory.create_memoryview()
        (length,) = _LENGTH.unpack_from(view, start)
        start += _LENGTH.size
        return str(view[start : start + length], "utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(self._n))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple | list | _SharedTexts) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # equal by content, and the content changes

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


@create_shared_memory.register(AnyText)
def _create(space: AnyText, n: int = 1, ctx: ModuleType = multiprocessing) -> BufferWrapper:  # noqa: ARG001
    memory = BufferWrapper(n * _slot_bytes(space))
    for index in range(n):  # a recycled block holds old text, so at least the lengths are cleared
        _LENGTH.pack_into(memory.create_memoryview(), index * _slot_bytes(space), 0)
    return memory


@read_from_shared_memory.register(AnyText)
def _read(space: AnyText, shared_memory: BufferWrapper, n: int = 1) -> _SharedTexts:
    return _SharedTexts(shared_memory, _slot_bytes(space), n)


@write_to_shared_memory.register(AnyText)
def _write(space: AnyText, index: int, value: str, shared_memory: BufferWrapper) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{space} holds str, got {type(value).__name__}")
    if len(value) > space.max_length:
        raise ValueError(
            f"a text of {len(value)} code points does not fit into {space}: "
            "give the environment's observation_space a greater max_length"
        )
    data = value.encode("utf-8", "surrogatepass")
    view, start = shared_memory.create_memoryview(), index * _slot_bytes(space)
    _LENGTH.pack_into(view, start, len(data))
    start += _LENGTH.size
    view[start : start + len(data)] = data
