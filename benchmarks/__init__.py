"""Benchmarks of what a user waits for, each beside its peers and its physical floor; see README.md."""
