"""The benchmarks that ``scripts/bench.py`` runs: one ``bench_*`` module per subject, with its peers.

Run ``python scripts/bench.py --help`` for their names. They are not part of the product.
"""
