"""How often nothing new is reported as new, and how soon something is, over many histories of nights."""

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from tasks.drift.emerging import Scorer, fit
from tasks.drift.emerging_nights import State, describe, follow

DAY = date(2026, 3, 1)
ONSET = 20
TOPICS, SIZE, NEW = 8, 24, 8  # the last topic is new
RED_INSTRUCT = Path(__file__).parents[3] / "shared/data/red-instruct"


def prompts(draw, topics: np.ndarray) -> tuple[pl.DataFrame, np.ndarray]:
    """Prompts of these topics, no text twice; topics lie about axes of their own, with two subjects each."""
    subject = draw.integers(2, size=len(topics))
    axes = np.eye(SIZE)[topics] + 0.5 * np.eye(SIZE)[TOPICS + 1 + (2 * topics + subject) % (SIZE - TOPICS - 1)]
    texts = [f"topic{t} subject{s} {draw.integers(1 << 60)}" for t, s in zip(topics, subject, strict=True)]
    frame = pl.DataFrame({"prompt_id": texts, "text": texts, "category": [f"topic{t}" for t in topics]})
    return frame, axes + draw.normal(scale=0.25, size=axes.shape)


def history(seed: int, nights: int, size: int, share: float = 0.0, grown: float = 1.0) -> tuple[Scorer, Iterator]:
    """A scorer of known topics, and nights whose mix wanders; from ONSET `share` is new, and the first topic grows."""
    draw = np.random.default_rng(seed)
    base = draw.dirichlet(np.full(TOPICS, 5.0))
    scorer = fit(*prompts(draw, draw.choice(TOPICS, 800, p=base)))

    def each() -> Iterator:
        for t in range(nights):
            weights = draw.dirichlet(base * 200) * np.where((np.arange(TOPICS) == 0) & (t >= ONSET), grown, 1.0)
            topics = draw.choice(TOPICS, size, p=weights / weights.sum())
            topics[draw.random(size) < (share if t >= ONSET else 0.0)] = NEW
            yield DAY + timedelta(t), *prompts(draw, topics)

    return scorer, each()


def reports(scorer: Scorer, nights: Iterator) -> tuple[State, dict[str, int]]:
    """The last state, and the night (from 0) on which each cluster was reported."""
    state, found = State(), {}
    for night in nights:
        state = follow(scorer, [night], state)
        found |= {c.cluster_id: (c.reported - DAY).days for c in state.clusters if c.reported}
    return state, found


@pytest.mark.parametrize("grown", [1.0, 4.0])
def test_nothing_new_is_seldom_reported(grown):
    found = [reports(*history(seed, 40, 150, grown=grown))[1] for seed in range(12)]
    assert sum(map(bool, found)) <= 2


def test_what_is_new_is_reported_within_a_week():
    delays = []
    for seed in range(8):
        state, found = reports(*history(100 + seed, ONSET + 8, 200, share=0.05))
        delays.append(min(found.values(), default=99) - ONSET)
        assert all(c.reported is None or new_share(state, c) > 0.5 for c in state.clusters)
    assert min(delays) >= 1
    assert sorted(delays)[-2] <= 7


def new_share(state: State, cluster) -> float:
    named = {key: text for night in state.nights for key, text in night.prompts.select("key", "text").iter_rows()}
    return np.mean([named[key].startswith(f"topic{NEW}") for key in cluster.members])


@pytest.mark.skipif(not RED_INSTRUCT.exists(), reason="needs CatQA and HarmfulQA in ../shared/data/red-instruct")
def test_a_category_of_catqa_that_appears_is_reported_by_its_terms():
    asked = [
        (category, question)
        for name in ("catqa_english", "harmfulqa")
        for category, parts in json.loads((RED_INSTRUCT / f"{name}.json").read_text(encoding="utf-8")).items()
        for questions in parts.values()
        for question in questions
    ]
    rows = pl.DataFrame(asked, schema=["category", "text"], orient="row").unique("text", maintain_order=True)
    rows = rows.with_columns(prompt_id=pl.int_range(pl.len()).cast(pl.String))
    new = (rows["category"] == "Hate/Harass/Violence").to_numpy()
    draw = np.random.default_rng(0)
    known = draw.permutation(np.flatnonzero(~new))
    reference, pool = known[:1000], known[1000:]
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english", ngram_range=(1, 2), min_df=2).fit(
        rows["text"].gather(reference)
    )
    svd = TruncatedSVD(100, random_state=0).fit(words.transform(rows["text"].gather(reference)))
    vectors = svd.transform(words.transform(rows["text"]))
    scorer = fit(rows[reference.tolist()], vectors[reference])

    def nights() -> Iterator:
        for t in range(ONSET + 10):
            k = draw.binomial(1000, 0.03) if t >= ONSET else 0
            chosen = np.concatenate([draw.choice(pool, 1000 - k), draw.choice(np.flatnonzero(new), k)])
            yield DAY + timedelta(t), rows[chosen.tolist()], vectors[chosen]

    state, found = reports(scorer, nights())
    assert found
    assert min(found.values()) > ONSET
    named = {w for c in state.clusters if c.reported for w in describe(scorer, state, c).terms}
    assert {"hateful", "group", "religious", "gender", "violence", "racial", "hate"} & {
        w for term in named for w in term.split()
    }
