"""Many requests at a time to a model behind OpenAI-compatible base URLs: one pool and one limit for all threads."""

import asyncio
import concurrent.futures
import json
import random
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self, TypeVar

import aiohttp
from yarl import URL

from schemas.config import Requests, Sampling
from schemas.errors import MidwatchError
from schemas.ids import Message

_REJECTED = {400, 413, 422}  # the endpoint works and will not answer this prompt
_TRANSIENT = {408, 409, 425, 429, *range(500, 600)}
_MAX_BODY = 64 * 2**20
_MAX_WAIT_S = 120.0  # for one Retry-After
_MAX_BACKOFF_S = 60.0
_HOPELESS = 20  # so many failures with no answer to anyone meanwhile stop the run
_CONNECT_S = 10.0
_KEEPALIVE_S = 4.0  # below the 5 s after which vLLM closes an idle connection, so that no request meets the closing

Api = Literal["chat", "completions"]
_TEXT: dict[Api, tuple[str, ...]] = {"chat": ("content", "refusal"), "completions": ("text",)}
T = TypeVar("T")


class EngineError(MidwatchError):
    """The endpoint is unusable: no further request would do better."""


@dataclass(frozen=True)
class Reply:
    """One answer; exactly one of `text` and `error` is set, and a count is None where the endpoint gives none.

    `retryable`: the error was of a passing kind, so a later run may ask again. Kinds that are retried here are the
    retryable ones: no connection, timeouts, 408/409/425/429/5xx, a broken body, a body without choices.
    """

    text: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    retryable: bool = False


@dataclass
class Stats:
    """Since the client was made: prompts asked, done (errors included), tokens in answers; requests on the wire now."""

    asked: int = 0
    done: int = 0
    errors: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0


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
    an engine of ours is gone for good, None while it is not; it is asked when a connection fails.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        model: str,
        api_key: str | None,
        requests: Requests,
        *,
        died: Callable[[], str | None] | None = None,
        backoff_s: float = 1.0,
    ) -> None:
        self._replicas = [_Replica(_checked(url, f"base URL {n}")) for n, url in enumerate(base_urls, 1)]
        self._model, self._requests, self._died, self._backoff_s = model, requests, died, backoff_s
        self._key = api_key.strip() if api_key else ""
        if not (self._key.isascii() and self._key.isprintable()):
            raise EngineError("the API key holds characters that no HTTP header can; set the variable to the key alone")
        self._stats = Stats()
        self._answers = self._hopeless = 0
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

    def complete(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Reply]:
        """One reply per prompt, in the same order, when all are there; EngineError when the endpoint is unusable."""
        return self._run(self._complete(prompts, sampling))

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
        self._slots = asyncio.Semaphore(self._requests.in_flight)
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

    async def _complete(self, prompts: Sequence[Sequence[Message]], sampling: Sampling) -> list[Reply]:
        self._stats.asked += len(prompts)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(p, sampling)) for p in prompts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        replies = [t.result() for t in tasks]
        self._check_some_answer(replies)
        return replies

    async def _ask(self, messages: Sequence[Message], sampling: Sampling) -> Reply:
        async with self._slots:
            body = json.dumps(request_body(self._model, messages, sampling, self._requests.api)).encode()
            reply = await self._retried(body)
        self._stats.done += 1
        self._stats.errors += reply.error is not None
        self._stats.prompt_tokens += reply.prompt_tokens or 0
        self._stats.completion_tokens += reply.completion_tokens or 0
        return reply

    async def _retried(self, body: bytes) -> Reply:
        answers, failed, replica = self._answers, 0, None
        while True:
            replica, reply, wait = await self._send(body, replica)
            if not reply.retryable:
                self._answers += 1
                return reply
            failed += 1
            if failed == self._requests.attempts:
                self._check_hope(reply, answers)
                return replace(reply, error=f"{reply.error} ({failed} attempts)")
            self._stats.retries += 1
            backoff = random.uniform(0, min(_MAX_BACKOFF_S, self._backoff_s * 2 ** (failed - 1)))
            await asyncio.sleep(backoff + (wait or 0.0))

    async def _send(self, body: bytes, avoid: _Replica | None) -> tuple[_Replica, Reply, float | None]:
        """The replica that was asked, its reply, and the seconds that it wants us to wait."""
        while True:
            replica = await self._choose(avoid)
            failures = replica.failures
            replica.in_flight += 1
            self._stats.in_flight += 1
            try:
                reply, wait = await self._post(replica, body)
                return replica, reply, wait
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as e:
                if replica.failures == failures:  # else a request at the same time has told us
                    self._rest(replica, e)
            except (aiohttp.ClientError, OSError) as e:
                return replica, Reply(error=f"no answer: {self._named(e)}", retryable=True), None
            finally:
                replica.in_flight -= 1
                self._stats.in_flight -= 1

    async def _choose(self, avoid: _Replica | None) -> _Replica:
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
        if self._died and (why := self._died()):
            raise EngineError(why) from None
        replica.failures += 1
        pause = min(_MAX_BACKOFF_S, self._backoff_s * 2 ** (replica.failures - 1))
        replica.rests_until = self._loop.time() + pause
        if all(r.failures >= self._requests.attempts for r in self._replicas):
            raise EngineError(
                f"cannot connect to {self._where()}, {self._requests.attempts} times in a row: {self._named(e)}; "
                "start the server, or correct its address in the configuration"
            ) from None

    async def _post(self, replica: _Replica, body: bytes) -> tuple[Reply, float | None]:
        url = replica.url + ("/chat/completions" if self._requests.api == "chat" else "/completions")
        async with self._session.post(url, data=body, allow_redirects=False) as response:
            replica.failures = 0
            content = await _read(response)
            if 200 <= response.status < 300:
                reply = parse(content, self._requests.api)
                return (replace(reply, error=self._shown(reply.error)) if reply.error else reply), None
            said = f"{response.status} {self._shown(server_message(content))}".rstrip()
            if response.status in _REJECTED:
                filtered = re.search(rb'"code"\s*:\s*"content_(filter|policy_violation)"', content)
                return Reply(error="content_filter" if filtered else f"rejected: {said}"), None
            if response.status in _TRANSIENT:
                return Reply(error=f"HTTP {said}", retryable=True), retry_after(response.headers.get("Retry-After"))
            raise EngineError(f"POST {_public(url)} for model {self._model!r}: {said}; {self._advice(response)}")

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

    def _advice(self, response: aiohttp.ClientResponse) -> str:
        if response.status in (401, 403):
            return "set the environment variable that `api_key_env` names to a key that this endpoint takes"
        if response.status == 404:
            return "the base URL or the model's name is wrong: GET /v1/models lists the names"
        if 300 <= response.status < 400:
            return f"redirects are not followed (to {self._shown(response.headers.get('Location', 'nowhere'))})"
        return "the endpoint does not take such requests"


