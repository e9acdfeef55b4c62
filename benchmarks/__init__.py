"""Benchmarks, which print their figures beside the bars and fail only if a part raises an error.

``make bench`` runs all but ``clinical``, which ``make bench-clinical`` runs; docs/performance.md explains the figures.
"""
