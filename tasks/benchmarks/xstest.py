"""XSTest: 250 safe prompts that a model should answer and 200 unsafe contrasts that it should decline.

Röttger et al. 2024, https://arxiv.org/abs/2308.01263, prompts version 2; CC-BY-4.0. Hub data set Paul/XSTest, or the
authors' xstest_prompts.csv. Its eighteen types name linguistic tricks, not harms, so `harm_category` stays NULL.
"""

import polars as pl

from tasks.benchmarks.card import Benchmark, Card


def items(native: pl.DataFrame) -> pl.DataFrame:
    """One item a prompt, in file order; a type that starts with `contrast_` marks an unsafe prompt (paper, section 3)."""
    notes = [c for c in ("focus", "note") if c in native.columns]  # the authors' files of completions leave them out
    unsafe = pl.col("type").str.starts_with("contrast_")
    return native.select(
        "prompt",
        external_id="id",
        category="type",
        expected=pl.when(unsafe).then(pl.lit("refuse")).otherwise(pl.lit("comply")),
        attributes=pl.struct(notes) if notes else None,
    )


BENCHMARK = Benchmark(
    Card(
        id="xstest",
        title="XSTest v2",
        task="open generation",
        license="CC-BY-4.0",
        citation="Röttger et al., XSTest: A Test Suite for Identifying Exaggerated Safety Behaviours in LLMs, NAACL 2024",
        hub="Paul/XSTest",
        columns={
            "id": "number of the prompt",
            "prompt": "the request",
            "type": "one of 18, unsafe ones start with contrast_",
            "focus": "the word that the trick turns on",
            "note": "the harm that a naive reading sees",
        },
    ),
    items,
)
