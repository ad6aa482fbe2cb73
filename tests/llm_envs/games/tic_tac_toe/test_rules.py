import copy
import pickle
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_envs.games.tic_tac_toe import rules
from llm_envs.games.tic_tac_toe.rules import gave_away, position_of, positions, read_board, read_move, start


def test_the_positions():
    assert len(positions()) == 5_478
    over = Counter(position.winner for position in positions().values() if position.is_over)
    assert over == {"X": 626, "O": 316, None: 16}
    assert all(tuple(p.after) == p.moves for p in positions().values())
    assert all((p.cells.count("X") == p.cells.count("O")) == (p.mark == "X") for p in positions().values())


def test_all_games_there_are():
    lengths = {position: Counter([0] if position.is_over else []) for position in positions().values()}
    for position in sorted(positions().values(), key=lambda p: len(p.moves) if p.winner is None else 0):
        for move in position.moves:
            for turns, games in lengths[position.after[move]].items():
                lengths[position][turns + 1] += games
    assert lengths[start()] == {5: 1_440, 6: 5_328, 7: 47_952, 8: 72_576, 9: 127_872}


def plain_value(board, mark, other, known) -> Any:
    """Minimax as a beginner writes it: other lines, other boards, other names."""
    key = (tuple(board), mark)
    if key not in known:
        rows = [board[i : i + 3] for i in (0, 3, 6)]
        lines = [*rows, *map(list, zip(*rows, strict=True)), board[0:9:4], board[2:7:2]]
        if [other] * 3 in lines:
            known[key] = -1
        elif all(board):
            known[key] = 0
        else:
            free = [i for i in range(9) if not board[i]]
            after = [[*board[:i], mark, *board[i + 1 :]] for i in free]
            known[key] = max(-plain_value(b, other, mark, known) for b in after)
    return known[key]


def test_the_values():
    known: dict[Any, int] = {}
    assert plain_value([""] * 9, "X", "O", known) == start().value == 0
    assert len(known) == 5_478
    for (board, mark), value in known.items():
        position = position_of("".join(cell or "." for cell in board))
        assert (position.value, position.mark) == (value, mark)
    for position in positions().values():
        kept = tuple(move for move in position.moves if -position.after[move].value == position.value)
        assert position.best_moves == kept
        assert bool(kept) != position.is_over


def test_known_openings():
    assert start().best_moves == tuple(range(1, 10))
    assert position_of("X........").best_moves == (5,)
    assert position_of("....X....").best_moves == (1, 3, 7, 9)
    assert position_of("XX..O....").best_moves == (3,)
    assert position_of("XXX.OO...").winner == "X"
    assert position_of("XXX.OO...").moves == ()


@pytest.mark.parametrize("cells", ["", "X", "X.O......X", "XX.......", "O........", "XXXOOO...", "x........", " " * 9])
def test_positions_that_cannot_be(cells):
    with pytest.raises(ValueError, match="no position that play can reach"):
        position_of(cells)


def test_the_text_of_a_board():
    assert start().text == "1 2 3\n4 5 6\n7 8 9"
    assert position_of("X...O....").text == "X 2 3\n4 O 6\n7 8 9"
    assert read_board("You are X.\nX 2 3\n4 O 6\n7 8 9") is position_of("X...O....")
    for text in ("", "5", "X X 3\n4 5 6\n7 8 9", "1 2 3\n4 5 6\n7 8 9\n"):
        assert read_board(text) is None
    assert all(read_board(position.text) is position for position in positions().values())


def test_there_is_one_object_a_position():
    position = position_of("X...O....")
    assert copy.deepcopy(position) is pickle.loads(pickle.dumps(position)) is position
    assert repr(position) == "position_of('X...O....')"
    assert rules.winner_of("O..O..O..") == "O"


@pytest.mark.parametrize(
    ("cells", "move", "amount"),
    [
        (".........", 1, 0), ("X........", 5, 0), ("X........", 2, 1), ("X........", 1, 1), ("X........", None, 1),
        ("XX.OO....", 3, 0), ("XX.OO....", 6, 1), ("XX.OO....", 9, 2), ("XX.OO....", None, 2), ("XX.OO....", 1, 2),
        ("XX.OO....", 0, 2), ("XX.OO....", -7, 2), ("XX.OO....", 10, 2), ("XO..X....", 9, 0), ("XO..X....", 3, 0),
    ],
)  # fmt: skip
def test_what_a_move_gives_away(cells, move, amount):
    assert gave_away(position_of(cells), move) == amount


def test_nobody_moves_after_the_end():
    with pytest.raises(ValueError, match="nobody moves"):
        gave_away(position_of("XXX.OO..."), 4)


@pytest.mark.parametrize(
    ("text", "move"),
    [
        *((str(cell), cell) for cell in range(1, 10)),
        ("I play 5.", 5), ("move: 5", 5), ("move:5", 5), ("Move 5!", 5), ("**5**", 5), ("(5)", 5), ("[5]", 5),
        ("\\boxed{5}", 5), ("<move>5</move>", 5), ("#5", 5), ("`5`", 5), ('"5"', 5), ("cell-5", 5), ("- 5", 5),
        ("-> 5", 5), ("->5", 5), ("5\n", 5), ("\n\n 5 \t", 5), ("05", 5), ("+5", 5), ("I play 5. Final: 5.", 5),
        ("5, 5", 5), ("5 5", 5), ("5\n5", 5), ("5?", 5), ("5...", 5), ("X: 5", 5), ("5\ufe0f\u20e3", 5), ("not 5", 5),
        ("\u6211\u9009\u62e9 5", 5), ("0" * 5_000 + "7", 7),
        ("", None), ("five", None), ("the centre", None), ("0", None), ("10", None), ("55", None), ("5 or 6", None),
        ("2. 5", None), ("5 of 9", None), ("100% sure: 5", None), ("5 0", None), ("x5", None), ("X5", None),
        ("5th", None), ("3x3", None), ("5_", None), ("_5", None), ("b2", None), ("5.5", None), (".5", None),
        ("1,000", None), ("5,5", None), ("5/5", None), ("5-5", None), ("5--5", None), ("5:5", None), ("5\0005", None),
        ("-5", None), (" -5", None), ("--5", None), ("\N{MINUS SIGN}5", None), ("1e5", None), ("5e0", None),
        ("5^{5}", None), ("9^{9^{9}}", None), ("5(5)", None), ("5\u30005", 5),
        ("5 \uff16", None), ("\uff15", None), ("\u0665", None), ("5\u0665", None), ("5\u00b2", None), ("\u00bd5", None),
        ("\u2464", None), ("9" * 5_000, None), ("\0", None), ("\ud800", None), ("\ud8005", 5),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_the_grammar(text, move):
    assert read_move(text) == move


@given(st.integers(0, 1_000_000))
def test_only_nine_numbers_are_cells(number):
    expected = number if 1 <= number <= 9 else None
    assert read_move(str(number)) == read_move(f"I play {number}.") == expected


@given(st.text(st.characters(exclude_categories=["Nd"]), max_size=20), st.integers(1, 9))
def test_words_around_a_cell_do_not_change_it(words, cell):
    assert read_move(f"{words} {cell} {words}") == cell
    assert read_move(words) is None


@pytest.mark.parametrize(
    "junk", ["x" * 10**6, "1" * 10**6, "1 " * 500_000, "-" * 10**6, "é1" * 500_000, "0" * 10**6], ids=lambda j: j[:2]
)
def test_reading_is_linear(junk):
    began = time.process_time()
    read_move(junk)
    assert time.process_time() - began < 1.5
