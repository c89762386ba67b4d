"""What people shall label next."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from flows.asked import asked
from schemas.errors import ConfigError
from tasks.draw import draw, frame, sheet
from tasks.lake import write_atomically
from tasks.report.export import as_csv

_JUDGED = """
select
    response_id, arm, benchmark_id as benchmark, coalesce(harm_category, category) as category, expected, prompt, response,
    judge, label, unsafe, score, response_id in (select response_id from human_labels) as is_labelled
from verdict_details
semi join (select response_id from run_responses where run_id = $run) using (response_id)
where list_contains($judges, judge) and response is not null and response <> '[forgotten]'
qualify 1 = row_number() over (partition by response_id, judge order by benchmark_id, run_id desc, verdict_id)
"""


class Drawn(NamedTuple):
    """What a draw came to: rows written, responses that they were drawn from, and those left out, labelled already."""

    rows: int
    population: int
    labelled: int


def draw_sample(run_id: str, judges: Sequence[str], n: int, seed: int, again: bool, out: Path, home: Path) -> Drawn:
    """Write the next `n` responses of a run to label as a CSV file, drawn by how much the judges are in doubt.

    Responses that have a label already are left out unless `again`. ConfigError where the file is there already: it may
    hold labels.
    """
    if out.exists():
        raise ConfigError(f"{out} is there already and may hold labels; it stays as it is")
    verdicts = asked(home, _JUDGED, run=run_id, judges=list(judges))
    judged = frame(verdicts, judges)
    labelled = verdicts.filter(pl.col("is_labelled"))["response_id"].unique()
    left = judged if again else judged.filter(~pl.col("response_id").is_in(labelled.implode()))
    drawn = draw(left, n, seed)
    write_atomically(out, as_csv(sheet(drawn).to_arrow()))
    return Drawn(len(drawn), len(left), len(judged) - len(left))
