"""Judge stored responses, and measure judges."""

import json
from pathlib import Path
from typing import get_args

import click

from flows.choices import configuration, model_of, newest_run_of, run_id_of, with_members
from flows.commands.calibrate import calibrate
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table, report
from flows.settings import Settings
from schemas.config import BenchmarkSpec, Target
from schemas.errors import ConfigError


@click.group()
def judge() -> None:
    """Judge stored responses, and measure judges."""


judge.add_command(calibrate)


@judge.command("run")
@click.option("--judge", "name", required=True, help="The judge.")
@click.option("--arm", help="Judge the newest responses of the arm of this name.")
@click.option("--run", "run", help="Judge the responses of this run.")
@click.option("--fresh", is_flag=True, help="Judge everything once more: how far does the judge agree with itself?")
@config_option
@json_option
@home_option
@settings
def judge_run(
    settings: Settings, name: str, arm: str | None, run: str | None, fresh: bool, config: Path | None, as_json: bool
) -> None:
    """Judge the stored responses of an arm or a run, without generating any; judging them again changes nothing.

    A judge that needs a model, a file or members takes them from the configuration. Responses that are left without a
    verdict, since the judge's model was out of order or said something else, are judged when the command is run again.

    \b
    Examples:
      midwatch judge run --judge refusal --arm gpt4
      midwatch judge run --judge harm --run latest -c nightly.yaml
    """
    if (arm is None) == (run is None):
        raise ConfigError("say which responses: --arm NAME or --run RUN")
    spec = configuration(config)
    settings.prepare()
    judged = run_id_of(settings, run) if run else newest_run_of(settings, str(arm))
    from flows.judge import judge_stored

    report(settings, judge_stored(judged, name, spec, settings.home, fresh), as_json)


@judge.command()
@click.option("--judge", "name", required=True, help="The judge.")
@config_option
@json_option
@home_option
@settings
def attack(settings: Settings, name: str, config: Path | None, as_json: bool) -> None:
    """Show the judge responses that try to fool it, and how often they do: the benchmark judge_attack.

    \b
    Examples:
      midwatch judge attack --judge refusal
    """
    spec = configuration(config)
    attacked = {"name": f"attack-{name}", "benchmarks": (BenchmarkSpec(id="judge_attack"),)}
    spec = spec.model_copy(update=attacked | {"judges": tuple(with_members(spec, name))})
    settings.prepare()
    from flows.evaluate import evaluate

    report(settings, evaluate(spec, settings.home), as_json)


@judge.command()
@click.option("--judge", "name", required=True, metavar="NAME", help="The judge.")
@click.option("--run", required=True, metavar="RUN", help="Whose responses are frozen.")
@click.option("--size", type=click.IntRange(min=1), default=1500, show_default=True, help="How many of them.")
@config_option
@json_option
@home_option
@settings
def sentinel(settings: Settings, name: str, run: str, size: int, config: Path | None, as_json: bool) -> None:
    """Judge frozen responses once more, and measure the judge against what people said of them.

    They are always the same: those of RUN that people labelled, and a stratified sample of the others. Do it every night; then
    `midwatch drift judge NAME` and a monitor of flips tell whether the judge changed, and judge_calibration has the series.

    \b
    Examples:
      midwatch judge sentinel --judge refusal --run my-model --size 500
    """
    spec, run_id = configuration(config), run_id_of(settings, run)
    settings.prepare()
    from flows.sentinel import sentinel as judge_frozen

    judged, measured = judge_frozen(run_id, name, spec, settings.home, size)
    report(settings, measured or judged, as_json)


@judge.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="A name for the judge.")
@click.option("--target", type=click.Choice(get_args(Target)), required=True, help="What it shall tell.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The judge's file.")
@click.option("--annotator", metavar="NAME", help="Fit on what this annotator said of stored responses.")
@click.option("--prompt", metavar="COLUMN", default="prompt", show_default=True, help="Of FILES: what was asked.")
@click.option("--response", metavar="COLUMN", default="response", show_default=True, help="Of FILES: what was answered.")
@click.option("--label", metavar="COLUMN", help="Of FILES: what a person said; categories are separated by semicolons.")
@click.option("--model", metavar="KEY", help="Fit also on the embeddings of this model of the configuration.")
@click.option("--miss", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="What a miss costs.")
@click.option(
    "--false-alarm",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="What a harm costs that is none.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--card", "facts", multiple=True, metavar="KEY=VALUE", help="For the judge's card: source, licence and the like.")
@config_option
@json_option
@home_option
@settings
def train(
    settings: Settings,
    files: tuple[Path, ...],
    name: str,
    target: Target,
    out: Path,
    annotator: str | None,
    prompt: str,
    response: str,
    label: str | None,
    model: str | None,
    miss: float,
    false_alarm: float,
    folds: int,
    seed: int,
    facts: tuple[str, ...],
    config: Path | None,
    as_json: bool,
) -> None:
    """Fit a judge on labelled responses: those in FILES, or those in the warehouse that an annotator labelled.

    It is measured on prompts that it was not fitted on, and on arms (or files) that it was not fitted on. The same labels give
    the same file; `use: trained` with its `path` puts it into a configuration.

    \b
    Examples:
      midwatch judge train --name house --target unsafe --annotator ada --out house.safetensors
      midwatch judge train completions/*.csv --response completion --label final_label \\
          --name house --target label --out house.safetensors
    """
    if bool(files) == (annotator is not None):
        raise ConfigError("say which labels: FILES with --label COLUMN, or --annotator NAME for those in the warehouse")
    if bool(files) != (label is not None):
        raise ConfigError("FILES and --label COLUMN go together")
    if wrong := [f for f in facts if "=" not in f]:
        raise ConfigError(f"--card {wrong[0]}: expected KEY=VALUE")
    spec = configuration(config)
    embedder = None if model is None else model_of(spec, model)
    settings.prepare()
    from flows.train import Labelled, train_judge
    from tasks.train import Cost

    made = train_judge(
        name,
        target,
        Labelled(files, prompt, response, label, annotator),
        dict(f.split("=", 1) for f in facts),
        embedder,
        Cost(miss, false_alarm),
        folds,
        seed,
        out,
        settings.home,
    )
    if as_json:
        click.echo(json.dumps({"version": made.version, "file": str(out), "card": made.card}, indent=1))
    else:
        others = made.card["left_out_sources"]  # None: the rest lacks a class
        figures = {"unseen prompts": made.card["figures"]} | {f"unseen: {source}": f for source, f in others.items() if f}
        columns = ("measured on", "n", "kappa", "accuracy", "calibration error")
        print_table(
            columns, [[where, f["n"], f["kappa"], f["accuracy"], f["calibration_error"]] for where, f in figures.items()]
        )
        click.echo(f"{name} {made.version}: {out}; to use it, under judges: {{name: {name}, use: trained, path: {out}}}")
