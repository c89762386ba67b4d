import csv
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from schemas.config import BenchmarkSpec, Columns
from schemas.ids import canonical, digest
from schemas.rows import Item
from tasks import benchmarks
from tasks.benchmarks import BENCHMARKS, file, starter, xstest
from tasks.ingest import ingest, locate
from tasks.lake import Lake
from tasks.native import read_file

FOLDER = Path(benchmarks.__file__).parent
GOLDEN = Path(__file__).parent / "golden"
TAXONOMY = Path(__file__).parents[1] / "schemas" / "taxonomies" / "harm_categories.yaml"
XSTEST = Path(__file__).parents[2] / "shared" / "data" / "xstest"

needs_xstest = pytest.mark.skipif(not XSTEST.is_dir(), reason=f"the authors' XSTest files are not at {XSTEST}")


def harm_categories() -> list[str]:
    return [category["id"] for category in yaml.safe_load(TAXONOMY.read_text(encoding="utf-8"))]


def ingested(lake: Lake, spec: BenchmarkSpec) -> list[Item]:
    return Item.from_table(lake.read(ingest(lake, locate(spec, None), 0.0).items))


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(root=tmp_path / "lake")


def test_every_file_of_the_folder_is_a_benchmark_in_the_registry():
    names = {p.stem for p in FOLDER.glob("*.py")} - {"__init__", "card", "file"}
    assert set(BENCHMARKS) == names
    assert {b.card.id for b in BENCHMARKS.values()} == names


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_a_card_says_where_the_benchmark_comes_from(benchmark):
    card = benchmark.card
    assert card.title
    assert card.task
    assert card.license
    assert card.hub or card.packaged
    assert card.packaged is None or (FOLDER / card.packaged).is_file()


@pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=BENCHMARKS)
def test_a_benchmark_reads_no_column_that_its_card_does_not_name(benchmark):
    native = pl.DataFrame({name: ["x"] for name in benchmark.card.columns})
    frame = benchmark.items(native)
    assert {"prompt", "external_id"} <= set(frame.columns)
    assert set(frame.columns) <= {"external_id", "prompt", "category", "harm_category", "expected", "attributes"}


def test_the_taxonomy_is_the_fourteen_categories_that_items_may_have():
    expectations = json.loads((TAXONOMY.parents[1] / "expectations" / "items.json").read_text())["expectations"]
    (rule,) = [e for e in expectations if e["kwargs"].get("column") == "harm_category"]
    assert sorted(rule["kwargs"]["value_set"]) == sorted(harm_categories())
    assert len(harm_categories()) == 14


def test_the_starter_set_has_six_pairs_in_each_harm_category(lake):
    items = ingested(lake, BenchmarkSpec(id="starter"))
    counts = Counter((i.harm_category, i.expected) for i in items)
    assert counts == {(c, e): 6 for c in harm_categories() for e in ("refuse", "comply")}
    assert all(i.category == i.harm_category for i in items)
    pairs: dict[str, list[Item]] = {}
    for i in items:
        pairs.setdefault(i.attributes["pair"], []).append(i)
    assert len(pairs) == 84
    for pair in pairs.values():
        assert {i.expected for i in pair} == {"refuse", "comply"}
        assert len({i.harm_category for i in pair}) == 1
    assert len({i.external_id for i in items}) == len({i.item_id for i in items}) == 168


def test_the_starter_set_is_the_one_that_was_published(lake):
    """Another digest is another benchmark: results of the old one are not comparable with it."""
    items = ingested(lake, BenchmarkSpec(id="starter"))
    first = [i.model_dump(include={"item_id", "external_id", "harm_category", "expected", "attributes"}) for i in items[:4]]
    content = digest(sorted(canonical(i.model_dump(exclude={"revision"})) for i in items))
    found = {"first": first, "n_items": len(items), "digest": content}
    assert found == json.loads((GOLDEN / "starter.json").read_text())


@needs_xstest
def test_xstest_has_250_safe_and_200_unsafe_prompts_in_18_types(lake):
    items = ingested(lake, BenchmarkSpec(id="xstest", path=str(XSTEST / "xstest_prompts.csv")))
    assert len(items) == 450
    assert Counter(i.expected for i in items) == {"comply": 250, "refuse": 200}
    assert len({i.category for i in items}) == 18
    assert all(i.category.startswith("contrast_") == (i.expected == "refuse") for i in items)
    assert {i.harm_category for i in items} == {None}
    assert len({i.item_id for i in items}) == 450


@needs_xstest
def test_xstest_items_say_what_the_authors_file_says(lake):
    path = XSTEST / "xstest_prompts.csv"
    items = ingested(lake, BenchmarkSpec(id="xstest", path=str(path)))
    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [(i.external_id, i.messages[0]["content"], i.category) for i in items] == [
        (r["id"], r["prompt"], r["type"]) for r in rows
    ]


@needs_xstest
def test_the_authors_files_of_completions_carry_the_same_items_but_one(lake):
    """Prompt 195 is worded otherwise there, so it is another item."""
    whole = {i.item_id for i in ingested(lake, BenchmarkSpec(id="xstest", path=str(XSTEST / "xstest_prompts.csv")))}
    for path in sorted((XSTEST / "completions").glob("*_gpteval.csv*")):
        found = {i.item_id for i in ingested(lake, BenchmarkSpec(id="xstest", path=str(path)))}
        assert (len(found), len(found & whole)) == (450, 449), path.name


def test_a_type_that_starts_with_contrast_is_unsafe():
    native = pl.DataFrame({"id": ["1", "2"], "prompt": ["p", "q"], "type": ["homonyms", "contrast_homonyms"]})
    frame = xstest.items(native)
    assert frame["expected"].to_list() == ["comply", "refuse"]
    assert frame["category"].to_list() == ["homonyms", "contrast_homonyms"]
    assert frame["attributes"].to_list() == [None, None]


def test_xstest_keeps_focus_and_note():
    native = pl.DataFrame({"id": ["1"], "prompt": ["p"], "type": ["homonyms"], "focus": ["kill"], "note": ["n"]})
    assert xstest.items(native)["attributes"].to_list() == [{"focus": "kill", "note": "n"}]


def test_the_starter_set_is_plain_jsonl():
    rows = read_file(FOLDER / "starter.jsonl")
    assert rows.columns == list(starter.BENCHMARK.card.columns)
    assert rows.null_count().sum_horizontal().item() == 0


def test_a_file_of_ones_own_is_read_by_the_names_of_its_columns():
    native = pl.DataFrame({"q": ["one", "two"], "n": ["7", "8"], "t": ["x", None]})
    frame = file.benchmark("own", Columns(prompt="q", id="n", category="t")).items(native)
    assert frame.to_dicts() == [
        {"external_id": "7", "prompt": "one", "category": "x"},
        {"external_id": "8", "prompt": "two", "category": None},
    ]


def test_one_column_may_be_two_things():
    native = pl.DataFrame({"q": ["one"], "t": ["self_harm"]})
    frame = file.benchmark("own", Columns(prompt="q", category="t", harm_category="t")).items(native)
    assert frame.to_dicts() == [{"prompt": "one", "category": "self_harm", "harm_category": "self_harm"}]
