"""Nights on a Prefect server: deployment, schedule, work pool, and what the server does about one that dies or is late."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.events.actions import ActionTypes, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.schedules import Cron
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.nightly import nightly
from flows.serve import RETRY_S
from flows.settings import Settings
from schemas.config import load
from schemas.errors import ConfigError, MidwatchError
from schemas.night import NightSpec
from tasks.schedule import PATIENCE

HEARTBEAT_S = 30  # the least that Prefect takes
SILENCE = timedelta(seconds=3 * HEARTBEAT_S)  # a run whose heartbeats stop for so long is dead
_HEARTBEAT, _LATE = "prefect.flow-run.heartbeat", "prefect.flow-run.Late"
_BEGUN = {"prefect.flow-run.Pending", "prefect.flow-run.Running"}
_BROKEN_OFF = {"prefect.flow-run.Crashed", "prefect.flow-run.Failed"}
_OVER = {"prefect.flow-run.Completed", "prefect.flow-run.Cancelled"} | _BROKEN_OFF
_RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
_DEAD = f"No heartbeat for {SILENCE.seconds} seconds: its process is gone."
_LEFT_OUT = f"No worker took it up for {PATIENCE.seconds // 3600} hours; the next night is near."
_SUBJECT = "Midwatch: night {{ flow_run.name }} is {{ flow_run.state.name }}"
_BODY = "{{ deployment.name }}, due at {{ flow_run.expected_start_time }}. {{ flow_run.state.message }}"
_WORKERS = ("PREFECT_HOME", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL")  # the worker's own say on these stays


class Deployed(NamedTuple):
    """Names of what is on the server now."""

    server: str
    deployment: str
    pool: str
    automations: list[str]


def deploy(config: Path, settings: Settings, name: str, pool: str, notify: str | None) -> Deployed:
    """Put the nights of `config` on the Prefect server that the environment names, or bring what is there up to date.

    `notify`: a notification block, as TYPE/NAME, that is told of a night that crashed, failed or is late. ConfigError where
    no server is named, MidwatchError where it does not answer.
    """
    server = get_current_settings().api.url
    if server is None:
        raise ConfigError("no Prefect server is named; `prefect server start`, then PREFECT_API_URL=http://127.0.0.1:4200/api")
    spec = load(config).night
    try:
        with get_client(sync_client=True) as client:
            block = _block(client, notify) if notify else None
            _prepare_pool(client, pool)
            deployment_id = _deploy(spec, config, settings, name, pool)
            settled = _settle(client, _automations(spec, name, deployment_id, block))
    except httpx.TransportError as e:
        raise MidwatchError(f"{server}: no Prefect server answers ({e}); is it running, is PREFECT_API_URL right?") from e
    except PrefectHTTPStatusError as e:
        raise MidwatchError(f"{server}: {e}") from e
    return Deployed(server, f"{nightly.name}/{name}", pool, settled)


def _block(client: SyncPrefectClient, notify: str) -> UUID:
    kind, _, name = notify.partition("/")
    try:
        return client.read_block_document_by_name(name, kind).id
    except ObjectNotFound as e:
        raise ConfigError(f"--notify {notify}: there is no such block, expected TYPE/NAME; see `prefect block ls`") from e


def _prepare_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        kind = client.read_work_pool(pool).type
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template))
        return
    if kind != ProcessWorker.type:
        raise ConfigError(f"--pool {pool}: this work pool is of type {kind}, and a night is a process; choose another name")


def _deploy(spec: NightSpec, config: Path, settings: Settings, name: str, pool: str) -> UUID:
    """The id of the deployment; of two nights at a time the newer one is cancelled, since queued ones would only pile up."""
    told = {key: value for key, value in settings.environment.items() if key not in _WORKERS}
    deployment = RunnerDeployment.from_flow(
        nightly,
        name,
        schedule=Cron(spec.cron, timezone=spec.timezone),
        parameters={"config": str(config), "home": str(settings.home.absolute())},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        tags=[_tag(name)],
        work_pool_name=pool,
        job_variables={
            "env": told | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)},
            "working_dir": str(config.parent),
        },
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(UUID, deployment.apply())


def _tag(name: str) -> str:
    """The tag of the deployment's runs, which those of its flows inherit."""
    return f"midwatch-{name}"


def _automations(spec: NightSpec, name: str, deployment_id: UUID, block: UUID | None) -> dict[str, AutomationCore | None]:
    """What the server does by itself about nights that die or are late, by the automation's name; None: not wanted."""
    ours = {"prefect.resource.id": f"prefect.deployment.{deployment_id}", "prefect.resource.role": "deployment"}
    again = RunDeployment(deployment_id=deployment_id, schedule_after=timedelta(seconds=RETRY_S)) if spec.retries else None
    tell = SendNotification(block_document_id=block, subject=_SUBJECT, body=_BODY) if block else None
    rules: dict[str, tuple[EventTrigger, ActionTypes | None]] = {
        "a run whose heartbeats stop has crashed": (
            _absent({_HEARTBEAT}, _OVER | {_HEARTBEAT}, [_tagged(_tag(name))], SILENCE),
            ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=_DEAD),
        ),
        "a night that broke off goes on": (_seen(_BROKEN_OFF, [ours, _tagged("auto-scheduled")]), again),
        "a night that no worker takes up is left out": (
            _absent({_LATE}, _OVER | _BEGUN, [ours], PATIENCE),
            ChangeFlowRunState(name="Cancelled", state=StateType.CANCELLED, message=_LEFT_OUT),
        ),
        "a night in trouble is told": (_seen(_BROKEN_OFF | {_LATE}, [ours]), tell),
    }
    titled = {f"midwatch {name}: {rule}": what for rule, what in rules.items()}
    return {
        title: AutomationCore(name=title, trigger=trigger, actions=[action]) if action else None
        for title, (trigger, action) in titled.items()
    }


def _tagged(tag: str) -> dict[str, str]:
    return {"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"}


def _absent(after: set[str], expect: set[str], related: list[dict[str, str]], within: timedelta) -> EventTrigger:
    """Fires for each flow run of which nothing expected is heard after an event."""
    proactive = {"after": after, "posture": Posture.Proactive, "within": within}
    return EventTrigger(expect=expect, match=_RUNS, match_related=related, for_each={"prefect.resource.id"}, **proactive)


def _seen(expect: set[str], related: list[dict[str, str]]) -> EventTrigger:
    """Fires at each of these events."""
    return EventTrigger(expect=expect, match=_RUNS, match_related=related, for_each={"prefect.resource.id"})


def _settle(client: SyncPrefectClient, automations: Mapping[str, AutomationCore | None]) -> list[str]:
    """The names of the wanted automations, which are on the server now; one that was there keeps what it has seen."""
    for name, automation in automations.items():
        there = [a.id for a in client.read_automations_by_name(name)]
        if automation is None:
            for id_ in there:
                client.delete_automation(id_)
        elif there:
            client.update_automation(there[0], AutomationCore.model_validate(automation.model_dump(exclude={"owner_resource"})))
        else:
            client.create_automation(automation)
    return [name for name, automation in automations.items() if automation]
