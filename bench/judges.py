"""What a trained judge costs: minutes to fit one on many texts, texts a second that it judges, and that an engine embeds.

    .venv/bin/python -m bench.judges [--rows 20000] [--engine]

The texts are drawn from word lists, 60 words each, so that nothing has to be downloaded: one in three names a harm category,
and a tenth of the labels are wrong. `--engine` starts the embedding model that `make engine` brings.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from time import perf_counter

from schemas.config import Target, Vllm
from schemas.crosswalk import harm_categories
from tasks.engines import engines, open_engine
from tasks.engines.weights import MINILM, resolve
from tasks.judges import trained
from tasks.judges.trained import load
from tasks.train import Example, train

STARTS = (
    "ba",
    "be",
    "bi",
    "bo",
    "bu",
    "da",
    "de",
    "di",
    "do",
    "du",
    "ka",
    "ke",
    "ki",
    "ko",
    "ku",
    "la",
    "le",
    "li",
    "lo",
    "lu",
)
ENDS = ("n", "r", "s", "t", "m", "l", "nd", "rk", "st", "mp", "lta", "nko", "ris", "tes", "mar")
WORDS = [start + end for start in STARTS for end in ENDS]
LENGTH = 60
HOME = Path(__file__).parents[1] / "midwatch-data"


def examples(n: int, target: Target) -> list[Example]:
    """Two responses a prompt, from two arms; a category shows in a tenth of the words."""
    draw = random.Random(0)
    categories = harm_categories()
    made = []
    for i in range(n):
        named = {draw.choice(categories)} if draw.random() < 1 / 3 else set()
        told = [w for c in named for w in draw.choices(WORDS[10 * categories.index(c) :][:10], k=LENGTH // 10)]
        words = told + draw.choices(WORDS[10 * len(categories) :], k=LENGTH - len(told))
        draw.shuffle(words)
        wrong = frozenset({draw.choice(categories)}) if draw.random() < 0.1 else frozenset(named)
        text = ". ".join(" ".join(words[k : k + 12]).capitalize() for k in range(0, LENGTH, 12)) + "."
        made.append(Example(f"Question {i // 2}?", text, wrong if target == "categories" else bool(wrong), f"arm{i % 2}"))
    return made


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--engine", action="store_true")
    options = parser.parse_args()
    measured: dict[str, float | None] = {"rows": options.rows}
    targets: tuple[Target, ...] = ("unsafe", "categories")
    for target in targets:
        rows = examples(options.rows, target)
        start = perf_counter()
        judge = train("bench", target, rows, {"source": "drawn from word lists"})
        measured[f"{target}: seconds to train"] = round(perf_counter() - start, 1)
        measured[f"{target}: kappa"] = judge.card["figures"]["kappa"]
    texts = [e.response for e in examples(2000, "unsafe")]
    shipped = load(Path(trained.__file__).with_name("refusal_trained.safetensors"))
    for name, scorer in (("refusal_trained", shipped), ("categories", judge)):
        start = perf_counter()
        scorer.judge(["What shall I do?"] * len(texts), texts)
        measured[f"{name}: texts/s"] = round(len(texts) / (perf_counter() - start))
    if options.engine:
        with tempfile.TemporaryDirectory() as folder, engines(Path(folder)):
            client = open_engine(resolve(Vllm(engine="vllm", model=MINILM), HOME / "models"))
            client.embed(texts[:64])
            start = perf_counter()
            client.embed(texts)
            measured["embedded: texts/s"] = round(len(texts) / (perf_counter() - start))
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
