"""Many requests at a time to a model behind OpenAI-compatible base URLs: one pool and one limit for all threads."""

import asyncio
import concurrent.futures
import json
import random
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple, Self, TypeVar

import aiohttp
import numpy as np
from numpy.typing import NDArray
from yarl import URL

from schemas.config import Requests, Sampling
from schemas.errors import MidwatchError
from schemas.ids import Message
from tasks.engines import wire
from tasks.engines.wire import AT_ROOT, CLASSIFY, EMBED, TOKENIZE, Call, NotVllm, Reply, Tokens, Vectors

_REJECTED = {400, 413, 422}  # the endpoint works and will not answer this prompt
_TRANSIENT = {408, 409, 425, 429, *range(500, 600)}
_MAX_BODY = 64 * 2**20
_MAX_BACKOFF_S = 60.0
_HOPELESS = 20  # so many failures with no answer to anyone meanwhile stop the run
_CONNECT_S = 10.0
_SECRET = 16  # characters that a key has at least where it is one
_KEEPALIVE_S = 4.0  # below the 5 s after which vLLM closes an idle connection, so that no request meets the closing

_BATCH = 64  # texts to embed in one request

_NEEDS = {
    TOKENIZE: "options' log-probabilities need a vLLM server; else use protocol `letter`, or a judge that answers in words",
    CLASSIFY: "classes need a vLLM server of a classification model, served with `--runner pooling`",
    EMBED: "embeddings need a server of an embedding model; vLLM serves one with `--runner pooling`",
}
T = TypeVar("T")
Kwargs = Mapping[str, Any] | None


class EngineError(MidwatchError):
    """The endpoint is unusable: no further request would do better."""


@dataclass
class Stats:
    """Since the client was made: prompts asked, done (errors included), their tokens; requests on the wire now.

    A prompt is one, however many requests its options take; of texts to embed, a request is one.
    """

    asked: int = 0
    done: int = 0
    errors: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0


class Embedded(NamedTuple):
    """Texts as float32 vectors, one a row in their order; `failed` says by place why a text has none, its row is NaN then."""

    vectors: NDArray[np.float32]
    failed: dict[int, Reply]


@dataclass(eq=False)
class _Replica:
    """One base URL. It rests after a failed connection, twice as long each time in a row."""

    url: str
    in_flight: int = 0
    failures: int = 0
    rests_until: float = 0.0


