"""The responses of a run with every judge's verdict on them, as comparisons read them."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from flows.asked import asked
from schemas.errors import MidwatchError
from tasks.protocols.protocol import place_of

_JUDGED = """
select judged_responses.* exclude (messages),
    list_filter(
        from_json(messages, '[{"role": "VARCHAR", "content": "VARCHAR"}]'),
        lambda message: message.role = 'user'
    )[-1].content as prompt,
    coalesce(arms.chat->>'$.protocol.name', 'generation') as protocol,
    arms.chat::varchar as chat,
    cast(arms.sampling->>'$.max_tokens' as bigint) as max_tokens,
    coalesce(cast(judges.config->>'$.labels' as boolean), false) as gives_labels,
    coalesce(from_json(benchmarks.card->'$.metrics', '["VARCHAR"]'), []) as more_metrics
from judged_responses
join arms using (arm_id)
join judges using (judge_id)
join benchmarks using (benchmark_id, revision)
where run_id = $run and (len($benchmarks) = 0 or list_contains($benchmarks, benchmark_id))
order by benchmark_id, item_id, sample, response_id, judge, judge_id
"""


def judged(home: Path, run_id: str, benchmarks: Sequence[str] = ()) -> pl.DataFrame:
    """One row for each response of the run, benchmark and judge, with the columns of the view judged_responses;
    without `benchmarks`, of all of them. MidwatchError where there is none.

    In the place of messages there is `prompt`, what the last message of the user says; `chosen` is the option that a response
    to a multiple choice names, by its place.
    """
    rows = asked(home, _JUDGED, run=run_id, benchmarks=list(benchmarks))
    if rows.is_empty():
        about = f" of {', '.join(benchmarks)}" if benchmarks else ""
        raise MidwatchError(f"run {run_id}: no judge has judged its responses{about}; midwatch judge run --run {run_id} does")
    return rows.with_columns(chosen=place_of("raw"))
