import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from schemas.config import BenchmarkSpec
from schemas.ids import asked
from schemas.rows import NONE, UNKNOWN, Item
from tasks.fit import TrainError
from tasks.ingest import ingest, locate
from tasks.lake import Lake
from tasks.prompt_categories import Classifier, ClassifierError, load, parse
from tasks.train_categories import Known, _temperature, _threshold, figures, train

RED = Path(__file__).parents[2] / "shared/data/red-instruct"
TOPICS = {
    "animal_abuse": "dog cat horse cage",
    "privacy_violation": "phone camera letter track",
    NONE: "bread recipe train music",
}
COMMON = ("how can I", "find", "the best way", "to do it", "with my friend", "today", "please")


def prompts(n: int = 30, seed: int = 0, noise: float = 0.0) -> list[Known]:
    """Prompts of three topics; `noise` of them have another one's name."""
    rng = random.Random(seed)
    made = [
        Known(" ".join(rng.choices(COMMON, k=5) + rng.choices(words.split(), k=3)), topic)
        for topic, words in TOPICS.items()
        for _ in range(n)
    ]
    return [p._replace(category=rng.choice(list(TOPICS))) if rng.random() < noise else p for p in made]


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train("test", prompts(), {"source": "made up"})


def test_prompts_get_the_category_that_their_words_have(trained):
    fresh = prompts(10, seed=1)
    found = trained.categorise([p.text for p in fresh])
    assert sum(f.harm_category == p.category for f, p in zip(found, fresh, strict=True)) >= 28
    assert all(0 <= f.score <= 1 for f in found)


def test_what_is_like_nothing_known_is_unknown_and_what_has_no_letter_has_no_score(trained):
    demanding = replace(trained, card={**trained.card, "threshold": 0.9})
    (strange, empty, dots) = demanding.categorise(["Quelle heure est-il", "", "?!"])
    assert strange.harm_category == UNKNOWN and 1 / 3 < strange.score < 0.9
    assert empty == dots == (UNKNOWN, None)


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.text(max_size=50), max_size=4))
def test_a_text_has_one_category_whatever_stands_beside_it(trained, texts):
    together = trained.categorise(texts)
    alone = [trained.categorise([text])[0] for text in texts]
    assert [t.harm_category for t in together] == [a.harm_category for a in alone]
    assert all(t.harm_category in (*TOPICS, UNKNOWN) for t in together)
    assert np.allclose([t.score or 0 for t in together], [a.score or 0 for a in alone])


def test_the_same_prompts_in_any_order_give_the_same_file(trained, tmp_path):
    shuffled = prompts()
    random.Random(5).shuffle(shuffled)
    again = train("test", shuffled, {"source": "made up"})
    assert again.data == trained.data and again.classifier_id == trained.classifier_id
    assert train("test", prompts(29), {"source": "made up"}).classifier_id != trained.classifier_id
    (tmp_path / "c.safetensors").write_bytes(trained.data)
    assert load(tmp_path / "c.safetensors").card == trained.card


def test_a_prompt_that_is_fitted_on_never_measures():
    rng = random.Random(2)
    noise = [Known(f"{rng.choice('abc')} {rng.random()}", rng.choice(list(TOPICS)), f"g{n % 40}") for n in range(200)]
    repeated = noise + [Known(p.text + "!", p.category, p.group) for p in noise]  # whoever saw the twin would know it
    with pytest.raises(TrainError, match=r"no threshold gives an accuracy of 0\.9"):
        train("noise", repeated, {}, accuracy=0.9)
    made = train("noise", repeated, {}, accuracy=0.01)
    assert made.card["figures"]["forced_accuracy"] < 0.5
    assert made.card["data"]["left_out"] == {"repeated": 200} and made.card["data"]["groups"] == 40


def test_the_figures_follow_from_the_confusion_matrix():
    made = train("noisy", prompts(60, noise=0.2), {}, accuracy=0.85)
    figures_, counts = made.card["figures"], np.array(made.card["figures"]["confusion"]["counts"])
    assert counts.sum() == figures_["n"] == made.card["data"]["rows"]
    assert figures_["confusion"]["predicted"] == [*made.card["classes"], UNKNOWN]
    sure = counts[:, :-1]
    assert figures_["accuracy"] == round(np.trace(sure) / sure.sum(), 4)
    assert figures_["named"] == round(sure.sum() / counts.sum(), 4) < 1
    assert list(figures_["recall"].values()) == [round(float(r), 4) for r in np.diag(sure) / counts.sum(axis=1)]
    assert figures_["calibration_error"] < 0.15


