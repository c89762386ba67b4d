"""What judges of each kind say of responses, from all that they look at."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from schemas.ids import Message, asked, canonical, item_id
from schemas.rows import Prompt, Response, Verdict
from tasks.engines import open_engine
from tasks.engines.weights import Resolved
from tasks.engines.wire import Reply
from tasks.generate import UNANSWERED, is_final
from tasks.judges import Judge
from tasks.judges.ensemble import Ensemble, combine
from tasks.judges.opinion import Comparison, Opinion, Rubric, Rule
from tasks.judges.trained import Trained
from tasks.lake import Artifact, Lake
from tasks.prompts import Chosen
from tasks.protocols.protocol import LETTERS

TRIES = 8  # replies to a question that hold no verdict; from then on its response stays unscored

Opinions = dict[str, tuple[Opinion, str | None]]  # by response: the opinion, and the raw reply behind it


class Evidence(NamedTuple):
    """What a judge looks at beside responses: what was asked, and, as it needs them, its model's replies, the model that
    makes embeddings, the items, and the verdicts of an ensemble's members on the same responses."""

    prompts: Artifact
    replies: Sequence[Artifact] = ()
    embedder: Resolved | None = None
    items: Sequence[Chosen] = ()
    members: Mapping[str, Artifact] = {}


def opinions(lake: Lake, evidence: Evidence, judge: Judge, responses: Sequence[Response]) -> Opinions:
    """What the judge says of each of the responses, which have texts."""
    match judge:
        case Rubric():
            return _read(lake, evidence, judge, responses)
        case Comparison():
            about = _about(lake, evidence.items, responses)
            return {r.response_id: (judge.judge(*about[r.item_id], r.text or ""), None) for r in responses}
        case Trained():
            return _predicted(lake, evidence, judge, responses)
        case Rule():
            requests = _requests(lake, evidence.prompts)
            return {r.response_id: (judge.judge(requests[r.item_id], r.text or ""), None) for r in responses}
    raise TypeError(f"{judge.name} judges by itself")


def _read(lake: Lake, evidence: Evidence, judge: Rubric, responses: Sequence[Response]) -> Opinions:
    by_question = {r.item_id: r for file in evidence.replies for r in Response.from_table(lake.read(file))}
    questions = questions_of(lake, evidence.prompts, responses, judge)
    return {i: _opinion(judge, by_question.get(item_id(q))) for i, q in questions.items()}


def _opinion(judge: Rubric, reply: Response | None) -> tuple[Opinion, str | None]:
    """What the reply says; where it holds no verdict, the next run asks again, up to TRIES times."""
    if reply is None or reply.text is None:
        return _no_reply(reply), None
    raw = raw_of(judge, reply)
    opinion = judge.parse(raw)
    if opinion.error is not None and reply.sample + 1 < TRIES:
        opinion = Opinion(error=f"{UNANSWERED}{opinion.error}")
    return opinion, raw


def raw_of(judge: Rubric, reply: Response) -> str:
    """All that the model said: its text, or the log-probabilities of the options as JSON."""
    if judge.answered != "tokens":
        return reply.text or ""
    scored = reply.option_logprobs or {}
    return canonical({o: scored[letter] for o, letter in zip(judge.options, LETTERS, strict=False) if letter in scored})


def _predicted(lake: Lake, evidence: Evidence, judge: Trained, responses: Sequence[Response]) -> Opinions:
    """What a trained judge says; a response without an embedding is unscored."""
    texts = [r.text or "" for r in responses]
    vectors, failed = None, dict[int, Reply]()
    if judge.embedding is not None and texts:
        assert evidence.embedder is not None
        vectors, failed = open_engine(evidence.embedder).embed(texts)
    rows = [(n, r) for n, r in enumerate(responses) if n not in failed]
    requests = _requests(lake, evidence.prompts)
    kept = None if vectors is None else vectors[[n for n, _ in rows]]
    found = judge.judge([requests[r.item_id] for _, r in rows], [texts[n] for n, _ in rows], kept)
    said: Opinions = {r.response_id: (opinion, None) for (_, r), opinion in zip(rows, found, strict=True)}
    for n, reply in failed.items():
        cause = f"{UNANSWERED if reply.retryable else ''}{reply.error}"
        said[responses[n].response_id] = Opinion(error=because("no embedding", cause)), None
    return said


def votes_of(lake: Lake, members: Mapping[str, Artifact]) -> Mapping[str, dict[str, Opinion]]:
    """By response: what each of the members says; nothing where none has a verdict."""
    votes: dict[str, dict[str, Opinion]] = defaultdict(dict)
    for member, file in members.items():
        for v in Verdict.from_table(lake.read(file)):
            votes[v.response_id][member] = Opinion(v.label, v.unsafe, v.score, v.categories, v.rationale, v.error)
    return votes


def combined(judge: Ensemble, votes: Mapping[str, dict[str, Opinion]], responses: Sequence[Response]) -> Opinions:
    """What the ensemble says of each of the responses, from the votes on it."""
    return {r.response_id: (combine(judge, votes[r.response_id]), None) for r in responses}


def _about(lake: Lake, items: Sequence[Chosen], responses: Sequence[Response]) -> dict[str, tuple[str, list[str]]]:
    """By item: its benchmark's own id of it and its tags; of several benchmarks with the item, one that tags it."""
    wanted = pa.array([r.item_id for r in responses], pa.string())
    found: dict[str, tuple[str, list[str]]] = {}
    for table in (t for c in items for t in c.tables(lake)):
        for row in table.filter(pc.is_in(table["item_id"], wanted)).select(_ABOUT).to_pylist():
            tags = (json.loads(row["attributes"] or "null") or {}).get("tags") or []
            if tags or row["item_id"] not in found:
                found[row["item_id"]] = row["external_id"], tags
    return found


_ABOUT = ["item_id", "external_id", "attributes"]


def questions_of(lake: Lake, batch: Artifact, responses: Sequence[Response], rubric: Rubric) -> dict[str, list[Message]]:
    """What the rubric's model is asked, by response."""
    requests = _requests(lake, batch)
    return {r.response_id: rubric.render(requests[r.item_id], r.text or "") for r in responses}


def _requests(lake: Lake, batch: Artifact) -> dict[str, str]:
    """What was asked, by item: the last message of the user."""
    return {p.item_id: asked(p.messages) for p in Prompt.from_table(lake.read(batch))}


def _no_reply(reply: Response | None) -> Opinion:
    cause = reply.error if reply else f"{UNANSWERED}the reply of the judge's model went to quarantine"
    return Opinion(error=because("no reply from the judge's model", cause))


def because(what: str, error: str | None) -> str:
    """An error of a later step; one that is worth another try stays one."""
    cause = error or ""
    return f"{what}: {cause}" if is_final(cause) else cause
