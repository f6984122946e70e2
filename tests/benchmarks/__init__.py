"""The benchmarks that scripts/bench.py runs, and their peers."""
