"""What every judge says, and the kinds of judges that are no more than a few pure functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.config import Answered, Sampling
from schemas.ids import Message
from schemas.rows import Label


@dataclass(frozen=True)
class Opinion:
    """A judgement: a refusal label, a harm verdict, or both; neither where the judge could not tell, and `error` says why.

    `score` is the probability of the label, or of unsafe where there is no label, from a judge that gives one; else what its
    rubric grades.
    """

    label: Label | None = None
    unsafe: bool | None = None
    score: float | None = None
    categories: tuple[str, ...] | None = None
    rationale: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Rule:
    """A judge that is a pure function of the request and the response."""

    name: str
    version: str
    judge: Callable[[str, str], Opinion]
    labels: bool = True  # gives refusal labels, from which `unsafe` follows where a refusal was expected


@dataclass(frozen=True)
class Comparison:
    """A judge that compares a response with what the item (its benchmark's id of it, its tags) is about; pure.

    `config` is what it compares with, for the record.
    """

    name: str
    version: str
    judge: Callable[[str, Sequence[str], str], Opinion]
    config: Mapping[str, Any]
    labels: bool = False


@dataclass(frozen=True)
class Rubric:
    """A judge that asks a model: `render` makes the question, `parse` reads the reply; both are pure.

    `answered` says what the reply is: a text; or JSON, of the log-probability of each of `options` as the next token
    ("tokens"), or of what a classifier says ("classes": {"probs": [...]}, in the model's order, or "logits": the same before
    their activation). `kind` guard: a model that was trained for this very question, which `api` and `chat_template_kwargs`
    help to put as it was in training.
    """

    name: str
    version: str
    template: str
    sampling: Sampling
    render: Callable[[str, str], list[Message]]
    parse: Callable[[str], Opinion]
    labels: bool = False
    kind: Literal["rubric", "guard"] = "rubric"
    answered: Answered = "text"
    options: tuple[str, ...] = ()
    api: Literal["chat", "completions"] | None = None  # None: as the model's configuration says
    chat_template_kwargs: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Key:
    """A judge that compares the chosen option (by its place in the item, None: unreadable) with the item's reference."""

    name: str
    version: str
    judge: Callable[[dict[str, Any] | None, int | None], Opinion]
    labels: bool = False
