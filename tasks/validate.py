"""What stands at every arrow: rows that break an expectation go to quarantine with their reasons, the others go on.

The rules are Great Expectations suites in `schemas/expectations/`, one a table; `meta.notes` says why each is a rule.
"""

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.catalog import metrics
from schemas.errors import MidwatchError
from schemas.rows import HumanLabel, Item, Metric, ObservedPrompt, Response, Row, Verdict
from tasks.lake import write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

Suite = Literal["items", "responses", "verdicts", "labels", "metrics", "observed"]
Rule = dict[str, Any]  # an expectation as its suite has it: type, kwargs, meta
Column = pa.Array | pa.ChunkedArray

ROWS: dict[Suite, type[Row]] = {
    "items": Item,
    "responses": Response,
    "verdicts": Verdict,
    "labels": HumanLabel,
    "metrics": Metric,
    "observed": ObservedPrompt,
}

_GX = threading.Lock()  # Great Expectations keeps its context in a global of the process
_IS_NULL = ("expect_column_values_to_not_be_null", "expect_column_values_to_be_null")
_UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
_INDICES = {"result_format": "COMPLETE", "exclude_unexpected_values": True, "return_unexpected_index_query": False}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGITS = 9  # of a float after the point that count: an interval that ends 1e-17 beside its value is arithmetic
_MEASURED = ["metric", "value", "ci_low", "ci_high"]
_TIMES = ("generated_at", "judged_at", "labeled_at", "observed_at")
# canonical messages that are one of the user's: all escapes are JSON's, and no surrogate is without its other half
_PAIR = r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}"
_CHARACTER = rf'[ !#-\[\]-~]|\\["\\bfnrt]|\\u(?:[0-9a-ce-f][0-9a-f]|d[0-7])[0-9a-f]{{2}}|{_PAIR}'
_START, _END = '[{"content":"', '","role":"user"}]'
_PLAIN_MESSAGE = rf'^\[\{{"content":"(?:{_CHARACTER})*","role":"user"\}}\]$'
_SPACE = r"\\[nrtf]|\\u(?:000b|001[c-f]|0085|00a0|1680|200[0-9a]|202[89f]|205f|3000)"
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

    column: str
    rule: str
    rows: dict[int, str]


def validate(table: pa.Table, suite: Suite, quarantine: Path, max_share: float) -> Checked:
    """The rows of `table` that keep every rule of `suite`; the others are written to a JSONL file in `quarantine`.

    A clean table comes back as it is. The same bad rows again give the same file. ValidationFailed when columns or
    Arrow types are not the suite's; TooManyBadRows when more than `max_share` (0 to 1) of the rows are bad.
    """
    sieve = Sieve(suite, quarantine, max_share)
    good = sieve.sift(table)
    reasons, path = sieve.close()
    return Checked(good, table.num_rows - good.num_rows, reasons, path)


class Sieve:
    """`validate` for a table that comes in parts: `sift` each of them, then `close`.

    `excused` names derived columns whose breach was to be expected, and says why: a row that breaks no other rule is set
    aside and reported with that reason, but does not count towards `max_share`. Memory grows with the bad rows alone.
    """

    def __init__(self, suite: Suite, quarantine: Path, max_share: float, excused: Mapping[str, str] | None = None) -> None:
        self._suite: Suite = suite
        self._prefix = quarantine / suite
        self._max_share = max_share
        self._excused = excused or {}
        self._counts: Counter[str] = Counter()
        self._lines: list[bytes] = []
        self._n_rows = self._n_bad = 0

    def sift(self, table: pa.Table, known: Mapping[str, Column] | None = None) -> pa.Table:
        """The good rows of the next part; `known` gives derived columns that the part alone does not say."""
        _check_columns(table, self._suite)
        breaches = _breaches(table, self._suite, known or {}) if table.num_rows else []
        bad = sorted({position for b in breaches for position in b.rows})
        self._counts.update({self._counted(b): len(b.rows) for b in breaches})
        self._lines += _lines(table, bad, breaches, self._n_rows)
        self._n_rows += table.num_rows
        self._n_bad += len({position for b in breaches if b.column not in self._excused for position in b.rows})
        if not bad:
            return table
        is_good = np.ones(table.num_rows, dtype=bool)
        is_good[bad] = False
        return table.filter(pa.array(is_good))

    def close(self) -> tuple[dict[str, int], Path | None]:
        """How many rows broke which rule, commonest first, and the file of them; TooManyBadRows says where it is."""
        counts = dict(self._counts.most_common())
        if not self._lines:
            return counts, None
        path = self._write()
        if self._n_bad / self._n_rows > self._max_share:
            raise TooManyBadRows(
                f"{self._suite}: {self._n_bad} of {self._n_rows} rows are bad, more than the {self._max_share:.2%} allowed. "
                f"Commonest: {'; '.join(f'{n} x {rule}' for rule, n in list(counts.items())[:3])}. "
                f"The rows are in {path}: correct their source, or raise max_quarantined"
            )
        return counts, path

    def _counted(self, breach: Breach) -> str:
        return f"{breach.rule}; {self._excused[breach.column]}" if breach.column in self._excused else breach.rule

    def _write(self) -> Path:
        data = b"".join(self._lines)
        path = self._prefix.with_name(f"{self._prefix.name}-{hashlib.sha256(data).hexdigest()[:32]}.jsonl")
        write_atomically(path, data)
        return path


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


