from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from tasks.drift.emerging import QUANTILE, Scorer, fit
from tasks.drift.emerging_clusters import clusters, region, terms
from tasks.drift.emerging_evidence import Cluster, Night, Sums, excess
from tasks.drift.emerging_nights import WINDOW, Formed, State, describe, follow, identify
from tasks.drift.mix_counts import DriftError

DAY = date(2026, 3, 1)
SIZE = 16
TOPICS = {name: i for i, name in enumerate(["weapons", "drugs", "fraud", "hate", "malware", "elections"])}
NEW = "elections"


def prompts(draw, n: dict[str, int], spread: float = 0.5) -> tuple[pl.DataFrame, np.ndarray]:
    """So many prompts of each topic, no text twice, and a vector of each about an axis of its own."""
    named = [topic for topic, k in n.items() for _ in range(k)]
    axes = np.eye(SIZE)[[TOPICS[topic] for topic in named]].reshape(len(named), SIZE)
    texts = [f"{topic} {topic}{draw.integers(5)} words {draw.integers(1 << 60)}" for topic in named]
    frame = pl.DataFrame(
        {"prompt_id": [text[-12:] for text in texts], "text": texts, "category": named},
        schema={"prompt_id": pl.String, "text": pl.String, "category": pl.String},
    )
    return frame, axes + draw.normal(scale=spread / 2, size=(len(named), SIZE))


def mix(draw, n: int, new: float = 0.0, **times: float) -> dict[str, int]:
    """How many of n prompts are of each topic; `times` multiplies the share of one."""
    known = [topic for topic in TOPICS if topic != NEW]
    weights = np.array([times.get(topic, 1.0) for topic in known])
    k = draw.binomial(n, new)
    counts = draw.multinomial(n - k, weights / weights.sum())
    return {**dict(zip(known, counts.tolist(), strict=True)), NEW: int(k)}


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    draw = np.random.default_rng(1)
    return fit(*prompts(draw, mix(draw, 1000)))


def nights(seed: int, n: int, onset: int, share: float = 0.05, size: int = 200, until: int = 999, **times: float):
    draw = np.random.default_rng(seed)
    for t in range(n):
        late = onset <= t < until
        yield DAY + timedelta(t), *prompts(draw, mix(draw, size, share if late else 0.0, **(times if late else {})))


def test_a_stated_share_of_fresh_prompts_is_novel(scorer):
    draw = np.random.default_rng(2)
    assert scorer.held.novel.mean() == pytest.approx(1 - QUANTILE, abs=0.002)
    assert scorer.score(*prompts(draw, mix(draw, 4000))).novel.mean() == pytest.approx(1 - QUANTILE, abs=0.04)


def test_prompts_of_no_known_category_are_novel(scorer):
    found = scorer.score(*prompts(np.random.default_rng(3), {NEW: 300}))
    assert found.novel.mean() > 0.8


def test_the_likeliest_category_is_named(scorer):
    frame, vectors = prompts(np.random.default_rng(4), {"drugs": 200}, spread=0.2)
    found = scorer.score(frame, vectors)
    assert (found.category == scorer.categories.index("drugs")).all()
    assert found.novel.mean() < 0.05


def test_a_prompt_without_a_direction_is_left_out_and_a_text_counts_once(scorer):
    frame = pl.DataFrame({"prompt_id": list("abcdef"), "text": ["x", "y", "z", " Two  words", "two words", "other"]})
    vectors = np.ones((6, SIZE))
    vectors[0, 3], vectors[1], vectors[2, 0] = np.nan, 0, np.inf
    found = scorer.score(frame, vectors)
    assert found.prompts["prompt_id"].to_list() == ["d", "f"]
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1)
    assert np.isfinite(found.novelty).all()


def test_prompts_without_text_are_told_apart_by_their_ids(scorer):
    frame = pl.DataFrame({"prompt_id": ["a", "b", "a"], "text": [None, None, None]}, schema_overrides={"text": pl.String})
    assert scorer.score(frame, np.ones((3, SIZE))).prompts["prompt_id"].to_list() == ["a", "b"]


def test_an_empty_night(scorer):
    frame, vectors = prompts(np.random.default_rng(1), {})
    assert scorer.score(frame, vectors).prompts.is_empty()
    assert scorer.score(pl.DataFrame({"prompt_id": [], "text": []}), np.zeros(0)).novel.shape == (0,)
    state = follow(scorer, [(DAY, frame, vectors), *nights(5, 1, 9)][:1])
    assert state.nights[0].n == 0
    assert state.clusters == ()


@pytest.mark.parametrize("topics", [1, 2])
def test_few_known_categories(topics):
    draw = np.random.default_rng(6)
    known = list(TOPICS)[:topics]
    scorer = fit(*prompts(draw, dict.fromkeys(known, 200)))
    assert scorer.categories == tuple(sorted(known))
    assert scorer.score(*prompts(draw, {NEW: 100})).novel.mean() > 0.8


