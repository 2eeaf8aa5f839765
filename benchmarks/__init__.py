"""Benchmarks: one command each, see README.md here. They measure; what may be is said by tests."""
