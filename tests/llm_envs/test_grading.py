import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_envs.grading import Verdict, extract_boxed, grade, parse_number

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)
LATEX = st.lists(
    st.sampled_from(["\\boxed", "\\fbox", "{", "}", "\\{", "\\}", "\\\\", "\\", " ", "5", "a", ".", "$", "\n"]),
    max_size=20,
).map("".join)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\boxed{5} or \boxed{6}", "6"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        ("\\boxed\n{ 5 }", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ 1 \right.}", r"\left\{ 1 \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{a \boxed{5} b}", "5"),
        (r"\boxed{5} then \boxed{6", "5"),
        (r"\boxed{6 \boxed{5}", "5"),
        (r"} } \boxed{5}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"\boxed{}", ""),
        (r"\boxed 5", "5"),
        (r"\boxed 50.", "50"),
        (r"$\boxed 5$", "5"),
        (r"\boxed5", "5"),
        (r"\\\boxed{5}", "5"),
        (r"\\boxed{5}", None),
        (r"\boxedfoo{5}", None),
        (r"\boxed{5", None),
        (r"\boxed", None),
        (r"\boxed .", None),
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_extract_boxed(text, content):
    assert extract_boxed(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 300_000,
        "\\boxed{" * 300_000 + "}" * 300_000,
        "\\boxed " * 300_000,
        "\\boxed" + " " * 2_000_000,
        "\\" * 2_000_001,
        "{" * 2_000_000,
        "}" * 2_000_000,
    ],
    ids=lambda text: f"{text[:8]}...",
)
def test_extract_boxed_is_linear(text):
    began = time.perf_counter()
    extract_boxed(text)
    assert time.perf_counter() - began < 10


@given(LATEX)
def test_what_is_in_the_box_is_in_the_text(text):
    content = extract_boxed(text)
    assert content is None or content in text
    assert extract_boxed(text + r"\boxed{7}") in ("7", None if text.endswith("\\") else "7", content)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        ("72.", 72),
        ("+5", 5),
        ("-3", -3),
        ("- 3", -3),
        ("\N{MINUS SIGN}3", -3),
        ("007", 7),
        ("18.00", 18),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"1,\!234", 1234),
        ("12,345,678.90", Fraction(1234567890, 100)),
        ("$18", 18),
        (r"\$18", 18),
        ("-$18", -18),
        ("$-18$", -18),
        ("50%", 50),
        (r"50\%", 50),
        (r"90^\circ", 90),
        ("1/2", Fraction(1, 2)),
        ("-1 / 2", Fraction(-1, 2)),
        ("1,000/3", Fraction(1000, 3)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\dfrac{10}{4}", Fraction(-5, 2)),
        (r"\frac{-1}{2}", Fraction(-1, 2)),
        (r"\frac12", Fraction(1, 2)),
        ("18 dollars", 18),
        ("$18 per hour", 18),
        (r"18\text{ dollars}", 18),
        (r"\text{18}", 18),
        (r"5\,\mathrm{cm}^2", 5),
        ("60 miles/hour", 60),
        ("9" * 256, 10**256 - 1),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-", ".", "$", "%", "five", "x = 5", "x", "5x", "2pi", "5,00", "12,34,567", "1,2345", "1 234",
        "5..", "1.2.3", "1e5", "1e999999999", "1/0", r"\frac{1}{0}", r"\frac{1}{x}", "1 1/2", "1/2/3", "18 or 19",
        "18 million", "18 Thousand", "2 and a half", "5 more", "5 or less", "3 + 4", "--3", "18:30", "inf", "nan",
        "0x10", "1_000", "\u0663", "\uff15", "\u00b2", "5 dollars and 50 cents", "5 a b c d e", "9" * 257,
        "9" * 1_000_000, "5" + " " * 1_000_000,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_parse_number_refuses(text):
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("0.5", "1/2", "correct"),
        ("0.3333333333333333", "1/3", "wrong"),
        ("1,080", "1080", "correct"),
        ("1081", "1080", "wrong"),
        ("many", "1080", "unparsed"),
        (None, "1080", "unparsed"),
        ("5", None, "unscorable"),
        ("5", "", "unscorable"),
        ("5", "five", "unscorable"),
        (None, "9" * 10**6, "unscorable"),
    ],
)
def test_grade(answer, gold, verdict):
    assert grade(answer, gold) == verdict


@given(st.none() | ANY_TEXT, st.none() | ANY_TEXT)
def test_grade_never_raises(answer, gold):
    assert grade(answer, gold) in Verdict


@given(st.fractions())
def test_every_fraction_is_read_exactly(number):
    over, under = number.numerator, number.denominator
    assert parse_number(f"{over}/{under}") == number
    assert parse_number(rf"\frac{{{over}}}{{{under}}}") == number


@given(st.integers(), st.integers(0, 20))
def test_every_spelling_of_an_integer(number, zeros):
    assert parse_number(f"{number:,}") == number
    assert parse_number(f"${number}.{'0' * zeros}") == number


def test_the_boxes_of_math500():
    path = Path(os.environ.get("LLM_ENVS_TEST_DATA", "/nonexistent"), "math", "math500.jsonl")
    if not path.exists():
        pytest.skip("LLM_ENVS_TEST_DATA has no math/math500.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 500
    assert [extract_boxed(row["solution"]) for row in rows] == [row["answer"] for row in rows]
