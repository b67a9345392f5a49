"""Speed, side by side with other programs: `python -m benchmarks --help`, and README.md."""