def request_body(model: str, messages: Sequence[Message], sampling: Sampling, api: Api) -> dict[str, Any]:
    """The JSON of one request; without chat, the prompt is the messages' contents, one a line."""
    prompt = {"messages": messages} if api == "chat" else {"prompt": "\n".join(m["content"] for m in messages)}
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_tokens}
    optional = {
        "seed": sampling.seed,
        "stop": sampling.stop or None,
        "structured_outputs": {"choice": sampling.choices} if sampling.choices else None,
    }
    return {"model": model, **prompt, **given, **{k: v for k, v in optional.items() if v is not None}}


def parse(content: bytes, api: Api) -> Reply:
    """The reply in a 2xx body, whatever its bytes. Retryable where no answer was made (no JSON, no choices).

    A choice without text is not: asking again costs a generation and gives the same. A `refusal` is a text.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return Reply(error=f"malformed: {len(content)} bytes that are no JSON", retryable=True)
    choices = data.get("choices") if isinstance(data, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Reply(error=f"malformed: no choices in {server_message(content)}", retryable=True)
    message = choice.get("message") if api == "chat" else choice
    message = message if isinstance(message, dict) else {}
    text = next((t for k in _TEXT[api] if isinstance(t := message.get(k), str)), None)
    reason = choice.get("finish_reason") if isinstance(choice.get("finish_reason"), str) else None
    usage = data["usage"] if isinstance(data.get("usage"), dict) else {}
    reply = Reply(None, reason and _valid(reason), _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens"))
    if reason == "content_filter":
        return replace(reply, error=reason)
    if text is None:
        return replace(reply, error=f"malformed: no text, finish_reason {reason}")
    return replace(reply, text=_valid(text))


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait, 0 to 120, from a Retry-After header (seconds or an HTTP date); None where it says nothing."""
    if header is None:
        return None
    if re.fullmatch(r"[0-9]+", header.strip()):
        return min(_MAX_WAIT_S, float(header))
    try:
        date = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return min(_MAX_WAIT_S, max(0.0, (date - (now or datetime.now(UTC))).total_seconds()))


def server_message(content: bytes) -> str:
    """What an error body says: OpenAI's `error.message`, else `message` or `detail`, else the whole body."""
    text = content.decode(errors="replace")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return text
    inner = data.get("error", data) if isinstance(data, dict) else data
    if isinstance(inner, dict):
        return next((v for k in ("message", "detail") if isinstance(v := inner.get(k), str)), text)
    return inner if isinstance(inner, str) else text


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


def _tokens(usage: dict[str, Any], key: str) -> int | None:
    value = usage.get(key)
    return value if type(value) is int and 0 <= value < 2**31 else None


def _valid(text: str) -> str:
    """Text that UTF-8 can hold: JSON may escape half a surrogate pair."""
    return text.encode(errors="replace").decode() if not text.isascii() else text
