"""From responses to verdicts: a rule is applied, a rubric is put to a model through the same generate step."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task

from schemas.ids import digest, item_id, response_id, verdict_id
from schemas.rows import Arm, JudgeKind, Prompt, Response, Verdict
from schemas.rows import Judge as JudgeRow
from tasks.forgotten import FORGOTTEN
from tasks.generate import answered, is_final
from tasks.judges import Judge, answer_key
from tasks.judges.ensemble import VERSION as ENSEMBLE
from tasks.judges.ensemble import Ensemble
from tasks.judges.opinion import Comparison, Key, Opinion, Rubric, Rule
from tasks.judges.trained import Trained
from tasks.lake import Artifact, Lake
from tasks.opinions import TRIES, Evidence, Opinions, because, combined, opinions, questions_of, raw_of, votes_of
from tasks.prompts import Asking, Chosen
from tasks.protocols.protocol import LETTERS, order_of
from tasks.store import Stored, store


def judge_row(judge: Judge, arm: Arm | None = None, members: Sequence[str] = ()) -> JudgeRow:
    """The judge on record: another version, rubric, model or member is another judge.

    `arm` asks a rubric's model, `members` are the judge_ids of an ensemble's.
    """
    kind, version, config = _record(judge)
    config = {"labels": judge.labels} | config | ({"members": list(members)} if members else {})
    return JudgeRow(
        judge_id=digest("judge", judge.name, kind, version, config, arm and arm.arm_id),
        name=judge.name,
        kind=kind,
        version=version,
        model=arm.model if arm else None,
        config=config,
    )


def _record(judge: Judge) -> tuple[JudgeKind, str, dict[str, Any]]:
    """Its kind, its version, and what else makes it this judge."""
    match judge:
        case Rubric():
            asks = {"template": judge.template, "sampling": judge.sampling.model_dump(mode="json")}
            return judge.kind, judge.version, asks | ({"options": judge.options} if judge.options else {})
        case Trained():
            return "trained", judge.version, {"card": dict(judge.card)}
        case Ensemble():
            measured = {m: list(r) for m, r in judge.reliability.items()}
            decides = {"vote": judge.vote, "ties": judge.ties, "quorum": judge.needed, "prevalence": judge.prevalence}
            return "ensemble", ENSEMBLE, decides | {"reliability": measured}
        case Comparison():
            return "rule", judge.version, dict(judge.config)
        case Key():
            return "key", judge.version, {}
        case Rule():
            return "rule", judge.version, {}


def ask(
    lake: Lake, prompts: Artifact, responses: Artifact, judge: Rubric, row: JudgeRow, arm: Arm, epoch: str, size: int
) -> list[tuple[int, Artifact]]:
    """The questions to a rubric's model, each once, in batches of at most `size`, each with the sample to ask for.

    There is one for each response that has a text and no verdict yet. A question whose stored replies hold no verdict is
    asked again as another sample, up to TRIES times.
    """
    rows = [r for r in _answers(lake, responses) if r.text is not None]
    ids = {verdict_id(r.response_id, row.judge_id, epoch): r for r in rows}
    known = _known(lake, _folder(row, epoch), list(ids))
    asked_now = questions_of(lake, prompts, [r for i, r in ids.items() if i not in known], judge)
    options = list(judge.options) or None
    waiting = {item_id(q): Prompt(item_id=item_id(q), messages=q, options=options) for q in asked_now.values()}
    batches = []
    for sample in range(TRIES):
        failed = set() if sample == TRIES - 1 else _failed(lake, judge, arm, epoch, sample, waiting)
        now = [q for i, q in waiting.items() if i not in failed]
        shards = [Prompt.to_table(now[start : start + size]) for start in range(0, len(now), size)]
        batches += [(sample, lake.write(shard, "prompts")) for shard in shards]
        waiting = {i: q for i, q in waiting.items() if i in failed}
    return batches


def settle(
    lake: Lake,
    evidence: Evidence,
    responses: Artifact,
    judge: Judge,
    row: JudgeRow,
    run_id: str,
    epoch: str,
    max_quarantined: float,
) -> Stored:
    """The verdicts of `judge` on `responses`, one each in the same order.

    A response without a text, or a reply without a verdict, is unscored: `error` says why. Verdicts that are already in
    the lake are kept as they are.
    """
    rows = _answers(lake, responses)
    if isinstance(judge, Ensemble):  # members that say something else make a verdict of its own
        votes = votes_of(lake, evidence.members)
        epochs, opine = [epoch + _said(votes[r.response_id]) for r in rows], partial(combined, judge, votes)
    else:
        epochs, opine = [epoch] * len(rows), partial(opinions, lake, evidence, judge)
    return _stored(lake, list(zip(rows, epochs, strict=True)), opine, row, run_id, _folder(row, epoch), max_quarantined)


settle_task = task(name="judge", task_run_name="judge {row.name}")(settle)


def is_settled(lake: Lake, verdicts: Artifact) -> bool:
    """Whether judging again could not complete any of these verdicts."""
    return all(is_final(error) for error in lake.read(verdicts)["error"].to_pylist())


def mark(
    lake: Lake,
    chosen: Sequence[Chosen],
    responses: Sequence[Artifact],
    judge: JudgeRow,
    run_id: str,
    epoch: str,
    max_quarantined: float,
) -> list[Stored]:
    """The verdicts of the answer key on answers to `chosen`, which have one asking; `raw` is the letter of the option.

    The letter is that of the option's place in the item, also where the options were shown in another order. The epoch of a
    verdict tells the answer that was taken for right, so that a corrected key gives verdicts of its own.
    """
    keys = pa.concat_tables(t.select(_KEY) for c in chosen for t in c.tables(lake))
    stored = []
    for file in responses:
        rows = _answers(lake, file)
        known = _keys(keys, rows)
        opine = partial(_marks, chosen[0].asking, known)
        epochs = [(r, epoch + digest(known[r.item_id][1])[:8]) for r in rows]
        stored.append(_stored(lake, epochs, opine, judge, run_id, _folder(judge, epoch), max_quarantined))
    return stored


mark_task = task(name="mark")(mark)

_KEY = ["item_id", "options", "reference"]


def _keys(keys: pa.Table, responses: Sequence[Response]) -> dict[str, tuple[list[str], dict[str, Any] | None]]:
    """The options and the reference of the items that were answered."""
    wanted = pa.array([r.item_id for r in responses], pa.string())
    rows = keys.filter(pc.is_in(keys["item_id"], wanted)).to_pylist()
    return {row["item_id"]: (json.loads(row["options"] or "[]"), json.loads(row["reference"] or "null")) for row in rows}


def _marks(
    asking: Asking, keys: Mapping[str, tuple[list[str], dict[str, Any] | None]], responses: Sequence[Response]
) -> Opinions:
    return {r.response_id: _marked(asking, r, *keys[r.item_id]) for r in responses}


def _marked(
    asking: Asking, response: Response, options: list[str], reference: dict[str, Any] | None
) -> tuple[Opinion, str | None]:
    presentation = response.sample % asking.code.presentations
    order = order_of(response.item_id, len(options), asking.protocol.order_seed, presentation)
    place = asking.code.read([options[i] for i in order], response.text or "")
    chosen = None if place is None else order[place]
    return answer_key.judge(reference, chosen), None if chosen is None else LETTERS[chosen]


def _stored(
    lake: Lake,
    responses: Sequence[tuple[Response, str]],
    opine: Callable[[Sequence[Response]], Opinions],
    judge: JudgeRow,
    run_id: str,
    folder: str,
    max_quarantined: float,
) -> Stored:
    """A verdict for each response in its epoch: a stored one, the judge's opinion, or that there was no response."""
    rows = {verdict_id(r.response_id, judge.judge_id, epoch): (r, epoch) for r, epoch in responses}
    known = _known(lake, folder, list(rows))
    new = {i: row for i, row in rows.items() if i not in known}
    said = opine([r for r, _ in new.values() if r.text is not None])
    fresh = {
        i: _verdict(i, r, *said.get(r.response_id, (_no_response(r), None)), judge.judge_id, run_id, epoch)
        for i, (r, epoch) in new.items()
    }
    return store(lake, Verdict.to_table((known | fresh)[i] for i in rows), "verdicts", folder, max_quarantined)


