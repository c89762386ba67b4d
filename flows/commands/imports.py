"""Bring in what was made elsewhere."""

from pathlib import Path

import click

from flows.choices import LOCK, benchmarks_of
from flows.commands.options import home_option, json_option, settings
from flows.commands.verdicts import verdicts
from flows.output import report
from flows.settings import Settings
from schemas.errors import ConfigError


@click.group("import")
def import_() -> None:
    """Bring in what was made elsewhere."""


import_.add_command(verdicts)


@import_.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--benchmark", required=True, metavar="ID[=PATH]", help="The benchmark whose items were asked.")
@click.option("--arm", required=True, help="A name for what gave the responses.")
@click.option("--prompt", metavar="COLUMN", help="What was asked [default: the benchmark's own columns, else prompt].")
@click.option("--response", metavar="COLUMN", help="What was answered [default: response].")
@click.option("--choice", metavar="COLUMN", help="The chosen option: its text, letter, or place from 0.")
@click.option("--label", metavar="COLUMN", help="What a person said: a refusal label, safe or unsafe.")
@click.option("--annotator", metavar="NAME", help="Who said so.")
@json_option
@home_option
@settings
def responses(settings: Settings, /, file: Path, benchmark: str, arm: str, as_json: bool, **columns: str | None) -> None:
    """Bring the answers in FILE (CSV, JSONL, JSON or Parquet, also .gz) in as a run; importing them again changes nothing.

    A row is matched to the benchmark's item with exactly its prompt, or by the benchmark's own columns where the file has
    them; rows without an item go to quarantine. An answer that names no option is unscored. Chosen options are scored at
    once, and so are labels, as the verdicts of their annotator.

    \b
    Examples:
      midwatch import responses completions.csv --benchmark xstest=xstest_prompts.csv --arm gpt4 \\
          --prompt prompt --response completion
      midwatch import responses predictions.jsonl.gz --benchmark bbq --arm unifiedqa --choice prediction
      midwatch import responses completions.csv --benchmark xstest --arm llama2 --response completion \\
          --label final_label --annotator authors
    """
    (chosen,) = benchmarks_of((benchmark,), None)
    if not arm.strip():
        raise ConfigError("--arm: give what answered a name")
    settings.prepare()
    from flows.imports import Columns, import_responses
    from tasks.pins import read_lock

    run_id = import_responses(file, chosen, arm, Columns(**columns), settings.home, read_lock(LOCK))
    report(settings, run_id, as_json)
