"""When nights are due: a cron schedule in a time zone, through changes of the clock, restarts and sleep."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim

from schemas.night import NightSpec

PATIENCE = timedelta(hours=20)  # a night that is later than this is left out: the next one is near
HORIZON = timedelta(days=31)  # how far back missed nights are counted


class Due(NamedTuple):
    """When the next night is due (in the past: at once), and how many before it were missed."""

    at: datetime
    missed: int


def following(spec: NightSpec, moment: datetime) -> datetime:
    """The first time after `moment` that the schedule names, in UTC.

    A time that the clock skips in spring is when it goes on; one that it repeats in autumn is the first of the two.
    """
    return next(CronSim(spec.cron, moment.astimezone(ZoneInfo(spec.timezone)))).astimezone(UTC)


def due(spec: NightSpec, last: datetime | None, now: datetime) -> Due:
    """The next night after the one that began at `last`; None: there was none, and nothing was missed.

    Of several that were missed the newest is made up for. A `last` in the future, of a clock that was wrong, is now.
    """
    begun = now if last is None else min(last, now)
    past, at = 0, following(spec, max(begun, now - HORIZON))
    newest = None
    while at <= now:
        past, newest, at = past + 1, at, following(spec, at)
    if newest is not None and now - newest <= PATIENCE:
        return Due(newest, past - 1)
    return Due(at, past)