def test_what_cannot_be_fitted_or_scored_is_refused(scorer):
    frame, vectors = prompts(np.random.default_rng(7), {"drugs": 60})
    with pytest.raises(DriftError, match="40 distinct reference prompts"):
        fit(frame[:40], vectors[:40])
    with pytest.raises(DriftError, match="40 distinct"):
        fit(frame.with_columns(category=pl.when(pl.int_range(60) < 40).then("category")), vectors)
    with pytest.raises(DriftError, match="60 prompts, vectors of shape"):
        fit(frame, vectors[:50])
    with pytest.raises(DriftError, match="embed both with one model"):
        scorer.score(frame, vectors[:, :5])


def test_too_few_or_too_scattered_prompts_form_no_cluster():
    draw = np.random.default_rng(8)
    assert clusters(np.zeros((0, SIZE)), 300) == []
    assert clusters(draw.normal(size=(4, SIZE)), 300) == []
    assert clusters(draw.normal(size=(30, SIZE)), 10_000) == []


def test_dense_prompts_form_clusters_the_largest_first():
    draw = np.random.default_rng(9)
    centres = np.eye(SIZE)[[0] * 12 + [1] * 20]
    vectors = np.concatenate([centres + draw.normal(scale=0.05, size=centres.shape), draw.normal(size=(20, SIZE))])
    found = clusters(vectors, 300)
    assert [set(f) for f in found[:2]] == [set(range(12, 32)), set(range(12))]


def test_vectors_that_are_all_the_same_do_no_harm():
    vectors = np.tile(np.eye(SIZE)[0], (30, 1))
    for found in clusters(vectors, 300):
        where = region(vectors[found], np.zeros(len(found), np.intp), 1)
        assert where.holds(vectors, np.full(30, 0.1)).all()
        assert not where.holds(vectors, np.zeros(30)).any()


def test_terms_are_what_tells_the_texts_from_others():
    mine = ["how to rig an election", "rig the election count", "hide ballots of the election", "ballots"]
    others = ["how to hide a weapon", "how to count pills", "hide the pills"] * 5
    found = terms(mine, others)
    assert found[0] in ("election", "rig election")
    assert "ballots" in found
    assert not {"hide", "count"} & set(found)
    assert terms([], others) == terms(["12 34", ""], ["?"]) == terms([""], []) == ()


def test_the_excess_is_the_exact_test_of_two_rates():
    none = np.zeros(1)
    after, before = Sums(9, 300, none), Sums(12, 2400, none)
    theirs = binomtest(9, 21, 1.5 * 300 / (1.5 * 300 + 2400), alternative="greater").pvalue
    assert excess(none, before, after) == pytest.approx(theirs)
    assert excess(none, Sums(0, 0, none), after) == 1.0
    assert excess(none, before, Sums(0, 300, none)) == 1.0


def test_a_known_category_that_grew_explains_its_own_outliers():
    weights = np.array([1.0, 0.0])
    before, after = Sums(10, 1000, np.array([200.0, 800])), Sums(20, 500, np.array([400.0, 100]))
    assert excess(weights, before, after) > 0.5
    assert excess(weights[::-1], before, after) < 0.05


def test_a_new_category_is_reported_soon_by_name_and_nothing_else(scorer):
    state, seen = State(), {}
    for night in nights(10, 30, onset=20):
        state = follow(scorer, [night], state)
        seen |= {c.cluster_id: c.reported for c in state.clusters if c.reported}
    found = min((c for c in state.clusters if c.reported), key=lambda c: c.reported)
    named = {key: text.split()[0] for night in state.nights for key, text in night.prompts.select("key", "text").iter_rows()}
    assert all(np.mean([named[key] == NEW for key in c.members]) > 0.8 for c in state.clusters if c.reported)
    assert all(when >= DAY + timedelta(21) for when in seen.values())
    assert DAY + timedelta(21) <= found.reported <= DAY + timedelta(25)
    assert found.first_seen >= DAY + timedelta(14)
    assert found.last_seen == DAY + timedelta(29)
    assert found.status == "reported"
    assert found.counts[-1].n == 200
    assert found.counts[-1].inside >= 3
    about = describe(scorer, state, found)
    assert about.terms[0].startswith(NEW)
    assert about.category in scorer.categories
    assert 0 < about.distance < 2
    members = {r["prompt_id"]: r["text"] for night in state.window for r in night.prompts.iter_rows(named=True)}
    assert all(members[i].startswith(NEW) for i in about.examples)
    assert set(about.nearest) <= set(scorer.held.prompts["prompt_id"])


def test_the_same_nights_give_the_same_clusters_whole_or_one_by_one(scorer):
    whole = follow(scorer, nights(11, 26, onset=18))
    state = State()
    for night in nights(11, 26, onset=18):
        state = follow(scorer, [night], state)
    assert [(c.cluster_id, c.reported, c.p_value) for c in whole.clusters] == [
        (c.cluster_id, c.reported, c.p_value) for c in state.clusters
    ]


