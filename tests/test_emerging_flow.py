"""From prompts of known truth to clusters, alerts and what is printed: a subject that nobody named appears on a known day."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from command import Midwatch, rows
from history import day, load
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from pydantic import TypeAdapter
from scripted import Body, Plain, Scripted, base64_of
from warehouse_rows import finished, observed_prompt

from flows.emerging import Looking, emerging
from flows.monitor import act
from schemas.config import TEMPLATE, Model
from schemas.errors import MidwatchError
from schemas.monitors import AlertSpec
from tasks import embeddings
from tasks.drift.mix_counts import DriftError
from tasks.emerging import KIND, Nights, Seen, explained, findings, record, seen
from tasks.engines.client import EngineError
from tasks.lake import Lake
from tasks.report import emerging as told
from tasks.report.alert import body, title

TOPICS = {
    "baking": "none",
    "gardens": "none",
    "locks": "privacy_violation",
    "pills": "drug_abuse",
    "cards": "financial_crime,property_crime,theft",
}
NEW = "visa"
ONSET, SIZE = 18, 100
CHAT = Looking("chat", 10, 200)
WORDS = ["how", "where", "when", "please", "quick", "old", "new", "best", "cheap", "safe", "home", "night", "world", "help"]
GOLDEN = Path(__file__).parent / "golden"


def text(topic: str, draw: np.random.Generator) -> str:
    return f"{' '.join(draw.choice(WORDS, 3))} {topic} {draw.integers(1 << 40)}"


def vector(asked: str) -> list[float]:
    """Topics lie about axes of their own; the rest of the text moves a prompt a little."""
    named = next((n for n, t in enumerate([*TOPICS, NEW]) if t in asked), 0)
    draw = np.random.default_rng(int(sha256(asked.encode()).hexdigest()[:8], 16))
    return list(np.eye(24)[named] + draw.normal(scale=0.12, size=24))


def embedded(body: Body) -> Plain:
    found = [{"index": i, "embedding": base64_of(vector(t))} for i, t in enumerate(body["input"])]
    return 200, {}, {"object": "list", "data": found, "usage": {"prompt_tokens": 2}}


def prompts(home: Path, first: int, stop: int, share: float = 0.08, until: int = 10**6) -> None:
    """A run with the nights from `first` on; from ONSET to `until` a share is about what nobody named."""
    found = []
    for n in range(first, stop):
        draw = np.random.default_rng(n)
        for k in range(SIZE):
            topic = NEW if ONSET <= n < until and draw.random() < share else str(draw.choice(list(TOPICS)))
            category = TOPICS.get(topic, "unknown")
            asked = text(topic, draw)
            key = sha256(asked.encode()).hexdigest()[:32]
            row = observed_prompt(f"from-{first}", key, text=asked, harm_category=category)
            found.append(row.model_copy(update={"observed_at": datetime.combine(day(n), time(k % 24), UTC)}))
    load(home, {"observed_prompts": found, "runs": [finished(f"from-{first}", kind="observe")]})


def model(server: Scripted) -> Model:
    requests = {"in_flight": 4, "attempts": 1}
    return TypeAdapter(Model).validate_python(
        {"engine": "endpoint", "model": "m", "revision": "r1", "base_urls": [server.base_url], "requests": requests}
    )


def after(n: int) -> datetime:
    """The morning after night `n`."""
    return datetime.combine(day(n + 1), time(8), UTC)


def asked_for(server: Scripted) -> list[str]:
    return [t for body in server.requests for t in body["input"]]


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Iterator[Path]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "home"


def test_what_nobody_named_is_found_told_once_and_only_new_prompts_are_embedded(home: Path):
    prompts(home, 0, ONSET)
    with Scripted(embedded) as server:
        quiet = emerging(CHAT, model(server), AlertSpec(), home, after(ONSET - 1))
        (whole,) = rows(home, f"from drift_tests where run_id = '{quiet}' and kind = '{KIND}' and decision = 'ok'")
        assert whole["reason"].startswith("no cluster is reported as new, ")
        assert len(asked_for(server)) == len(set(asked_for(server))) == ONSET * SIZE
        server.requests.clear()

        prompts(home, ONSET, ONSET + 7)
        emerging(CHAT, model(server), AlertSpec(), home, after(ONSET + 6))
        assert len(asked_for(server)) == 7 * SIZE
        assert set(asked_for(server)) == {
            r["text"] for r in rows(home, "select text from observed_prompts where run_id = 'from-18'")
        }
        (alert,) = rows(home, "from alert_status")
        assert (alert["cause"], alert["monitor"], alert["state"]) == ("NEW CATEGORY", "chat", "open")
        assert alert["title"].startswith(f"NEW CATEGORY: chat: prompts about {NEW}")
        assert alert["since"] >= day(ONSET)
        details = json.loads(alert["details"])
        assert details["subject"] == details["cluster_id"]
        (found,) = rows(home, f"from drift_tests where decision = 'alert' and kind = '{KIND}'")
        cluster = json.loads(found["details"])
        assert cluster["terms"][0].startswith(NEW)
        assert 0.04 < cluster["share"] < 0.13
        assert cluster["before"] == 0
        texts = {r["prompt_id"]: r["text"] for r in rows(home, "select prompt_id, text from observed_prompts")}
        assert all(NEW in texts[i] for i in cluster["examples"])
        assert "No known category fits them" in alert["body"]

        server.requests.clear()
        prompts(home, ONSET + 7, ONSET + 8)
        emerging(CHAT, model(server), AlertSpec(), home, after(ONSET + 7))
        assert len(asked_for(server)) == SIZE
        (same,) = rows(home, "from alert_status")
        assert (same["alert_id"], same["state"]) == (alert["alert_id"], "open")
        assert same["last_seen_at"] > alert["last_seen_at"]


def test_an_alert_ends_when_the_prompts_stop_and_is_not_raised_again(home: Path):
    prompts(home, 0, ONSET + 16, until=ONSET + 7)
    with Scripted(embedded) as server:
        emerging(CHAT, model(server), AlertSpec(), home, after(ONSET + 6))
        (alert,) = rows(home, "from alert_status")
        act(alert["alert_id"], "judged", home, after(ONSET + 6), "ann", None, True, "a campaign")
        emerging(CHAT, model(server), AlertSpec(), home, after(ONSET + 15))
        (over,) = rows(home, "from alert_status")
        assert (over["state"], over["is_true"]) == ("resolved", True)
        emerging(CHAT, model(server), AlertSpec(), home, after(ONSET + 6))  # as it was: the cluster is there again
        assert len(rows(home, "from alerts")) == 1


def test_too_little_is_said_to_be_too_little(home: Path):
    with Scripted(embedded) as server:
        prompts(home, 0, 8)
        run_id = emerging(CHAT, model(server), AlertSpec(), home, after(7))
        (found,) = rows(home, f"from drift_tests where run_id = '{run_id}'")
        assert (found["decision"], found["reason"]) == (
            "insufficient data",
            "8 of 10 reference nights and one more to look at are there",
        )
        assert not server.requests
        few = emerging(Looking("chat", 5, 10), model(server), AlertSpec(), home, after(7))
        (found,) = rows(home, f"from drift_tests where run_id = '{few}'")
        assert "of at least 50: add nights" in found["reason"]
        late = emerging(Looking("chat", 5, 200), model(server), AlertSpec(), home, after(9))
        (found,) = rows(home, f"from drift_tests where run_id = '{late}'")
        assert found["reason"] == f"the newest night with stored texts is {day(7)}, 2 nights late"
        with pytest.raises(MidwatchError, match="without --hash-only, keeps them"):
            emerging(Looking("other", 5, 10), model(server), AlertSpec(), home, after(9))


def test_vectors_are_kept_by_text_and_model_also_where_the_model_refuses_one(tmp_path: Path):
    lake = Lake(root=tmp_path)

    class Engine:
        def __init__(self, down: int | None = None) -> None:
            self.asked: list[str] = []
            self.down = down

        def __call__(self, texts: Sequence[str]) -> embeddings.Embedded:
            from tasks.engines.wire import Reply

            self.asked += texts
            vectors = np.array([[len(t), 1.0] for t in texts], np.float32)
            refused = Reply(error="too long", retryable=False)
            failed = {n: refused for n, t in enumerate(texts) if t == "long"}
            if self.down is not None:
                failed[self.down] = Reply(error="503", retryable=True)
            return embeddings.Embedded(vectors, failed)

    engine = Engine()
    embeddings.add(lake, "embeddings/m", ["a", "long", "bb"], engine)
    assert embeddings.missing(lake, "embeddings/m", ["a", "c", "long", "c"]) == ["c"]
    assert embeddings.missing(lake, "embeddings/other", ["a"]) == ["a"]
    found = embeddings.vectors_of(lake, "embeddings/m", ["bb", "long", "a", "unknown"])
    np.testing.assert_array_equal(found, [[2, 1], [np.nan] * 2, [1, 1], [np.nan] * 2])
    with pytest.raises(EngineError, match="no embedding for 1 of 2 prompts: 503; run the command again"):
        embeddings.add(lake, "embeddings/m", ["c", "d"], Engine(down=1))
    assert embeddings.missing(lake, "embeddings/m", ["c", "d"]) == ["d"]


def nights(stop: int, share: float, seed: int = 0) -> Nights:
    draw = np.random.default_rng(seed)
    found = []
    for n in range(stop):
        topics = [NEW if n >= ONSET and draw.random() < share else str(draw.choice(list(TOPICS))) for _ in range(SIZE)]
        texts = [text(t, draw) for t in topics]
        columns = {"prompt_id": texts, "text": texts, "category": [TOPICS.get(t, "unknown") for t in topics]}
        found.append((day(n), pl.DataFrame(columns)))
    return found


def vectors(texts: Sequence[str]) -> np.ndarray:
    return np.array([vector(t) for t in texts]).reshape(len(texts), 24)


def test_nothing_new_is_reported_where_nothing_is_new_and_what_is_new_soon():
    for seed in range(3):
        assert not [c for c in seen(nights(ONSET + 12, 0.0, seed), 10, vectors) if c.reported]
        found = [c for c in seen(nights(ONSET + 8, 0.08, seed), 10, vectors) if c.reported and not c.part_of]
        assert len(found) == 1
        assert found[0].terms[0].startswith(NEW)
        assert (found[0].reported - day(ONSET)).days <= 7
    with pytest.raises(DriftError, match="of at least 50"):
        seen([(d, p.with_columns(category=pl.lit("unknown"))) for d, p in nights(12, 0.0)], 10, vectors)


def test_findings_tell_of_each_cluster_once():
    found = seen(nights(ONSET + 8, 0.08), 10, vectors)
    whole, first, *_ = findings("chat", found, day(ONSET + 7), ())
    assert (whole.decision, whole.subject, len(whole.details["clusters"])) == ("ok", None, len(found))
    assert (first.decision, first.cause, first.subject) == ("alert", "NEW CATEGORY", found[0].cluster_id)
    assert found[0].cluster_id in explained(found[0])
    _, again, *_ = findings("chat", found, day(ONSET + 7), [found[0].cluster_id])
    assert (again.decision, again.cause) == ("ok", None)


def test_the_command_shows_clusters_with_examples_made_harmless(tmp_path: Path, prefect_api: str):
    home = tmp_path / "home"
    prompts(home, 0, ONSET + 8)
    evil = [f"visa \x1b[2J{n} please \u202e help" for n in range(8)]
    known = [observed_prompt("evil", f"{0:031x}{n}", text=t, harm_category="unknown") for n, t in enumerate(evil)]
    at = datetime.combine(day(ONSET + 7), time(3), UTC)
    load(
        home,
        {
            "observed_prompts": [p.model_copy(update={"observed_at": at}) for p in known],
            "runs": [finished("evil", kind="observe")],
        },
    )
    with Scripted(embedded) as server:
        config = tmp_path / "midwatch.yaml"
        spec = {"engine": "endpoint", "model": "m", "base_urls": [server.base_url]}
        given = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
        config.write_text(yaml.safe_dump(given | {"models": given["models"] | {"e": spec}}))
        midwatch = Midwatch(home, tmp_path, prefect_api)
        asked = ("drift", "new", "chat", "--model", "e", "-c", config, "--reference-nights", "10")
        shown = midwatch(*asked, "--as-of", str(day(ONSET + 7)))
        assert shown.code == 0, shown.err
        assert f"chat, to {day(ONSET + 7)}: 1 new category: prompts about {NEW}" in shown.out
        assert "visa \\u{1b}[2J" in shown.out
        assert "\x1b" not in shown.out + shown.err
        assert "e has no revision: its vectors may change unseen" in shown.out


def cluster(**columns: object) -> Seen:
    growth = [{"day": str(day(n)), "inside": k, "n": 900} for n, k in enumerate((0, 0, 9, 18, 27, 36))]
    known: dict[str, object] = {
        "cluster_id": "5a8c8012", "status": "reported", "terms": ("visa", "border crossing", "permit", "stamp"), "size": 63,
        "first_seen": day(2), "last_seen": day(5), "reported": day(5), "inside": 90, "n": 3600, "share": 0.025, "low": 0.0204,
        "high": 0.0306, "inside_before": 4, "n_before": 12_000, "before": 4 / 12_000, "growth": growth,
        "category": "privacy_violation", "distance": 0.412, "nearest": ("r1",), "examples": ("e1", "e2"), "p_value": 3.8e-13,
        "merged": (), "split_from": None, "part_of": None,
    }  # fmt: skip
    return Seen(**(known | columns))


def test_what_is_said_reads_well():
    new, part = cluster(), cluster(cluster_id="77aa", part_of="5a8c8012", before=None, n_before=0)
    watched = [cluster(cluster_id=f"w{n}", status="watched", reported=None, terms=()) for n in range(7)]
    found = [new, part, *watched]
    listed = [record(c) for c in found]
    whole, alert, *_ = findings("chat", found, day(5), ())
    texts = {"e1": "Where do I get\ta visa stamp? " * 9, "e2": "Which permit for a border crossing?"}
    lines = [told.sentence("chat", str(day(5)), "ok", whole.reason, listed), ""]
    lines += [" | ".join(told.COLUMNS), *(" | ".join(r) for r in told.rows(told.shown(listed))), *told.remarks(listed)]
    lines += [*told.examples(listed, texts), "", title(alert), body(alert, explained(new), "f76c47b4")]
    assert "\n".join(lines) + "\n" == (GOLDEN / "emerging.txt").read_text(encoding="utf-8")
    assert [m.part for m in alert.moved] == [0.5, 0.5]
    quiet = told.sentence("chat", "2026-01-30", "ok", "no cluster is reported as new, 0 watched", [])
    assert quiet == "chat, to 2026-01-30: no cluster is reported as new, 0 watched; nothing new is seen"
    late = told.sentence("chat", "2026-01-30", "insufficient data", "it is late", listed)
    assert late.startswith(
        "chat, to 2026-01-30: not enough data, and so no alert: it is late; 1 new category: prompts about visa"
    )
