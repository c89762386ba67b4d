"""The one step in which a model answers: the target's prompts and a judge's questions alike."""

from datetime import UTC, datetime
from typing import Any

from prefect import task

from schemas.config import Answered, ArmSpec, Model, Sampling
from schemas.errors import ConfigError
from schemas.ids import Message, digest, response_id
from schemas.rows import Arm, Prompt, Response
from tasks.engines import open_engine
from tasks.engines.weights import Resolved
from tasks.engines.wire import Reply
from tasks.lake import Artifact, Lake
from tasks.prompts import OPEN, Asking
from tasks.protocols import PROTOCOLS
from tasks.store import Stored, store
from tasks.tracked import keyed

UNANSWERED = "unanswered: "  # how an error starts that the next run tries again


def arm_of(spec: ArmSpec, resolved: Resolved, asking: Asking = OPEN, answered: Answered = "text") -> Arm:
    """The arm that `spec` describes, named by its weights where they are on disk, else by where they are asked for.

    How items are put to it is part of it. Where options are scored, nothing is drawn, so it has no sampling. `answered` is
    for judges, which have no protocol: how their model answers; "logits" are classes before their activation.
    ConfigError for arguments of a chat template where there is no chat.
    """
    model = resolved.model
    chat = {"api": model.requests.api, "system_prompt": spec.system_prompt} | asking.record
    if spec.chat_template_kwargs:
        if model.requests.api != "chat":
            raise ConfigError(f"{spec.name}: chat_template_kwargs need `api: chat`, and its model has {model.requests.api}")
        chat["chat_template_kwargs"] = spec.chat_template_kwargs
    if answered != "text":
        chat["answered"] = answered
    sampling = spec.sampling.model_dump(mode="json") if asking.code.answered == answered == "text" else None
    return Arm(
        arm_id=digest("arm", _weights(model), chat, sampling),
        name=spec.name,
        model=model.model,
        model_revision=model.revision,
        chat=chat,
        sampling=sampling,
        defense=None,
        attack=None,
        mutable=model.revision is None,
    )


def generate(lake: Lake, batch: Artifact, arm: Arm, model: Resolved, sample: int, epoch: str, max_quarantined: float) -> Stored:
    """The responses of `arm` to `batch`, one per prompt in the same order; only prompts without an answer are sent.

    EngineError when the engine is unusable; a request that it refuses becomes a response with `error`.
    """
    prompts = {response_id(p.item_id, arm.arm_id, sample, epoch): p for p in Prompt.from_table(lake.read(batch))}
    folder = f"responses/{arm.arm_id}/{epoch or 'pinned'}"
    known = answered(lake, folder, list(prompts))
    missing = {i: p for i, p in prompts.items() if i not in known}
    fresh = _ask(missing, arm, model, sample, epoch) if missing else {}
    rows = Response.to_table((known | fresh)[i] for i in prompts)
    return store(lake, rows, "responses", folder, max_quarantined)


def generation_key(parameters: dict[str, Any]) -> str:
    """Prompts, weights, sampling and epoch decide the text; code does not, so a refactor burns no GPU hours."""
    p = parameters
    return "generate-1-" + digest(p["batch"].sha256, p["arm"].arm_id, p["sample"], p["epoch"])


generate_task = task(name="generate", task_run_name="generate {arm.name}", **keyed(generation_key))(generate)


def answered(lake: Lake, folder: str, ids: list[str]) -> dict[str, Response]:
    """The stored responses by id: of several the first generated; without those that are worth another try."""
    table = lake.find(folder, "response_id", ids)
    rows = sorted(Response.from_table(table) if table else [], key=lambda r: r.generated_at, reverse=True)
    return {r.response_id: r for r in rows if is_final(r.error)}


def is_final(error: str | None) -> bool:
    """Whether a row with this error stays as it is; the others are worth another try."""
    return error is None or not error.startswith(UNANSWERED)


def is_complete(lake: Lake, receipt: Artifact) -> bool:
    """Whether the file is intact and every request in it got its final answer."""
    if not lake.is_intact(receipt):
        return False
    return all(is_final(error) for error in lake.read(receipt)["error"].to_pylist())


def _weights(model: Model) -> list[str | None]:
    """What tells one model from another: the weights' own digest, else its name, revision and, if they may change, place."""
    if model.revision is not None and model.revision.startswith("sha256:"):
        return [model.revision]
    place = model.base_urls if model.engine == "endpoint" and model.revision is None else ()
    return [model.model, model.revision, *place]


def _ask(prompts: dict[str, Prompt], arm: Arm, model: Resolved, sample: int, epoch: str) -> dict[str, Response]:
    chat = arm.chat or {}
    system: list[Message] = []
    if chat["system_prompt"] is not None:
        system = [{"role": "system", "content": chat["system_prompt"]}]
    messages = [system + p.messages for p in prompts.values()]
    options = [p.options or [] for p in prompts.values()]
    client = open_engine(model)
    kwargs = chat.get("chat_template_kwargs")
    match chat.get("answered") or PROTOCOLS[chat["protocol"]["name"] if "protocol" in chat else "generation"].answered:
        case "tokens":
            replies = client.choose(messages, options, kwargs)
        case "continuations":
            replies = client.score(messages, options, kwargs)
        case "classes":
            replies = client.classify(messages, kwargs)
        case "logits":
            replies = client.classify(messages, kwargs, activated=False)
        case _:
            replies = client.complete(messages, _sampling(arm, sample), kwargs)
    return {i: _response(i, p, reply, arm, sample, epoch) for (i, p), reply in zip(prompts.items(), replies, strict=True)}


def _sampling(arm: Arm, sample: int) -> Sampling:
    """How the arm's answers are drawn; each sample has a seed of its own."""
    sampling = Sampling.model_validate(arm.sampling)
    return sampling if sampling.seed is None else sampling.model_copy(update={"seed": sampling.seed + sample})


def _response(response_id: str, prompt: Prompt, reply: Reply, arm: Arm, sample: int, epoch: str) -> Response:
    return Response(
        response_id=response_id,
        item_id=prompt.item_id,
        arm_id=arm.arm_id,
        sample=sample,
        epoch=epoch,
        text=reply.text,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        option_logprobs=reply.option_logprobs,
        error=reply.error and (UNANSWERED if reply.retryable else "") + reply.error,
        generated_at=datetime.now(UTC),
        option_tokens=reply.option_tokens,
    )