def _breaches(table: pa.Table, suite: Suite, known: Mapping[str, Column]) -> list[Breach]:
    text = files("schemas.expectations").joinpath(f"{suite}.json").read_text(encoding="utf-8")
    named = [n for n in [*ROWS[suite].model_fields, *DERIVED] if f'"{n}"' in text]  # no other column goes to pandas
    columns = {n: known[n] if n in known else DERIVED[n](table) if n in DERIVED else table[n] for n in named}
    rules = json.loads(text)["expectations"]
    frame = _frame(_light(columns, rules))
    return [_breach(r, frame, columns, suite) for r in _failures(frame, rules, suite)]


# Columns that a rule may name beside the table's own: small stand-ins, so that no prompt or response goes to pandas.
DERIVED: dict[str, Callable[[pa.Table], Column]] = {
    # 1 where the column of that name is set, else 0
    "has_text": lambda t: _n_set(t, "text"),
    "has_error": lambda t: _n_set(t, "error"),
    # how many of label and unsafe a verdict or human label has; how many of label, unsafe and score
    "decisions": lambda t: _n_set(t, "label", "unsafe"),
    "judgements": lambda t: _n_set(t, "label", "unsafe", "score"),
    # an item id that is no id; null where it is one
    "malformed_item_id": lambda t: _unlike(t["item_id"], r"\A[0-9a-f]{32}\z"),
    # the row, from 0, of the first item with the same content; null in that one
    "repeat_of": lambda t: _repeat_of(t),
    # a native category that the benchmark's crosswalk does not have; a table alone does not say which one that is
    "unknown_category": lambda t: pa.nulls(len(t), pa.string()),
    # characters of all turns but the system's, without the white space around; null where messages is no list of turns
    "prompt_chars": lambda t: _prompt_chars(t["messages"]),
    # the first JSON column whose text DuckDB cannot read; null where it can read all
    "unreadable_json": lambda t: _unreadable_json(t),
    # what is wrong with the options, or with the reference, of an item; null where nothing is
    "wrong_options": lambda t: _wrong_in(t, _wrong_options),
    "wrong_reference": lambda t: _wrong_in(t, _wrong_reference),
    # what of a metric is not a number in its range; null where nothing is
    "out_of_range": lambda t: pa.array([_out_of_range(**m) for m in t.select(_MEASURED).to_pylist()], pa.string()),
    # the time of a response, verdict, human label or observed prompt, where that is more than a day ahead; else null
    "time_ahead": lambda t: _time_ahead(next(t[n] for n in _TIMES if n in t.column_names)),
}


def _n_set(table: pa.Table, *columns: str) -> Column:
    return reduce(pc.add, (pc.is_valid(table[c]).cast(pa.int64()) for c in columns))


def _unlike(texts: Column, pattern: str) -> Column:
    found = pl.Series(texts)
    return found.set(found.str.contains(pattern), None).to_arrow()


def _repeat_of(table: pa.Table) -> Column:
    keys = pl.DataFrame(table.select(["benchmark_id", "revision", "item_id"]))
    first = keys.with_columns(row=pl.int_range(pl.len())).select(pl.col("row").first().over(keys.columns))["row"]
    return first.set(first == pl.Series(range(len(first)), dtype=pl.Int64), None).to_arrow()


def _prompt_chars(messages: Column) -> Column:
    column = pl.Series(messages)
    plain = column.str.contains(_PLAIN_MESSAGE).fill_null(False)
    content = column.filter(plain).str.strip_prefix(_START).str.strip_suffix(_END).str.replace_all(_SPACE, " ")
    counted = content.str.strip_chars(" ").str.replace_all(rf"{_PAIR}|\\u....|\\.", "x").str.len_chars()
    others = [_n_chars(m) for m in column.filter(~plain).to_list()]
    chars = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(column))
    chars = chars.scatter(plain.arg_true(), counted.cast(pl.Int64))
    return chars.scatter((~plain).arg_true(), pl.Series(others, dtype=pl.Int64)).to_arrow()


def _n_chars(messages: str | None) -> int | None:
    try:
        turns = json.loads(messages or "null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(turns, list) or not all(_is_turn(t) for t in turns):
        return None
    return sum(len(t["content"].strip()) for t in turns if t["role"] != "system")


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)


def _unreadable_json(table: pa.Table) -> Column:
    unreadable: list[str | None] = [None] * table.num_rows
    json_columns = {n for row in ROWS.values() for n in row.json_columns()}
    for name in reversed([n for n in table.column_names if n in json_columns]):
        column = table[name]
        doubtful = ~pl.Series(column).str.contains(_PLAIN_MESSAGE)  # null where the text is
        for i in doubtful.arg_true().to_list():
            if not _is_readable(column[i].as_py()):
                unreadable[i] = name
    return pa.array(unreadable, pa.string())