def _folder(judge: JudgeRow, epoch: str) -> str:
    return f"verdicts/{judge.judge_id}/{epoch or 'pinned'}"


def _failed(lake: Lake, judge: Rubric, arm: Arm, epoch: str, sample: int, questions: Mapping[str, Prompt]) -> set[str]:
    """The questions whose stored reply, of this sample, holds no verdict."""
    ids = [response_id(i, arm.arm_id, sample, epoch) for i in questions]
    stored = answered(lake, f"responses/{arm.arm_id}/{epoch or 'pinned'}", ids) if ids else {}
    return {r.item_id for r in stored.values() if r.text is not None and judge.parse(raw_of(judge, r)).error is not None}


def _said(votes: Mapping[str, Opinion]) -> str:
    """The votes as 8 digits."""
    return digest([(member, vote.label, vote.unsafe) for member, vote in sorted(votes.items())])[:8]


def _verdict(
    verdict_id: str, response: Response, opinion: Opinion, raw: str | None, judge_id: str, run_id: str, epoch: str
) -> Verdict:
    return Verdict(
        verdict_id=verdict_id,
        response_id=response.response_id,
        judge_id=judge_id,
        run_id=run_id,
        epoch=epoch,
        label=opinion.label,
        unsafe=opinion.unsafe,
        score=opinion.score,
        categories=opinion.categories,
        rationale=opinion.rationale,
        raw=raw,
        error=opinion.error,
        judged_at=datetime.now(UTC),
    )


def _answers(lake: Lake, file: Artifact) -> list[Response]:
    """The responses of a file; one that was forgotten has no text that could be judged."""
    forgotten = {"text": None, "error": "it was forgotten on request"}
    rows = Response.from_table(lake.read(file))
    return [r.model_copy(update=forgotten) if r.text == FORGOTTEN else r for r in rows]


def _known(lake: Lake, folder: str, ids: list[str]) -> dict[str, Verdict]:
    table = lake.find(folder, "verdict_id", ids)
    rows = sorted(Verdict.from_table(table) if table else [], key=lambda v: v.judged_at, reverse=True)
    return {v.verdict_id: v for v in rows if is_final(v.error)}


def _no_response(response: Response) -> Opinion:
    return Opinion(error=because("no response", response.error))
