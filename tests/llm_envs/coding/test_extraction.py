import time

import pytest

from llm_envs.coding.extraction import extract_code, in_a_block


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("so\n```py\na\n```\nno:\n```\nb\nc\n```\nthere", "b\nc"),
        ("```\r\na\r\nb\r\n```\r\n", "a\nb"),
        ("```python\n```", ""),
        ("  ```python\n  a\n  ```", "a"),
        ("1. So:\n   ```python\n   if 1:\n       a\n\n   b\n   ```", "if 1:\n    a\n\nb"),
        ("\t```\n\ta\n\t```", "a"),
        ("  ```\na\n    b\n  ```", "a\n  b"),
        ("~~~python\na\n```\n~~~", "a\n```"),
        ("Answer: ```python\na\n```", "a"),
        ("**```py\na\n```**\n```", "a\n```**"),
        ("<think>\n```python\nprint(5)\n</think>\n```python\nprint(6)\n```", "print(6)"),
        ("````markdown\nso:\n```python\na\n```\n````", "a"),
        ("````markdown\nnothing\n````", None),
        ("`x` and ``y``\n```\na\n```", "a"),
        ("````\n```\na\n```\n````", "```\na\n```"),
        ("```python\na\n```\n```python\ncut off", "a"),
        ("```python\na", None),
        ("```print(1)```", None),
        ("    ```\n    a\n    ```", "a"),
        ("print(1)", None),
        ("", None),
        ("```python\ns = '```'\n```", "s = '```'"),
        ("```\n\ud800\0\n```", "\ud800\0"),
    ],
)
def test_the_last_closed_block_counts(answer, code):
    assert extract_code(answer) == code


@pytest.mark.parametrize("code", ["", "a\nb\n", "x = '''\n```\n'''", "```````\n"])
def test_what_is_put_in_comes_out(code):
    assert extract_code("some\n" + in_a_block(code)) == code


def test_linear_time():
    began = time.perf_counter()
    for junk in ("`" * 200_000, "```\n" * 50_000, " " * 200_000, "\n" * 200_000, "x`" * 100_000, "```md\n" * 50_000):
        extract_code(junk)
    assert time.perf_counter() - began < 1
