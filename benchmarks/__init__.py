"""Measurements that teva's statements rest on: ``python -m benchmarks.claims`` runs them."""
