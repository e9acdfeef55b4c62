"""Benchmarks: they print figures beside their bars, and fail only where something breaks.

``make bench`` runs all but ``clinical``, which has a target of its own; docs/performance.md says how to read them.
"""
