"""What the morning report is written from."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import polars as pl

from tasks.concept import Part
from tasks.explain import Explanation
from tasks.health import Health
from tasks.mix import MixShift
from tasks.report.page.changes import Changes

NIGHTS = 30  # of history that charts show

Row = Mapping[str, Any]


class Mix(NamedTuple):
    """What people asked of a source: rows of the view category_mix, and the newest day against those before; or why not."""

    source: str
    days: pl.DataFrame
    shift: MixShift | str


class JudgeHealth(NamedTuple):
    """A judge against itself, against people, and by the night.

    `parts` compares its newest verdicts with its first on the same responses (or why that can't be told), `nights` has the
    share that flipped: day, n, value, ci_low, ci_high. `figures` and `rates` are those of its newest calibration.
    """

    judge: str
    parts: Sequence[Part] | str
    nights: pl.DataFrame
    figures: Sequence[Row]
    rates: Sequence[Row]


class Morning(NamedTuple):
    """A run and what surrounds it, as the warehouse has it.

    `run` and `previous` are rows of latest_runs with n_items, finished_at, code_version, quarantined, missing (parts of the
    night by name, and why) and share (of each category's items that was asked; None: all); `previous` None: there is no earlier
    run of the same name and kind. `alerts` stood when the run was the newest, `ended` ended then; `checks` are
    what the monitors decided. `rates` has the metrics of NIGHTS nights up to the run: at, arm, benchmark_id, judge, metric, n,
    value, ci_low, ci_high, and what they are measured with. `untold` says what could not be worked out.
    """

    run: Row
    previous: Row | None
    alerts: Sequence[Row]
    ended: Sequence[Row]
    checks: Sequence[Row]
    changes: Changes | None
    explanations: Sequence[Explanation]
    kinds: Mapping[str, str]
    metrics: Sequence[Row]
    rates: pl.DataFrame
    mixes: Sequence[Mix]
    judges: Sequence[JudgeHealth]
    benchmarks: Sequence[Health | str]
    arms: Sequence[Row]
    judged: Sequence[Row]
    errors: Sequence[Row]
    unscored: Sequence[Row]
    untold: Sequence[str]

    @property
    def day(self) -> date:
        """The day (UTC) on which the run started."""
        day: date = self.run["started_at"].date()
        return day
