"""Benchmarks in which others take part: each contender in a process of its own, asked the same."""
