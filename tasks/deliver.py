"""Alerts on their way to people, through Apprise: mail, Slack, Teams, PagerDuty, a webhook and a hundred others."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from schemas.errors import MidwatchError


class DeliveryError(MidwatchError):
    """A message did not reach a service; the alert stays, and is sent again with the next ones."""


class Message(NamedTuple):
    """What is sent at once, and the alerts that it tells of."""

    title: str
    body: str
    alert_ids: Sequence[str]


def messages(alerts: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A message for each alert that pages, and one for all of those that can wait; rows are those of the view alert_status."""
    pages = [Message(a["title"], a["body"], [a["alert_id"]]) for a in alerts if a["severity"] == "page"]
    rest = [a for a in alerts if a["severity"] != "page"]
    if not rest:
        return pages
    bodies = "\n\n".join(f"{a['title']}\n{a['body']}" for a in rest)
    return [*pages, Message(f"Midwatch: {len(rest)} alerts that can wait", bodies, [a["alert_id"] for a in rest])]


def deliver(message: Message, name: str) -> None:
    """Send the message to the service whose Apprise URL the environment variable `name` holds; DeliveryError says why not.

    The URL holds a key, so that no error and no log shows it.
    """
    from apprise import Apprise, NotifyFormat, NotifyType

    url, service = os.environ.get(name), Apprise()
    if not url:
        raise DeliveryError(f"{name} is not set: put the service's Apprise URL there")
    if not service.add(url):
        raise DeliveryError(f"{name} holds no URL that Apprise knows")
    if not service.notify(message.body, message.title, NotifyType.WARNING, NotifyFormat.TEXT):
        raise DeliveryError(f"the service behind {name} did not take the message")
