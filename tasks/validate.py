"""What stands at every arrow: rows that break an expectation go to quarantine with their reasons, the others go on.

The rules are Great Expectations suites in `schemas/expectations/`, one a table; `meta.notes` says why each is a rule.
"""

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import MidwatchError
from schemas.rows import Item, Metric, Response, Row, Verdict
from tasks.lake import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

Suite = Literal["items", "responses", "verdicts", "metrics"]
Rule = dict[str, Any]  # an expectation as its suite has it: type, kwargs, meta
Column = pa.Array | pa.ChunkedArray

ROWS: dict[Suite, type[Row]] = {"items": Item, "responses": Response, "verdicts": Verdict, "metrics": Metric}

_GX = threading.Lock()  # Great Expectations keeps its context in a global of the process
_UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_INDICES = {"result_format": "COMPLETE", "exclude_unexpected_values": True, "return_unexpected_index_query": False}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = 80  # characters of a value that a reason shows; the whole value stands beside it in the file


class ValidationFailed(MidwatchError):
    """A table cannot be checked: its columns are not the suite's, its bytes are damaged, or a rule cannot be run."""


class TooManyBadRows(ValidationFailed):
    """More rows are bad than the run allows; the message names the quarantine file, which is there to look at."""


@dataclass(frozen=True)
class Checked:
    """A table's good rows in their order, and what became of the others.

    `reasons` says how many rows broke which rule, commonest first; a row may break several. `quarantine` is None where
    no row is bad.
    """

    good: pa.Table
    n_bad: int
    reasons: dict[str, int]
    quarantine: Path | None


@dataclass(frozen=True)
class Breach:
    """A broken rule in words, and for each row that breaks it (by position) the reason with the row's own values."""

    rule: str
    rows: dict[int, str]


def validate(table: pa.Table, suite: Suite, quarantine: Path, max_share: float) -> Checked:
    """The rows of `table` that keep every rule of `suite`; the others are written to a JSONL file in `quarantine`.

    A clean table comes back as it is. The same bad rows again give the same file. ValidationFailed when columns or
    Arrow types are not the suite's; TooManyBadRows when more than `max_share` (0 to 1) of the rows are bad.
    """
    _check_columns(table, suite)
    breaches = _breaches(table, suite) if table.num_rows else []
    bad = sorted({position for b in breaches for position in b.rows})
    if not bad:
        return Checked(table, 0, {}, None)
    path = _write(table, bad, breaches, quarantine / suite)
    counts = dict(Counter({b.rule: len(b.rows) for b in breaches}).most_common())
    if len(bad) / table.num_rows > max_share:
        raise TooManyBadRows(
            f"{suite}: {len(bad)} of {table.num_rows} rows are bad, more than the {max_share:.2%} allowed. Commonest: "
            f"{'; '.join(f'{n} x {rule}' for rule, n in list(counts.items())[:3])}. "
            f"The rows are in {path}: correct their source, or raise max_quarantined"
        )
    is_bad = set(bad)
    good = table.filter(pa.array([i not in is_bad for i in range(table.num_rows)]))
    return Checked(good, len(bad), counts, path)


def _check_columns(table: pa.Table, suite: Suite) -> None:
    row = ROWS[suite]
    came = {f.name: f.type for f in table.schema}
    wrong = [
        f"{f.name}: expected {f.type}, came {came.get(f.name, 'no such column')}"
        for f in row.arrow_schema()
        if came.get(f.name) != f.type
    ]
    if wrong:
        raise ValidationFailed(f"{suite}: {'; '.join(wrong)}. Make the table with {row.__name__}.to_table, or cast it")
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as e:
        raise ValidationFailed(f"{suite}: the table is damaged: {e}. Make it again from its source") from e


def _breaches(table: pa.Table, suite: Suite) -> list[Breach]:
    text = files("schemas.expectations").joinpath(f"{suite}.json").read_text(encoding="utf-8")
    named = [n for n in [*ROWS[suite].model_fields, *DERIVED] if f'"{n}"' in text]  # no other column goes to pandas
    columns = {n: DERIVED[n](table) if n in DERIVED else table[n] for n in named}
    frame = _frame(columns)
    return [_breach(r, frame, columns, suite) for r in _failures(frame, json.loads(text)["expectations"], suite)]


