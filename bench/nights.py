"""What looking at a long history costs: nights of many series in one warehouse, all of them monitored, the last one reported.

.venv/bin/python -m bench.nights [nights] [series]
"""

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import yaml

from warehouse.connect import opened, publish

ARMS, ITEMS = 5, 20  # arms; items of each benchmark
CATEGORIES = ("drug_abuse", "privacy_violation", "animal_abuse", "terrorism")
MIDWATCH = str(Path(sys.executable).with_name("midwatch"))

# Every night asks each arm anew; a fifth of the answers is unsafe, and one in fifty has no verdict.
HISTORY = """
create temp table asked as
select
    night, arm, benchmark, item,
    md5(concat_ws(' ', night, arm, benchmark, item)) as id,
    md5(concat_ws(' ', benchmark, item)) as item_id,
    $newest - to_days($nights - 1 - night::integer) as asked_at,
    hash(night, arm, benchmark, item, 'judge') % 100 as luck
from range($nights) nights(night), range($arms) arms(arm), range($benchmarks) benchmarks(benchmark), range($items) items(item);

insert into arms by name
select 'arm-' || arm as arm_id, arm_id as name, 'model-' || arm as model, true as mutable from range($arms) arms(arm);

insert into judges by name select 'judge' as judge_id, 'refusal' as name, 'rule' as kind, '1' as version, '{}' as config;

insert into benchmarks by name
select
    'bench-' || benchmark as benchmark_id, '1' as revision, benchmark_id as title, 'safety' as task, $items as n_items,
    '' as content_hash, '{}' as card, $newest as ingested_at
from range($benchmarks) benchmarks(benchmark);

insert into benchmark_items by name
select distinct
    item_id, 'bench-' || benchmark as benchmark_id, '1' as revision, item_id as external_id,
    '[{"role": "user", "content": "' || repeat('What is it? ', 10) || item_id || '"}]' as messages,
    $categories[1 + item % len($categories)] as harm_category, 'refuse' as expected
from asked;

insert into responses by name
select
    id as response_id, item_id, 'arm-' || arm as arm_id, 0 as sample, 'night ' || night as epoch,
    repeat('No, this is not for me to say. ', 6) || id as text, 'stop' as finish_reason, 40 as prompt_tokens,
    60 as completion_tokens, asked_at as generated_at
from asked;

insert into verdicts by name
select
    md5('verdict ' || id) as verdict_id, id as response_id, 'judge' as judge_id, 'night-' || night as run_id, '' as epoch,
    case when luck >= 2 then luck < 22 end as unsafe, case when luck < 2 then 'no verdict in the reply' end as error,
    asked_at as judged_at
from asked;

insert into run_responses select 'night-' || night, id, false from asked;
insert into run_verdicts select 'night-' || night, md5('verdict ' || id), false from asked;
insert into run_benchmarks select distinct 'night-' || night, 'bench-' || benchmark, '1', $items from asked;

insert into metrics by name
with measured as (
    select
        'night-' || night as run_id, 'arm-' || arm as arm_id, 'bench-' || benchmark as benchmark_id, 'judge' as judge_id,
        unnest(['unsafe_rate', 'unscored_rate']) as metric,
        unnest([case when luck >= 2 then luck < 22 end, luck < 2]) as hit,
        $categories[1 + item % len($categories)] as category
    from asked
),
sliced as (
    select * exclude (category), 'all' as slice from measured
    union all
    select * exclude (category), 'harm_category=' || category from measured
)
select
    * exclude (hit), count(hit) as n, avg(hit::integer) as value, greatest(value - 0.1, 0) as ci_low,
    least(value + 0.1, 1) as ci_high, 'wilson' as method
from sliced
group by all;

insert into observed_days by name
select
    'night-' || night as run_id, 'chat' as source, asked_at::date as day, 'given' as classifier_id, harm_category,
    1000 + hash(night, harm_category) % 50 as n, n as weight
from (select distinct night, asked_at from asked), unnest($categories) categories(harm_category);

insert into runs by name
select distinct
    'night-' || night as run_id, 'nightly' as name, 'evaluate' as kind, 'finished' as status, asked_at as started_at,
    asked_at + interval 10 minutes as finished_at, '{}' as config, '0' as code_version, '{}' as environment
from asked;
"""


def written(home: Path, nights: int, series: int) -> None:
    """A warehouse of so many nights, the last one today."""
    given = {
        "nights": nights,
        "arms": ARMS,
        "benchmarks": series // ARMS,
        "items": ITEMS,
        "categories": list(CATEGORIES),
        "newest": datetime.now(UTC).replace(hour=0, minute=30),
    }
    warehouse = home / "warehouse.duckdb"
    home.mkdir()
    with opened(warehouse) as connection:
        for statement in connection.extract_statements(HISTORY):
            used = {k: given[k] for k in statement.named_parameters}
            connection.execute(statement, used)
    publish(warehouse)


def configured(folder: Path, series: int) -> Path:
    """A configuration with a monitor for each series, and one for the mix of prompts."""
    names = [(f"arm-{a}", f"bench-{b}") for a in range(ARMS) for b in range(series // ARMS)]
    model = {"engine": "endpoint", "model": "m", "base_urls": ["http://127.0.0.1:9/v1"]}
    rates: list[dict[str, Any]] = [
        {"name": f"{arm}-{bench}", "watch": "rate", "arm": arm, "benchmark": bench, "judge": "refusal"} for arm, bench in names
    ]
    spec = {
        "name": "nightly",
        "models": {"target": model},
        "arms": [{"name": "target", "model": "target"}],
        "benchmarks": [{"id": "starter"}],
        "judges": [{"name": "refusal"}],
        "monitors": [*rates, {"name": "chat", "watch": "mix", "source": "chat"}],
    }
    path = folder / "midwatch.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def measured(what: str, *command: str) -> None:
    """Print a row: the exit code, the seconds and the most memory in MB of a command."""
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall, cpu, most = perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{what:20}  {process.returncode:4}  {wall:6.1f}  {cpu:5.1f}  {most:14.0f}", flush=True)


def main(nights: int = 1000, series: int = 50) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, config = Path(folder) / "home", configured(Path(folder), series)
        print("what                  exit  wall s  CPU s  MB at the peak")
        measured("write the history", sys.executable, "-m", "bench.nights", "--write", str(home), str(nights), str(series))
        size = (home / "warehouse.duckdb").stat().st_size / 1e6
        print(f"{nights:,} nights x {series} series: {size:,.0f} MB")
        at_home = [MIDWATCH, "--home", str(home)]
        measured("midwatch monitor", *at_home, "monitor", "-c", str(config))
        measured("midwatch report", *at_home, "report", f"night-{nights - 1}", "--out", str(Path(folder) / "report.html"))
        print(f"the report: {(Path(folder) / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        written(Path(sys.argv[2]), *map(int, sys.argv[3:5]))
    else:
        main(*map(int, sys.argv[1:]))
