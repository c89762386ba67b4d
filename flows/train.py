"""A judge is fitted on what people said of responses."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefect import flow

from flows.asked import asked as ask
from flows.embedding import embedded
from schemas.config import Model, Target
from schemas.ids import asked
from tasks.fit import TrainError
from tasks.importers.responses import read_label, require
from tasks.judges.trained import Trained
from tasks.native import read_file
from tasks.train import Cost, Example, save, train

_LABELLED = """
select distinct on (response_id) messages, text as response, name as source, label, unsafe, categories
from human_labels
join (select response_id, arm_id, text from responses) using (response_id)
join (select item_id, messages from items) using (item_id)
join (select arm_id, name from arms) using (arm_id)
where annotator = $annotator and text is not null and text <> '[forgotten]'
order by response_id, labeled_at desc nulls last, label_id
"""


class Labelled(NamedTuple):
    """Where labelled responses are: in files, whose columns are named, or in the warehouse, by one annotator."""

    files: Sequence[Path]
    prompt: str
    response: str
    label: str | None
    annotator: str | None


@flow(name="judge train", flow_run_name="{name}")
def train_judge(
    name: str,
    target: Target,
    labelled: Labelled,
    card: Mapping[str, str],
    embedder: Model | None,
    cost: Cost,
    folds: int,
    seed: int,
    out: Path,
    home: Path,
) -> Trained:
    """The judge, written to `out`; TrainError says which labels are missing or wrong."""
    rows = list(_in_files(labelled, target) if labelled.files else _in_warehouse(home, str(labelled.annotator), target))
    responses = [row.response for row in rows]
    vectors, revision = embedded(responses, "responses", embedder, home) if embedder else (None, None)
    judge = train(name, target, rows, card, vectors=vectors, embedding=revision, cost=cost, folds=folds, seed=seed)
    save(judge, out)
    return judge


def _in_files(labelled: Labelled, target: Target) -> Iterator[Example]:
    """The labelled rows of the files; the source of each is its file."""
    for file in labelled.files:
        rows = read_file(file)
        require(rows, str(file), labelled.prompt, labelled.response, labelled.label)
        for n, row in enumerate(rows.to_dicts(), 1):
            said, text = row[str(labelled.label)], row[labelled.response]
            if said not in (None, "") and text:
                yield Example(row[labelled.prompt] or "", text, _truth(f"{file}, row {n}", target, said), file.stem)


def _in_warehouse(home: Path, annotator: str, target: Target) -> Iterator[Example]:
    """What `annotator` said of stored responses; the source of each is its arm."""
    rows = ask(home, _LABELLED, annotator=annotator)
    if rows.is_empty():
        raise TrainError(f"annotator {annotator!r} has labelled no stored response; midwatch labels import FILE")
    if rows[target].null_count() == len(rows):
        others = ", ".join(t for t in ("label", "unsafe", "categories") if rows[t].count())
        raise TrainError(f"the {len(rows)} labels of {annotator!r} say nothing for --target {target}; they say: {others}")
    for row in rows.drop_nulls(target).iter_rows(named=True):
        said = frozenset(row[target]) if target == "categories" else row[target]
        yield Example(asked(json.loads(row["messages"])), row["response"], said, row["source"])


def _truth(where: str, target: Target, said: Any) -> Any:
    """A cell of a file as the target has it."""
    if target == "categories":
        parts = said if isinstance(said, list) else str(said).split(";")
        return frozenset(str(part).strip() for part in parts if str(part).strip())
    found = read_label(str(said))
    value = None if found is None else found[0] if target == "label" else found[1]
    if value is None:
        raise TrainError(f"{where}: {str(said)[:80]!r} is no {'refusal label' if target == 'label' else 'safe or unsafe'}")
    return value