# Columns that a rule may name beside the table's own: small stand-ins, so that no prompt or response goes to pandas.
DERIVED: dict[str, Callable[[pa.Table], Column]] = {
    # 1 where the column of that name is set, else 0
    "has_text": lambda t: _n_set(t, "text"),
    "has_error": lambda t: _n_set(t, "error"),
    # how many of label and unsafe a verdict has; how many of label, unsafe and score
    "decisions": lambda t: _n_set(t, "label", "unsafe"),
    "judgements": lambda t: _n_set(t, "label", "unsafe", "score"),
    # characters of all turns but the system's, without the white space around; null where messages is no list of turns
    "prompt_chars": lambda t: pa.array([_prompt_chars(m) for m in t["messages"].to_pylist()], pa.int64()),
    # the first JSON column whose text DuckDB cannot read; null where it can read all
    "unreadable_json": lambda t: pa.array(_unreadable_json(t), pa.string()),
    # when a response was generated or a verdict given, where that is more than a day ahead; else null
    "time_ahead": lambda t: _time_ahead(t["generated_at" if "generated_at" in t.column_names else "judged_at"]),
}


def _n_set(table: pa.Table, *columns: str) -> Column:
    return reduce(pc.add, (pc.is_valid(table[c]).cast(pa.int64()) for c in columns))


def _prompt_chars(messages: str | None) -> int | None:
    try:
        turns = json.loads(messages or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(turns, list) or not all(_is_turn(t) for t in turns):
        return None
    return sum(len(t["content"].strip()) for t in turns if t["role"] != "system")


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _unreadable_json(table: pa.Table) -> list[str | None]:
    unreadable: list[str | None] = [None] * table.num_rows
    json_columns = {n for row in ROWS.values() for n in row.json_columns()}
    for name in reversed([n for n in table.column_names if n in json_columns]):
        for i, text in enumerate(table[name].to_pylist()):
            if text is not None and not _is_readable(text):
                unreadable[i] = name
    return unreadable


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse)


def _is_readable(text: str) -> bool:
    """Whether DuckDB reads `text` as JSON: Python alone reads NaN, and half a surrogate pair (`\\ud800`)."""
    try:
        value = _JSON.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _time_ahead(times: Column) -> Column:
    tomorrow = pa.scalar(datetime.now(UTC) + timedelta(days=1), times.type)
    return pc.if_else(pc.greater(times, tomorrow), times, None)


def _frame(columns: dict[str, Column]) -> "pd.DataFrame":
    """`columns` for pandas, where NaN means null: a NaN is made infinite, so that bounds catch it.

    Floats are rounded to 9 digits: an interval that ends 1e-17 beside its value is arithmetic, not a bad row.
    """
    floats = [n for n, c in columns.items() if pa.types.is_floating(c.type)]
    finite = {n: pc.if_else(pc.is_nan(columns[n]), math.inf, columns[n]) for n in floats}
    frame = pa.table(columns | finite).to_pandas()
    for name in floats:
        small = frame[name].abs() < 1e6  # rounding a number near the largest one overflows
        frame[name] = frame[name].where(~small, frame[name].where(small).round(9))
    return frame


def _failures(frame: "pd.DataFrame", rules: list[Rule], suite: Suite) -> "list[ExpectationValidationResult]":
    """The results of the broken rules, with positions, which a first and cheaper pass over all rules leaves out."""
    import great_expectations as gx  # here, since it takes seconds that a command which checks nothing must not wait
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),  # get_context's own default makes a temporary folder
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False, metric_calculations=False),
    )
    with _GX:
        context = gx.get_context(mode="ephemeral", project_config=config)
        asset = context.data_sources.add_pandas("lake").add_dataframe_asset(suite)
        data = asset.add_batch_definition_whole_dataframe("all")
        expectations = context.suites.add(gx.ExpectationSuite(name=suite, expectations=rules))
        if len(expectations.expectations) != len(rules):  # it leaves out, and only logs, what it does not know
            unknown = {r["type"] for r in rules} - {e.expectation_type for e in expectations.expectations}
            raise ValidationFailed(f"{suite}: Great Expectations has no {', '.join(unknown)}; correct {suite}.json")
        definition = gx.ValidationDefinition(name=suite, data=data, suite=expectations)
        context.validation_definitions.add(definition)
        # a definition digests the rows once, Batch.validate twice; but it also stores, and so copies, all positions
        first = definition.run(batch_parameters={"dataframe": frame}, result_format="BOOLEAN_ONLY")
        if not (broken := [_rule(r) for r in first.results if not r.success]):
            return []
        again = gx.ExpectationSuite(name=f"{suite}, broken", expectations=broken)
        return data.get_batch({"dataframe": frame}).validate(again, result_format=_INDICES).results


