"""Benchmarks of the embedded default: `python -m benchmarks.run`. See README.md."""
