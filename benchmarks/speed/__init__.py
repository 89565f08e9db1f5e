"""How fast, how big, how near to the bound: `python -m benchmarks.speed` lists the commands."""
