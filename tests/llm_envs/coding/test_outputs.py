import pytest

from llm_envs.coding.outputs import EXACT, OutputRule, difference

BY_VALUE = OutputRule(by_value=True)
CLOSE = OutputRule(tolerance=1e-6)


@pytest.mark.parametrize(
    ("actual", "expected", "rule", "same"),
    [
        ("1\n2\n", "1\n2", EXACT, True),
        ("1  \n2\t\n\n\n", "1\n2", EXACT, True),
        ("1\r\n2\r\n", "1\n2", EXACT, True),
        ("1 2", "1\n2", EXACT, False),
        ("1\n\n2", "1\n2", EXACT, False),
        ("1\n\n 2", "1\n2", OutputRule(ignore_blank=True), True),
        ("1  2", "1 2", EXACT, False),
        ("", "", EXACT, True),
        ("", "1", EXACT, False),
        ("1", "", EXACT, False),
        ("Yes", "YES", EXACT, False),
        ("Yes", "YES", OutputRule(ignore_case=True), True),
        ("1.0", "1", EXACT, False),
        ("1.0 2", "1 2.000", BY_VALUE, True),
        ("1.0 a", "1 a", BY_VALUE, False),  # as LiveCodeBench: lines of nothing but numbers
        ("1.0000001", "1", BY_VALUE, False),
        ("0.1", "0.10000000000000000001", BY_VALUE, False),
        ("1e9999", "1e9998", BY_VALUE, False),
        ("nan", "1", CLOSE, False),
        ("inf", "inf ", CLOSE, True),
        ("1e999", "2", CLOSE, False),
        ("1_0", "10", CLOSE, False),
        ("0.3333335 x", "0.3333333 x", CLOSE, True),
        ("1000000.5", "1000000", CLOSE, True),
        ("0.34", "0.33", CLOSE, False),
    ],
)
def test_difference(actual, expected, rule, same):
    assert (difference(actual, expected, rule) is None) is same


def test_a_difference_tells_where_and_not_what():
    assert difference("1\n3", "1\n2") == "line 2 is wrong"
    assert difference("1", "1\n2") == "the output has fewer lines than expected"
    assert difference("1\n2", "1") == "the output has more lines than expected"
