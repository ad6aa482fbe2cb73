"""Coding: the model writes Python, hidden tests decide.

In the order in which they are read: `problems` and `asserts` (rows to tests), `extraction` (the answer's program),
`programs` and `wire` (what runs in the sandbox), `values` and `outputs` (what came out, compared), `judge`, `code_env`.
"""
