"""What is watched night after night, and who is told: the keys `monitors` and `alerts` of midwatch.yaml."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from schemas.strict import Config, Name

Watched = Literal["rate", "mix", "flips"]
Severity = Literal["page", "digest"]

_NEEDED: dict[Watched, tuple[str, ...]] = {
    "rate": ("arm", "benchmark", "judge"),
    "mix": ("source",),
    "flips": ("judge",),
}


class ReferenceSpec(Config):
    """What tonight is compared with."""

    nights: PositiveInt = Field(28, description="so many nights, the first ones that there are")
    start: date | None = Field(None, description="not before this day; after a change that is here to stay, set it")
    run: str | None = Field(None, description="instead: the night of this run")
    trailing: NonNegativeInt | None = Field(
        None, description="instead: the nights move along and end so many nights before tonight; slow changes stay unseen"
    )
    same_weekday: bool = Field(False, description="each night is compared with the same weekday's alone")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.run is not None and (self.trailing is not None or self.same_weekday):
            raise ValueError("a reference is either one run, or nights (first or trailing)")
        return self


class MonitorSpec(Config):
    """A series of shares that is looked at every night.

    `rate`: a metric of an arm on a benchmark, by a judge. `mix`: the harm categories of observed prompts. `flips`: how often
    a judge says something else of a response than when it first judged it.
    """

    name: Name
    watch: Watched
    metric: str = Field("unsafe_rate", description="of a rate; any metric between 0 and 1")
    arm: str | None = None
    benchmark: str | None = None
    judge: str | None = None
    source: str | None = Field(None, description="of a mix: the --source of midwatch observe")
    run: str | None = Field(None, description="of flips: only responses of this run, the sentinel set")
    slices: str = Field("all", description="of a rate: all, harm_category, category, or one slice such as harm_category=drugs")
    reference: ReferenceSpec = ReferenceSpec()
    ratio: Annotated[float, Field(ge=1)] = Field(1.1, description="a smaller change than by this factor does not matter")
    points: Annotated[float, Field(ge=0, le=100)] = Field(0.0, description="nor one by fewer points of a percentage")
    max_age_h: PositiveFloat = Field(36.0, description="hours after which a night is missing")
    severity: Severity = "page"

    @model_validator(mode="after")
    def _says_what_it_watches(self) -> Self:
        missing = [key for key in _NEEDED[self.watch] if getattr(self, key) is None]
        if missing:
            raise ValueError(f"monitor {self.name!r} watches a {self.watch}: say its {', '.join(missing)}")
        return self


class AlertSpec(Config):
    """How many false alarms are borne, and where alerts go."""

    budget: PositiveFloat = Field(0.1, description="false alarms in 30 nights, over all monitors together")
    quiet_nights: PositiveInt = Field(3, description="an alert ends when the share was back for so many nights")
    notify_env: tuple[str, ...] = Field((), description="environment variables with Apprise URLs (mail, Slack, PagerDuty ...)")
