"""Everything that only a card can tell, in ten minutes: `python -m benchmarks.gpu`. How to: benchmarks/GPU.md."""