class Client:
    """Asks one model; a context manager, or `close()` it.

    Calls from several threads share `requests.in_flight`, first come first served: the next call's prompts start while
    the last ones of the call before still run. A request keeps its place while it waits to be retried. `died` says why
    an engine of ours is gone for good, None while it is not; it is asked when a connection fails. What `kwargs` holds goes
    to the model's chat template (vLLM).
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str,
        api_key: str | None,
        requests: Requests,
        *,
        died: Callable[[], str | None] = lambda: None,
        backoff_s: float = 1.0,
    ) -> None:
        self._replicas = [_Replica(_checked(url, f"base URL {n}")) for n, url in enumerate(base_urls, 1)]
        self._model, self._requests, self._backoff_s = model, requests, backoff_s
        self.died = died
        self._key = api_key.strip() if api_key else ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineError("the API key holds characters that no HTTP header can; set the variable to the key alone")
        self._stats = Stats()
        self._answers = self._hopeless = 0
        self._token_ids: dict[str, int] = {}
        self._lock, self._closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-client", daemon=True)
        self._thread.start()
        self._run(self._open())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._model!r} at {self._where()})"

    @property
    def stats(self) -> Stats:
        """A copy of the counts as they are now; from any thread."""
        return replace(self._stats)

    def complete(self, prompts: Sequence[Sequence[Message]], sampling: Sampling, kwargs: Kwargs = None) -> list[Reply]:
        """One reply per prompt, in the same order, when all are there; EngineError when the endpoint is unusable."""
        return self._run(self._all([partial(self._complete, p, sampling, kwargs) for p in prompts]))

    def choose(
        self, prompts: Sequence[Sequence[Message]], options: Sequence[Sequence[str]], kwargs: Kwargs = None
    ) -> list[Reply]:
        """How likely each option is as the next token after its prompt: one reply per prompt, in one request.

        An option is one token of the model's, as it is without a space before it: right where the prompt ends in the
        chat template's turn, a line break, a bracket or a space. EngineError for an option of several tokens, and where
        the server is not vLLM.
        """
        asks = [partial(self._choose, p, o, kwargs) for p, o in zip(prompts, options, strict=True)]
        return self._run(self._all(asks))

    def score(
        self, prompts: Sequence[Sequence[Message]], continuations: Sequence[Sequence[str]], kwargs: Kwargs = None
    ) -> list[Reply]:
        """How likely each whole continuation is as the answer to its prompt: one reply per prompt.

        One request for the prompt's own tokens and one for each continuation, in turn. In chat a continuation is the
        assistant's turn without the token that ends it; else it is appended as it is, so any space between is its own.
        EngineError where the server is not vLLM.
        """
        asks = [partial(self._score, p, c, kwargs) for p, c in zip(prompts, continuations, strict=True)]
        return self._run(self._all(asks))

    def classify(self, prompts: Sequence[Sequence[Message]], kwargs: Kwargs = None, *, activated: bool = True) -> list[Reply]:
        """What a classifier says of each prompt: one reply per prompt, whose text is JSON, {"label": ..., "probs": [...]}.

        `probs` has a probability for each class in the model's order, `label` is the likeliest one's name where the server
        says it. Not `activated`: `logits` instead, the head's own numbers, such as a reward or a cost. Which function makes
        probabilities of them vLLM takes from the model's `problem_type`: sigmoid for multi_label_classification or a single
        class, else softmax. EngineError where the server has no /classify.
        """
        return self._run(self._all([partial(self._classify, p, activated, kwargs) for p in prompts]))

    def embed(self, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`, in the same order, each of as much of its text as the model takes.

        EngineError where vectors differ in length, so that they are not of one model. Where none came, their length is 0.
        """
        batches = [list(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
        found: list[tuple[int, Reply]] = []
        for batch, reply in zip(batches, self._embed(batches), strict=True):
            one_is_ill = reply.error is not None and not reply.retryable and len(batch) > 1
            found += [(1, r) for r in self._embed([[t] for t in batch])] if one_is_ill else [(len(batch), reply)]
        widths = sorted({r.rows.shape[1] for _, r in found if isinstance(r, Vectors)})
        if len(widths) > 1:
            raise EngineError(f"{self._where()}: vectors of {widths} numbers; all base URLs must serve the same model")
        return _stacked(found, widths[0] if widths else 0)

    def close(self) -> None:
        """Cancel what is outstanding (its callers get EngineError) and close the connections; twice is fine."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, run in our loop; when the caller is interrupted (Ctrl-C), `work` is cancelled."""
        with self._lock:
            if self._closed:
                work.close()
                raise EngineError(f"{self!r} is closed; make another one")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise EngineError(f"{self!r} was closed with requests outstanding") from None
        finally:
            future.cancel()

    async def _open(self) -> None:
        self._slots, self._tokenizing = asyncio.Semaphore(self._requests.in_flight), asyncio.Lock()
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._requests.timeout_s, sock_connect=_CONNECT_S),
            headers={"Content-Type": "application/json", **key},
        )

    async def _shut(self) -> None:
        outstanding = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in outstanding:
            task.cancel()
        await asyncio.gather(*outstanding, return_exceptions=True)
        await self._session.close()

    async def _all(self, asks: Sequence[Callable[[], Awaitable[Reply]]]) -> list[Reply]:
        """One reply for each of `asks`, which run at the same time, within the limit."""
        self._stats.asked += len(asks)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._counted(ask)) for ask in asks]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        replies = [t.result() for t in tasks]
        self._check_some_answer(replies)
        return replies

    async def _counted(self, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Its reply; it sends one request at a time, so that its place is one request's."""
        async with self._slots:
            reply = await ask()
        self._stats.done += 1
        self._stats.errors += reply.error is not None
        self._stats.prompt_tokens += reply.prompt_tokens or 0
        self._stats.completion_tokens += reply.completion_tokens or 0
        return reply

    async def _complete(self, messages: Sequence[Message], sampling: Sampling, kwargs: Kwargs) -> Reply:
        return await self._retried(wire.completing(self._model, messages, sampling, self._requests.api), kwargs)

    async def _classify(self, messages: Sequence[Message], activated: bool, kwargs: Kwargs) -> Reply:
        return await self._retried(wire.classifying(self._model, messages, self._requests.api, activated), kwargs)

    def _embed(self, batches: Sequence[list[str]]) -> list[Reply]:
        """One reply for each batch."""
        return self._run(self._all([partial(self._retried, wire.embedding(self._model, b)) for b in batches]))

    async def _choose(self, messages: Sequence[Message], options: Sequence[str], kwargs: Kwargs) -> Reply:
        if not options:
            return Reply(error="unscored: no options")
        ids = [await self._token_id(o) for o in options]
        return await self._retried(wire.choosing(self._model, messages, ids, self._requests.api), kwargs)

    async def _token_id(self, option: str) -> int:
        """The one token of `option`, asked for once."""
        async with self._tokenizing:
            if option not in self._token_ids:
                found = await self._retried(wire.tokenizing_text(self._model, option))
                if not isinstance(found, Tokens):
                    raise EngineError(f"{self._where()}: no token for option {option!r}: {found.error}; see the server's log")
                if len(found.ids) != 1:
                    raise EngineError(
                        f"{self._model!r}: option {option!r} is {len(found.ids)} tokens, and only one can be chosen; "
                        "use letters as options, or protocol `letter`"
                    )
                self._token_ids[option] = found.ids[0]
            return self._token_ids[option]

    async def _score(self, messages: Sequence[Message], continuations: Sequence[str], kwargs: Kwargs) -> Reply:
        names = wire.letters(len(continuations))
        if not names:
            return Reply(error="unscored: no options")
        if blank := [k for k, c in zip(names, continuations, strict=True) if not c.strip()]:
            return Reply(error=f"unscored: option {blank[0]} is blank")
        api = self._requests.api
        prefix = await self._retried(wire.tokenizing(self._model, messages, api), kwargs)
        if not isinstance(prefix, Tokens):
            return prefix
        scored: list[Reply] = []
        for name, continuation in zip(names, continuations, strict=True):
            call = wire.scoring(self._model, messages, continuation, prefix, name, api)
            scored.append(await self._retried(call, kwargs))
            if scored[-1].error:
                break
        return wire.likeliest(scored)

    async def _retried(self, call: Call, kwargs: Kwargs = None) -> Reply:
        answers, failed, replica = self._answers, 0, None
        body = json.dumps(wire.templated(call.body, kwargs)).encode()
        while True:
            replica, reply, wait = await self._send(call, body, replica)
            if not reply.retryable:
                self._answers += call.path != TOKENIZE  # a server whose model is dead still answers these
                return reply
            failed += 1
            if failed == self._requests.attempts:
                self._check_hope(reply, answers)
                return replace(reply, error=f"{reply.error} ({failed} attempts)")
            self._stats.retries += 1
            backoff = random.uniform(0, min(_MAX_BACKOFF_S, self._backoff_s * 2 ** (failed - 1)))
            await asyncio.sleep(backoff + (wait or 0.0))

    async def _send(self, call: Call, body: bytes, avoid: _Replica | None) -> tuple[_Replica, Reply, float | None]:
        """The replica that was asked, its reply, and the seconds that it wants us to wait."""
        while True:
            replica = await self._pick(avoid)
            failures = replica.failures
            replica.in_flight += 1
            self._stats.in_flight += 1
            try:
                reply, wait = await self._post(replica, call, body)
                return replica, reply, wait
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as e:
                if replica.failures == failures:  # else a request at the same time has told us
                    self._rest(replica, e)
            except (aiohttp.ClientError, OSError) as e:
                return replica, Reply(error=f"no answer: {self._named(e)}", retryable=True), None
            finally:
                replica.in_flight -= 1
                self._stats.in_flight -= 1

    async def _pick(self, avoid: _Replica | None) -> _Replica:
        """The replica with the fewest requests, rather not `avoid`, taking turns; waits while all rest."""
        while True:
            now = self._loop.time()
            if awake := [r for r in self._replicas if r.rests_until <= now]:
                chosen = min(awake, key=lambda r: (r is avoid, r.in_flight))
                self._replicas.remove(chosen)
                self._replicas.append(chosen)
                return chosen
            await asyncio.sleep(min(r.rests_until for r in self._replicas) - now)

    def _rest(self, replica: _Replica, e: Exception) -> None:
        """Leave a replica alone for a while; EngineError when each failed `attempts` times in a row, or ours died."""
        if why := self.died():
            raise EngineError(why) from None
        replica.failures += 1
        pause = min(_MAX_BACKOFF_S, self._backoff_s * 2 ** (replica.failures - 1))
        replica.rests_until = self._loop.time() + pause
        if all(r.failures >= self._requests.attempts for r in self._replicas):
            raise EngineError(
                f"cannot connect to {self._where()}, {self._requests.attempts} times in a row: {self._named(e)}; "
                "start the server, or correct its address in the configuration"
            ) from None

    async def _post(self, replica: _Replica, call: Call, body: bytes) -> tuple[Reply, float | None]:
        url = (replica.url.removesuffix("/v1") if call.path in AT_ROOT else replica.url) + call.path
        async with self._session.post(url, data=body, allow_redirects=False) as response:
            replica.failures = 0
            content = self._blotted(await _read(response))
            if 200 <= response.status < 300:
                return self._parsed(call, url, content), None
            said = f"{response.status} {self._shown(wire.server_message(content))}".rstrip()
            if response.status in _REJECTED:
                filtered = re.search(rb'"code"\s*:\s*"content_(filter|policy_violation)"', content)
                return Reply(error="content_filter" if filtered else f"rejected: {said}"), None
            if response.status in _TRANSIENT:
                return Reply(error=f"HTTP {said}", retryable=True), wire.retry_after(response.headers.get("Retry-After"))
            raise EngineError(f"{self._named_call(url)}: {said}; {self._advice(call, response)}")

    def _parsed(self, call: Call, url: str, content: bytes) -> Reply:
        try:
            reply = call.parse(content)
        except NotVllm as e:
            raise EngineError(f"{self._named_call(url)}: {e}; {_NEEDS[TOKENIZE]}") from None
        return replace(reply, error=self._shown(reply.error)) if reply.error else reply

    def _named_call(self, url: str) -> str:
        return f"POST {_public(url)} for model {self._model!r}"

    def _check_hope(self, reply: Reply, answers_before: int) -> None:
        """EngineError after `_HOPELESS` failures in a row during each of which nobody else got an answer either."""
        self._hopeless = self._hopeless + 1 if self._answers == answers_before else 0
        if self._hopeless >= _HOPELESS:
            raise EngineError(
                f"{self._where()}: {self._hopeless} requests in a row failed, {self._requests.attempts} attempts each, "
                f"and none worked meanwhile; the last: {reply.error}. See the server's log, then run again"
            )

    def _check_some_answer(self, replies: list[Reply]) -> None:
        """EngineError where a whole call was rejected and nothing has ever worked: then it is not about the prompts."""
        rejected = [r.error for r in replies if r.error and r.error.startswith("rejected")]
        if self._stats.errors == self._stats.done and len(rejected) == len(replies) >= _HOPELESS:
            raise EngineError(
                f"{self._where()} rejected each of {len(replies)} requests; the last: {rejected[-1]}. "
                "See whether it is a chat model, its context is long enough and it knows the sampling parameters"
            )

    def _where(self) -> str:
        return ", ".join(sorted(_public(r.url) for r in self._replicas))

    def _named(self, e: Exception) -> str:
        return f"{type(e).__name__}: {self._shown(str(e))}".rstrip(": ")

    def _shown(self, text: str) -> str:
        """Server text as a message may hold it: the key blotted out, one line of 300 printable characters at most."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join("".join(c if c.isprintable() else " " for c in text[:4096]).split())[:300]

    def _blotted(self, content: bytes) -> bytes:
        """A body without the key, should the endpoint hand it back; one as short as "EMPTY" is a word like others."""
        return content.replace(self._key.encode(), b"[key]") if len(self._key) >= _SECRET else content

    def _advice(self, call: Call, response: aiohttp.ClientResponse) -> str:
        if response.status in (401, 403):
            return "set the environment variable that `api_key_env` names to a key that this endpoint takes"
        if call.path in _NEEDS and response.status in (404, 405):
            return f"{_NEEDS[call.path]}; or, if it is one, correct the base URL or the model's name"
        if response.status == 404:
            return "the base URL or the model's name is wrong: GET /v1/models lists the names"
        if 300 <= response.status < 400:
            return f"redirects are not followed (to {self._shown(response.headers.get('Location', 'nowhere'))})"
        return "the endpoint does not take such requests"


def _stacked(found: Sequence[tuple[int, Reply]], width: int) -> Embedded:
    """The vectors of `found`, which has the number of texts that each reply is for."""
    rows: list[NDArray[np.float32]] = [np.empty((0, width), np.float32)]
    failed: dict[int, Reply] = {}
    for start, (n, reply) in zip(accumulate((n for n, _ in found), initial=0), found, strict=False):
        if isinstance(reply, Vectors):
            rows.append(reply.rows)
        else:
            rows.append(np.full((n, width), np.nan, np.float32))
            failed |= dict.fromkeys(range(start, start + n), reply)
    return Embedded(np.concatenate(rows), failed)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body; ClientPayloadError beyond 64 MiB."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > _MAX_BODY:
            raise aiohttp.ClientPayloadError(f"the body is longer than {_MAX_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _checked(url: str, name: str) -> str:
    try:
        if URL(url).host and URL(url).scheme in ("http", "https"):
            return url.rstrip("/")
    except ValueError:
        pass
    raise EngineError(f"{name} is no http(s) URL with a host; give one such as http://127.0.0.1:8000/v1")


def _public(url: str) -> str:
    """A URL without the user, password and query, which may be secret."""
    return str(URL(url).with_user(None).with_query(None))
