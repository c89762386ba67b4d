"""Look at benchmarks, and pin them."""

import json
from pathlib import Path

import click

from flows.choices import LOCK, benchmarks_of, configuration
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_card, print_table, summary
from flows.settings import Settings


class _Benchmarks(click.Group):
    """A group whose subcommand may also be the name of a benchmark, which is then shown."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand; `show` for what is none."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["show", *args])


@click.group(cls=_Benchmarks, invoke_without_command=True, subcommand_metavar="[NAME[=PATH] | COMMAND]")
@json_option
@click.pass_context
def benchmarks(context: click.Context, as_json: bool) -> None:
    """List the benchmarks that come with Midwatch, or show the card of one.

    \b
    Examples:
      midwatch benchmarks
      midwatch benchmarks starter
      midwatch benchmarks xstest=xstest_prompts.csv     its card, and examples from this file
      midwatch benchmarks pin
    """
    if context.invoked_subcommand is not None:
        return
    from tasks.benchmarks import BENCHMARKS

    cards = [b.card for b in BENCHMARKS.values()]
    if as_json:
        click.echo(json.dumps([c.model_dump() for c in cards], indent=1))
        return
    columns = ("id", "rows", "categories", "protocols", "licence", "from")
    print_table(columns, [summary(c) for c in cards])


@benchmarks.command("show")
@click.argument("benchmark", metavar="NAME[=PATH]")
@json_option
@home_option
@settings
def show_benchmark(settings: Settings, benchmark: str, as_json: bool) -> None:
    """Show the card of a benchmark, and three of its items: from PATH, or as they were last ingested."""
    from tasks.ingest import benchmark_of, first_items
    from tasks.lake import Lake

    (spec,) = benchmarks_of((benchmark,), None)
    card = benchmark_of(spec).card
    items = first_items(Lake(root=settings.lake), spec, 3)
    if as_json:
        click.echo(json.dumps({"card": card.model_dump(), "items": [i.model_dump() for i in items]}, indent=1))
        return
    print_card(card, items)


@benchmarks.command()
@config_option
@home_option
@settings
def pin(settings: Settings, config: Path | None) -> None:
    """Write the configured benchmarks' revisions and content hashes to midwatch.lock, which later runs obey."""
    spec = configuration(config)
    settings.prepare()
    from flows.pin import pin as pin_flow
    from tasks.pins import write_lock

    pins = pin_flow(spec, settings.home)
    write_lock(LOCK, pins)
    print_table(("benchmark", "source", "commit", "content", "items"), [[i, *p.model_dump().values()] for i, p in pins.items()])
