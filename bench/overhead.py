"""What keeping everything costs: requests/s of the whole generate stage over those of a bare client that keeps nothing.

    .venv/bin/python bench/overhead.py [--rounds 5] [--prompts 256]

Both send the same prompts to the same served model with as many requests in flight, in turn, several rounds; each round has
prompts of its own, so that no answer is cached on either side. The ratio within a round is what counts: speeds change from
minute to minute.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

os.environ["PREFECT_HOME"] = tempfile.mkdtemp()
os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}

from prefect import flow

from flows.steps import Context, answer
from schemas.config import ArmSpec, Endpoint, Requests, Sampling, Vllm
from schemas.ids import item_id
from schemas.rows import Prompt
from tasks.engines import engines
from tasks.engines.vllm import serve
from tasks.engines.weights import SMOLLM2, Resolved, resolve
from tasks.lake import Lake
from tasks.runs import begin

IN_FLIGHT = 256
SHARD = 128
TOKENS = 16
HOME = Path(__file__).parents[1] / "midwatch-data"


def prompts(round_: int, n: int) -> list[Prompt]:
    """`n` prompts that no other round has."""
    texts = [
        f"Round {round_}, question {i}: name one thing that one can do with the number {i * 7 + round_}." for i in range(n)
    ]
    return [Prompt(item_id=item_id(m), messages=m) for t in texts if (m := [{"role": "user", "content": t}])]


async def bare(url: str, model: str, asked: list[Prompt], sampling: Sampling) -> tuple[int, float]:
    """Send everything, keep nothing; the number of answers, and seconds."""
    started = time.monotonic()
    limit = asyncio.Semaphore(IN_FLIGHT)
    fixed = sampling.model_dump(include={"temperature", "top_p", "max_tokens", "seed"})
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(prompt: Prompt) -> str:
            body = {"model": model, "messages": prompt.messages} | fixed
            async with limit, session.post(f"{url}/chat/completions", json=body) as response:
                return str((await response.json())["choices"][0]["message"]["content"])

        answers = await asyncio.gather(*(one(p) for p in asked))
    return len(answers), time.monotonic() - started


@flow
def ours(lake: Lake, resolved: Resolved, asked: list[Prompt], sampling: Sampling) -> tuple[int, float]:
    """The generate stage: shards, tasks, requests, validation, Parquet; the number of stored responses, and seconds."""
    context = Context(lake, begin(lake, "evaluate", "bench", {"first": asked[0].item_id}), False, 0.0)
    started = time.monotonic()
    batches = [lake.write(Prompt.to_table(asked[i : i + SHARD]), "prompts") for i in range(0, len(asked), SHARD)]
    _, shards = answer(context, ArmSpec(name="bench", model="bench", sampling=sampling), resolved, batches)
    return sum(s.responses.rows for s in shards), time.monotonic() - started


@contextmanager
def served() -> Iterator[Resolved]:
    """The default model on the real engine, as an endpoint."""
    args = ("--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "256", "--enforce-eager")
    resolved = resolve(Vllm(engine="vllm", model=SMOLLM2, args=args), HOME / "models")
    requests = Requests(in_flight=IN_FLIGHT)
    with tempfile.TemporaryDirectory() as folder, serve(resolved.location, resolved.model, Path(folder) / "vllm.log") as server:
        spec = Endpoint(engine="endpoint", model=server.model, base_urls=(server.base_url,), revision="1", requests=requests)
        yield Resolved(model=spec, location=server.model)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=256)
    options = parser.parse_args()
    sampling = Sampling(max_tokens=TOKENS)
    ratios = []
    with served() as resolved, tempfile.TemporaryDirectory() as folder, engines(Path(folder)):
        lake = Lake(root=Path(folder) / "lake")
        url, model = resolved.model.base_urls[0], resolved.model.model
        runs = {
            "bare": lambda asked: asyncio.run(bare(url, model, asked, sampling)),
            "ours": lambda asked: ours(lake, resolved, asked, sampling),
        }
        for run in runs.values():  # first use: imports, connections, the engine's own warm-up
            run(prompts(-1 if run is runs["bare"] else -2, 32))
        for round_ in range(options.rounds):
            order = ["bare", "ours"] if round_ % 2 == 0 else ["ours", "bare"]
            rate = {}
            for n, name in enumerate(order):
                asked = prompts(2 * round_ + n, options.prompts)
                answered, seconds = runs[name](asked)
                assert answered == options.prompts
                rate[name] = answered / seconds
            ratios.append(rate["ours"] / rate["bare"])
            shown = f"bare {rate['bare']:.1f}/s, Midwatch {rate['ours']:.1f}/s, ratio {ratios[-1]:.3f}"
            print(f"round {round_ + 1}: {shown}", file=sys.stderr)
    print(json.dumps({"median_ratio": round(statistics.median(ratios), 3), "ratios": ratios}))


if __name__ == "__main__":
    main()