def test_what_ends_is_gone_and_keeps_its_id_when_it_comes_back(scorer):
    history = [*nights(12, 40, onset=15, until=24, share=0.08)]
    status = {}
    state = State()
    for night in history:
        state = follow(scorer, [night], state)
        status[night[0]] = {c.cluster_id: c.status for c in state.clusters if c.reported}
    first = next(iter(status[DAY + timedelta(23)]))
    assert status[DAY + timedelta(23)][first] == "reported"
    assert describe(scorer, state, next(c for c in state.clusters if c.cluster_id == first)).category in scorer.categories
    draw = np.random.default_rng(13)
    state = follow(scorer, [(DAY + timedelta(40 + t), *prompts(draw, mix(draw, 200, 0.08))) for t in range(6)], state)
    assert [c.cluster_id for c in state.clusters if c.reported] == [first]


def test_a_known_category_that_grows_is_not_new(scorer):
    state = follow(scorer, nights(14, 30, onset=15, share=0.0, hate=5.0))
    assert not any(c.reported for c in state.clusters)


def test_one_text_many_times_is_no_category(scorer):
    draw = np.random.default_rng(15)
    state = State()
    for t in range(25):
        frame, vectors = prompts(draw, mix(draw, 200))
        if t >= 15:
            again = pl.DataFrame(
                {"prompt_id": [f"{t} {i}" for i in range(50)], "text": ["elections now"] * 50, "category": [NEW] * 50}
            )
            frame, vectors = pl.concat([frame, again]), np.concatenate([vectors, np.tile(np.eye(SIZE)[5], (50, 1))])
        state = follow(scorer, [(DAY + timedelta(t), frame, vectors)], state)
    assert not any(c.reported for c in state.clusters)


def test_a_burst_of_one_night_is_watched_not_reported(scorer):
    draw = np.random.default_rng(16)
    history = [*nights(16, 15, onset=99), (DAY + timedelta(15), *prompts(draw, mix(draw, 200, 0.3)))]
    state = follow(scorer, history)
    assert state.clusters
    state = follow(scorer, [(DAY + timedelta(16 + t), *prompts(draw, mix(draw, 200))) for t in range(10)], state)
    assert not any(c.reported for c in state.clusters)


def test_nights_come_in_order(scorer):
    state = follow(scorer, nights(17, 3, 99))
    with pytest.raises(DriftError, match="give nights in order"):
        follow(scorer, nights(17, 1, 99), state)


def cluster(name: str, members: str, day: int, reported: bool = False) -> Cluster:
    where, none = region(np.eye(SIZE)[:3], np.zeros(3, np.intp), 1), Sums(0, 0, np.zeros(1))
    when = DAY + timedelta(day)
    return Cluster(name, where, frozenset(members), 9, when, when, (), none, none, 1.0, reported=when if reported else None)


def formed(members: str) -> Formed:
    return Formed(frozenset(members), np.eye(SIZE)[: len(members)], np.zeros(len(members), np.intp))


def window(keys: str) -> tuple[Night, ...]:
    """Twenty nights without a novel prompt, and one with these."""

    def night(day: int, keys: str) -> Night:
        rows = pl.DataFrame({name: list(keys) for name in ("prompt_id", "key", "text")}, schema_overrides={"key": pl.String})
        k = len(keys)
        return Night(DAY + timedelta(day), 500, np.ones(1), rows, np.eye(SIZE)[:k], np.full(k, 2.0), np.zeros(k, np.intp))

    return (*(night(t, "") for t in range(20)), night(20, keys))


def test_a_cluster_goes_on_as_what_most_of_its_prompts_form():
    found = identify([formed("xyz"), formed("abcde")], [cluster("one", "abcd", 5)], window("abcdexyz"))
    assert {c.cluster_id: "".join(sorted(c.members)) for c in found if c.cluster_id == "one"} == {"one": "abcde"}
    assert found[0].formed == DAY + timedelta(20)


@pytest.mark.parametrize("reported", [False, True])
def test_of_two_that_become_one_the_reported_or_older_stays(reported):
    tracked = [cluster("young", "abc", 8, reported), cluster("old", "def", 5)]
    found = identify([formed("abcdef")], tracked, window("abcdef"))
    names = ("young", "old") if reported else ("old", "young")
    assert [(c.cluster_id, c.merged) for c in found] == [(names[0], (names[1],))]


def test_of_one_that_becomes_two_the_larger_part_stays_and_the_other_is_split_from_it():
    found = identify([formed("abcdef"), formed("ghi")], [cluster("one", "abcdefghi", 5)], window("abcdefghi"))
    assert len(found) == 2
    assert ("".join(sorted(found[0].members)), found[0].cluster_id) in (("abcdef", "one"), ("ghi", "one"))
    assert found[1].split_from == "one"
    assert found[1].cluster_id != "one"


def test_a_cluster_that_does_not_form_tonight_waits():
    tracked = cluster("one", "abc", 5)
    assert identify([], [tracked], window("abc")) == [tracked]
    assert len(window("abc")[-WINDOW:]) == WINDOW
