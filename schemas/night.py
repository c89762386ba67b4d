"""When Midwatch runs by itself, and what a night may cost: the key `night` of midwatch.yaml."""

from datetime import UTC, datetime
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from schemas.strict import Config, Name


class SentinelSpec(Config):
    """Frozen responses that judges judge again every night."""

    run: str = Field(description="the run whose responses they are, best one that people labelled")
    judges: Annotated[tuple[Name, ...], Field(min_length=1)]
    size: PositiveInt = Field(1000, description="at most so many of them, the same ones every night")


class BudgetSpec(Config):
    """What a night may cost at most; null: whatever it takes. A night that would cost more asks fewer items."""

    requests: PositiveInt | None = Field(None, description="to the models of arms and judges, by the run itself")
    tokens: PositiveInt | None = Field(None, description="of prompts and responses of the arms")
    minutes: PositiveFloat | None = Field(None, description="of the run itself, by the pace of the nights before")

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return self != BudgetSpec()


class NightSpec(Config):
    """The nightly flow: when it runs, and what belongs to it beside the run itself."""

    cron: str = Field("0 2 * * *", description="minute, hour, day of the month, month, day of the week")
    timezone: str = Field("UTC", description="such as Europe/Berlin")
    sentinels: tuple[SentinelSpec, ...] = ()
    repeat: NonNegativeInt = Field(0, description="items of each benchmark asked twice (A/A): how far an arm repeats itself")
    budget: BudgetSpec = BudgetSpec()
    retries: NonNegativeInt = Field(2, description="how often a night that broke off is taken up again")

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as e:
            raise ValueError(f"{name!r} is no time zone of the IANA database; such as UTC or Europe/Berlin") from e
        return name

    @model_validator(mode="after")
    def _has_a_next_time(self) -> Self:
        try:
            next(CronSim(self.cron, datetime.now(UTC)))
        except (CronSimError, StopIteration) as e:
            raise ValueError(f"cron {self.cron!r}: {e or 'names no time'}; such as '0 2 * * *', every night at two") from e
        return self
