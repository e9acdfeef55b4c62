"""Benchmarks: they print figures and assert nothing about them; each has a target of its own in the Makefile."""
