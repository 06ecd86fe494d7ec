"""Benchmarks against named controls; `python -m bench.run` from the root of the repository."""