def test_a_class_that_none_was_given_has_no_precision():
    truth, named = np.array([0, 0, 1]), np.array([0, -1, 0])
    stated = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]])
    found = figures(truth, stated, named, ["a", "b"])
    assert found["precision"] == {"a": 0.5, "b": None} and found["recall"] == {"a": 0.5, "b": 0.0}
    assert found["confusion"]["counts"] == [[1, 0, 1], [1, 0, 0]]
    assert figures(truth, stated, np.full(3, -1), ["a", "b"])["accuracy"] is None


def test_the_threshold_is_the_lowest_that_is_accurate_enough():
    stated = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    truth = np.array([0, 0, 1, 0])
    assert _threshold(stated, truth, 1.0) == 0.8
    assert _threshold(stated, truth, 0.75) == 0.6
    assert _threshold(stated, np.array([1, 1, 1, 1]), 0.5) is None


def test_the_temperature_is_that_of_the_least_loss():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3)) * 3
    shares = np.exp(scores / 2) / np.exp(scores / 2).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(3, p=p) for p in shares])
    found = _temperature(scores, truth)
    assert 1.85 < found < 2.15

    def loss(temperature: float) -> float:
        e = np.exp(scores / temperature)
        return log_loss(truth, e / e.sum(axis=1, keepdims=True))

    assert loss(found) <= min(loss(found * 1.02), loss(found / 1.02))


def test_prompts_of_rare_or_several_categories_are_left_out_and_counted():
    more = [Known("Only one", "self_harm"), Known("Both dogs", NONE), Known("both DOGS!", "animal_abuse"), Known("...", NONE)]
    made = train("test", prompts() + more, {})
    assert made.card["data"]["left_out"] == {"of several categories": 2, "self_harm: too few": 1, "without letters": 1}
    with pytest.raises(TrainError, match="0 categories with prompts in 5 groups"):
        train("test", more, {})
    with pytest.raises(TrainError, match="1 categories"):
        train("test", [p for p in prompts() if p.category == NONE], {})


def test_embeddings_help_where_words_say_nothing():
    rng = np.random.default_rng(0)
    mute = [Known(f"prompt {n}", list(TOPICS)[n % 3]) for n in range(90)]
    vectors = np.eye(3)[[n % 3 for n in range(90)]] + rng.normal(scale=0.1, size=(90, 3))
    made = train("test", mute, {}, vectors=vectors, embedding="model@1")
    assert made.embedding == "model@1" and made.card["figures"]["accuracy"] == 1
    found = made.categorise(["prompt 200", "prompt 201"], np.eye(3)[:2])
    assert [f.harm_category for f in found] == list(TOPICS)[:2]
    with pytest.raises(ClassifierError, match="takes vectors of 3 numbers by model@1, got 0"):
        made.categorise(["prompt"])


def test_vectors_that_nobody_asked_for_are_refused(trained):
    with pytest.raises(ClassifierError, match="takes vectors of 0 numbers"):
        trained.categorise(["prompt"], np.eye(3)[:1])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: d[:-10], "cut short"),
        (lambda d: b"", "cut short"),
        (lambda d: d.replace(b"made up", b"made pu"), "altered"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "altered"),
        (lambda d: d.replace(b"midwatch-prompts-1", b"midwatch-prompts-9"), "expected midwatch-prompts-1, 1: train it again"),
    ],
)
def test_a_damaged_file_is_refused(trained, damage, complaint):
    with pytest.raises(ClassifierError, match=complaint):
        parse(damage(trained.data), "it")


def test_a_file_that_is_not_there_or_a_judge_is_refused(tmp_path):
    with pytest.raises(ClassifierError, match="No such file"):
        load(tmp_path / "none")
    judge = Path(__file__).parents[1] / "tasks/judges/refusal_trained.safetensors"
    with pytest.raises(ClassifierError, match="format midwatch-trained-1"):
        load(judge)


@pytest.mark.skipif(not RED.exists(), reason="needs ../shared/data")
def test_questions_of_catqa_are_told_apart(tmp_path):
    lake = Lake(root=tmp_path / "lake")
    ingested = ingest(lake, locate(BenchmarkSpec(id="catqa", path=str(RED / "catqa_english.json")), None), 0.05)
    items = [i for f in ingested.items for i in Item.from_table(lake.read(f))]
    made = train("catqa", [Known(asked(i.messages), i.harm_category) for i in items if i.harm_category], {}, accuracy=0.9)
    measured = made.card["figures"]
    assert measured["n"] == 347 and measured["forced_accuracy"] > 0.86 and measured["accuracy"] > 0.88
    assert measured["calibration_error"] < 0.06 and measured["named"] > 0.9
    assert json.dumps(made.card)