def _rule(result: "ExpectationValidationResult") -> Rule:
    config = cast(Any, result.expectation_config).to_json_dict()
    return {**config, "kwargs": {k: v for k, v in config["kwargs"].items() if k != "batch_id"}}


def _breach(result: "ExpectationValidationResult", frame: "pd.DataFrame", columns: dict[str, Column], suite: Suite) -> Breach:
    rule = _rule(result)
    kwargs, positions = rule["kwargs"], result.result.get("unexpected_index_list")
    if positions is None:
        causes = [str(e["exception_message"]) for e in (result.exception_info or {}).values() if isinstance(e, dict)]
        raise ValidationFailed(
            f"{suite}: {rule['type']} {kwargs} names no rows: {'; '.join(causes) or 'it is about the whole table'}. "
            f"Correct {suite}.json, where only rules about rows can stand"
        )
    names = kwargs.get("column_list") or [kwargs[k] for k in ("column", "column_A", "column_B") if k in kwargs]
    if rule["type"] in _UNIQUE:
        repeated = frame.duplicated(names).to_numpy()  # without the first, which Great Expectations marks as well
        positions = [p for p in positions if repeated[p]]
    subject, wrong = ", ".join(names), f"{_wrong(rule['type'], kwargs)} ({rule['meta']['notes']})"
    values = zip(*(_plain(columns[n].take(pa.array(positions, pa.int64()))) for n in names), strict=True)
    rows = {p: f"{subject}: {', '.join(map(_shown, v))} is {wrong}" for p, v in zip(positions, values, strict=True)}
    return Breach(f"{subject}: {wrong}", rows)


def _wrong(kind: str, kwargs: dict[str, Any]) -> str:
    """What a value that breaks an expectation of this kind is."""
    match kind:
        case "expect_column_values_to_not_be_null":
            return "missing"
        case "expect_column_values_to_be_null":
            return "not null"
        case "expect_column_values_to_be_in_set":
            return f"not one of {', '.join(map(str, kwargs['value_set']))}"
        case "expect_column_values_to_match_regex":
            return f"not of the form {kwargs['regex']}"
        case "expect_column_values_to_be_between":
            return _outside(kwargs.get("min_value"), kwargs.get("max_value"))
        case "expect_column_values_to_be_unique" | "expect_compound_columns_to_be_unique":
            return "there in an earlier row"
        case "expect_multicolumn_sum_to_equal":
            return f"not {kwargs['sum_total']:.10g} in sum"
        case "expect_column_pair_values_a_to_be_greater_than_b":
            return "a pair whose first is less than its second"
    return f"against {kind}"


def _outside(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"more than {high:.10g}" if low is None else f"less than {low:.10g}"
    return f"not between {low:.10g} and {high:.10g}"


def _shown(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _plain(column: Column) -> list[Any]:
    """Values that JSON has a form for: times, NaN and infinities as text."""
    if pa.types.is_timestamp(column.type):
        return [_time(v) for v in column.cast(pa.int64()).to_pylist()]
    return [str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in column.to_pylist()]


def _time(microseconds: int | None) -> str | int | None:
    """A time as text; where Python has no such year, and Arrow a wrong one, its microseconds since 1970."""
    try:
        return None if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return microseconds


def _write(table: pa.Table, bad: list[int], breaches: list[Breach], prefix: Path) -> Path:
    """The file of the bad rows, one JSON object a line; ASCII, so that to print it does no harm."""
    columns = [_plain(c) for c in table.take(pa.array(bad)).columns]
    lines = []
    for position, *values in zip(bad, *columns, strict=True):
        reasons = [b.rows[position] for b in breaches if position in b.rows]
        row = {"row": position, "reasons": reasons, "values": dict(zip(table.column_names, values, strict=True))}
        lines.append(json.dumps(row) + "\n")
    data = "".join(lines).encode()
    path = prefix.with_name(f"{prefix.name}-{hashlib.sha256(data).hexdigest()[:32]}.jsonl")
    write_atomically(path, data)
    return path
