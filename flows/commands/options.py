"""Options and settings that commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flows.settings import Settings

settings = click.make_pass_decorator(Settings, ensure=True)


def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep an option in the settings, wherever on the line it stands."""
    if value is not None:
        setattr(context.ensure_object(Settings), str(parameter.name), value)


home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    envvar="MIDWATCH_HOME",
    expose_value=False,
    callback=remember,
    help="Folder of all state [default: ./midwatch-data; also MIDWATCH_HOME].",
)
config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration [default: ./midwatch.yaml, else the built-in one].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def about_responses(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which stored responses the rows of a file are about."""
    for option in (
        click.option("--arm", metavar="NAME", help="The arm whose responses they are."),
        click.option("--run", metavar="RUN", help="The run that holds the responses [default: the newest that does]."),
        click.option("--response", metavar="COLUMN", help="What was answered [default: response, else completion]."),
        click.option("--prompt", metavar="COLUMN", help="What was asked [default: prompt]."),
    ):
        command = option(command)
    return command
