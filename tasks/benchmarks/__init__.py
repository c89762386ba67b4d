"""The benchmarks, one small file each."""

from tasks.benchmarks import starter, xstest

BENCHMARKS = {b.card.id: b for b in (starter.BENCHMARK, xstest.BENCHMARK)}