def _wrong_in(table: pa.Table, judge: Callable[[str | None, Any, Any], str | None]) -> Column:
    """What `judge` finds in the expected answer, the options and the reference of each item that has one to choose or know."""
    frame = pl.DataFrame(table.select(["expected", "options", "reference"]))
    wrong: list[str | None] = [None] * len(frame)
    told = pl.col("expected").is_in(["choose", "prefer"]).fill_null(False) | pl.col("reference").is_not_null()
    for i, expected, options, reference in frame.with_row_index().filter(told).iter_rows():
        wrong[i] = judge(expected, _value(options), _value(reference))
    return pa.array(wrong, pa.string())


def _value(text: str | None) -> Any:
    """What a JSON text says; None where it is unreadable."""
    return None if text is None or not _is_readable(text) else json.loads(text)


def _wrong_options(expected: str | None, options: Any, _: Any) -> str | None:
    if expected not in ("choose", "prefer"):
        return None
    if not isinstance(options, list) or len(options) < 2:
        return f"{len(options) if isinstance(options, list) else 'no'} options, where two at least are needed"
    blank = next((i for i, o in enumerate(options) if not isinstance(o, str) or o == ""), None)
    return None if blank is None else f"option {blank} (from 0) of {len(options)} is empty"


def _wrong_reference(expected: str | None, options: Any, reference: Any) -> str | None:
    if reference is None or not isinstance(reference, dict):
        return None if reference is None else "no object"
    if "unsafe" in reference and not isinstance(reference["unsafe"], bool):
        return f"unsafe is {_shown(reference['unsafe'])}, neither true nor false"
    n = len(options) if isinstance(options, list) else 0
    if expected == "choose":
        places = {k: reference.get(k) for k in ("answer", "biased", "unknown") if k == "answer" or reference.get(k) is not None}
        wrong = next((k for k, v in places.items() if not _is_place(v, n)), None)
        return None if wrong is None else f"{wrong} is {_shown(places[wrong])}, no place (from 0) of {n} options"
    if expected == "prefer":
        preferred = reference.get("preferred")
        if not isinstance(preferred, list) or not all(_is_place(p, n) for p in preferred):
            return f"preferred is {_shown(preferred)}, no places (from 0) of {n} options"
        return None if 0 < len(set(preferred)) < n else f"preferred is {_shown(preferred)}: none or all of {n} options"
    return None


def _is_place(value: Any, n: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n


def _out_of_range(metric: str | None, **values: float | None) -> str | None:
    if metric is None:
        return None
    if (described := metrics().get(metric)) is None:
        return f"{metric} is no metric of schemas/metrics.yaml"
    low = -math.inf if described.low is None else described.low
    high = math.inf if described.high is None else described.high
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and low <= round(value, _DIGITS) <= high):
            return f"{name} {value:.10g} is not between {low:.10g} and {high:.10g}"
    return None


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


def _light(columns: dict[str, Column], rules: list[Rule]) -> dict[str, Column]:
    """`columns` with 1 in place of each value where rules only ask whether there is one: texts take long to digest."""
    heavy = {n for r in rules if r["type"] not in _IS_NULL for n in columns if f'"{n}"' in json.dumps(r["kwargs"])}
    return {n: c if n in heavy else pc.if_else(pc.is_valid(c), 1, pa.scalar(None, pa.int8())) for n, c in columns.items()}


def _frame(columns: dict[str, Column]) -> "pd.DataFrame":
    """`columns` for pandas, where NaN means null: a NaN is made infinite, so that bounds catch it.

    A column without any value is one of numbers, which Great Expectations digests in a tenth of the time of texts.

    Floats are rounded: an interval that ends 1e-17 beside its value is arithmetic, not a bad row.
    """
    columns = {n: pa.nulls(len(c), pa.float64()) if c.null_count == len(c) else c for n, c in columns.items()}
    floats = [n for n, c in columns.items() if pa.types.is_floating(c.type) and c.null_count < len(c)]
    finite = {n: pc.if_else(pc.is_nan(columns[n]), math.inf, columns[n]) for n in floats}
    frame = pa.table(columns | finite).to_pandas()
    for name in floats:
        small = frame[name].abs() < 1e6  # rounding a number near the largest one overflows
        frame[name] = frame[name].where(~small, frame[name].where(small).round(_DIGITS))
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
    return Breach(subject, f"{subject}: {wrong}", rows)


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


def _lines(table: pa.Table, bad: list[int], breaches: list[Breach], first_row: int) -> list[bytes]:
    """The bad rows, one JSON object a line; ASCII, so that to print it does no harm. `row` counts from 0."""
    columns = [_plain(c) for c in table.take(pa.array(bad, pa.int64())).columns]
    lines = []
    for position, *values in zip(bad, *columns, strict=True):
        reasons = [b.rows[position] for b in breaches if position in b.rows]
        row = {"row": first_row + position, "reasons": reasons, "values": dict(zip(table.column_names, values, strict=True))}
        lines.append(json.dumps(row).encode() + b"\n")
    return lines
