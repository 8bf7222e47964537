"""``chainrob reproduce``: its options, its run with files and report, and what it prints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from chainrob.experiments.engine import Run
from chainrob.experiments.files import write_bytes, write_json
from chainrob.experiments.iris import published_figure4
from chainrob.experiments.options import add_run_options, add_settings, given, made
from chainrob.experiments.report import Outcome, Section, Table, Text, Verdict, write_report
from chainrob.experiments.reproduce.baselines import baselines
from chainrob.experiments.reproduce.differentiation import (
    differentiation_sections,
    published_tables,
)
from chainrob.experiments.reproduce.estimators import estimator_sections
from chainrob.experiments.reproduce.extent import QUICK, ReproduceSettings
from chainrob.experiments.reproduce.measures import Measured
from chainrob.experiments.reproduce.plan import at_best_rates, finalists, make_plan
from chainrob.experiments.reproduce.published_curves import figure_sections, results_of_setting
from chainrob.experiments.reproduce.questions import ablation, differences, learning_rates
from chainrob.experiments.reproduce.sweeps import (
    clean_bound,
    contamination_sweeps,
    robustifier_table,
)
from chainrob.experiments.reproduce.tutorial_errata import worked_example
from chainrob.experiments.reproduce.variants import Variant, jobs_of, results_of, train_variant
from chainrob.experiments.tables import write_csv
from chainrob.experiments.usage import UsageError

__all__ = ["TITLE", "add_arguments", "run", "run_reproduction"]

TITLE = "Robust gradient descent via back-propagation: reproduction"

_OFFERED = (
    "trials", "ablation_trials", "sweep_trials", "robustifier_trials", "slow_trials",
    "iterations", "seed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob reproduce``."""
    parser.usage = "%(prog)s [report | rgd] [options]"
    parser.description = (
        "Reproduce every table and figure of the tutorial, compare them with the published values "
        "by stated rules, and answer a referee's questions. Writes report.html, report.md, CSV "
        "files and figures. 'rgd' runs Holland and Ikeda's synthetic linear regression instead."
    )
    parser.epilog = (
        "examples:\n"
        "  chainrob reproduce --quick\n"
        "  chainrob reproduce --resume --out results/reproduce\n"
        "  chainrob reproduce rgd --trials 50"
    )
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        choices=("report", "rgd"),
        default="report",
        help="report (default; about a quarter of an hour on two cores) or rgd (seconds)",
    )
    add(
        "--quick",
        action="store_true",
        help="a minute or two: Figure 4, and where its gain comes from",
    )
    add_settings(parser, ReproduceSettings, _OFFERED)
    add("--device", default="@numpy", help="@numpy or @cupy:N (default: %(default)s)")
    add("--workers", type=int, metavar="N", help="number of processes (default: one per processor)")
    add(
        "--out",
        metavar="FOLDER",
        help="folder of the results (default: results/reproduce or results/rgd)",
    )
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob reproduce`` and print its result.

    Returns:
        int: The exit status.
    """
    fields = given(args, _OFFERED)
    args.out = args.out or f"results/{'rgd' if args.what == 'rgd' else 'reproduce'}"
    if args.what == "rgd":
        return _rgd(args, fields)
    settings = made(ReproduceSettings, **{**(QUICK if args.quick else {}), **fields})
    verdicts = run_reproduction(
        settings,
        args.out,
        device=args.device,
        workers=args.workers,
        resume=args.resume,
        progress=args.progress,
    )
    said = [verdict for verdict in verdicts if verdict.outcome != "cannot be said"]
    for verdict in said:
        print(f"{verdict.outcome:14} {verdict.claim}")
    if len(said) < len(verdicts):
        print(f"{len(verdicts) - len(said)} other claims need more or longer trials")
    print(f"the report is {Path(args.out) / 'report.html'} (also report.md)")
    return 0


def _rgd(args: argparse.Namespace, fields: dict[str, Any]) -> int:
    from chainrob.experiments.rgd import RgdSettings, run_rgd

    unknown = sorted(set(fields) - {"trials", "iterations", "seed"})
    if unknown or args.device != "@numpy" or args.resume or args.workers:
        raise UsageError(
            "reproduce rgd takes only --trials, --iterations, --seed, --quick and --out"
        )
    settings = made(RgdSettings, **{**({"trials": 20} if args.quick else {}), **fields})
    final = run_rgd(settings, args.out).final()
    print(f"results are in {args.out}")
    for noise, methods in final.items():
        for name, found in methods.items():
            low, high = found["interval"]
            print(f"{noise:10} {name:14} excess risk {found['mean']:.4g} [{low:.4g}, {high:.4g}]")
    return 0


def run_reproduction(
    settings: ReproduceSettings,
    out: str | os.PathLike[str],
    *,
    device: str = "@numpy",
    workers: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> list[Verdict]:
    """Reproduce every table and figure of the tutorial, and answer the referee's questions.

    The folder gets ``report.html`` (one file, figures inside), ``report.md``, ``figures/``,
    ``verdicts.csv``, ``final_errors.csv`` (one row per question, variant and trial),
    ``curves_released.csv`` and ``curves_text.csv`` (in the form of ``chainrob iris``) and
    ``run.json``. The same settings give the same bytes in all CSV files, on any number of workers.
    ``partial/`` keeps the trials, so that an interrupted run can continue.

    Args:
        settings: The numbers of trials and iterations.
        out: Folder for the files.
        device: ``'@numpy'`` or ``'@cupy:N'``.
        workers: Number of processes; None is one per processor. A GPU has one process.
        resume: Use the trials that an earlier run in ``out`` finished.
        progress: Show the progress. None shows a bar on a terminal, else a line per minute.

    Returns:
        list of Verdict: All verdicts, in the report's order.

    Raises:
        UsageError: If the device or the folder cannot be used, or ``resume`` finds other settings.
        DataFileError: If a data file is missing or damaged.
    """
    published_tables(), published_figure4()  # a bad data file shows before anything is computed
    the_run = Run(
        settings.as_dict(), out, device=device, workers=workers, resume=resume, progress=progress
    )
    plan = make_plan(settings)
    errors: dict[Variant, Any] = {}

    def train(variants: Iterable[Variant]) -> None:
        results = the_run.compute(train_variant, jobs_of(variants, device), "trial")
        errors.update(results_of(variants, results))

    train(dict.fromkeys(v for question in plan.values() for v in question.values()))
    if "rates" in plan:
        plan |= finalists(plan, errors, settings.trials)
        train(plan["finalists"].values())
        plan["best rates"] = at_best_rates(plan, errors, settings.trials // 2)
    measured = Measured(settings, plan, errors)
    artifacts, questions = _artifacts(measured), _questions(measured)
    sections = [*artifacts, *questions]
    verdicts = [verdict for section in sections for verdict in section.verdicts()]
    record = the_run.record()
    summary = _summary(artifacts, questions)
    how = the_run.section(
        record,
        "Trials are bimodal (a network learns or fails), so no normal distribution is assumed.",
    )
    assert the_run.folder is not None
    _write(the_run.folder, measured, [*summary, *sections, how], verdicts, record)
    return verdicts


def _artifacts(measured: Measured) -> list[Section]:
    return [
        *differentiation_sections(),
        *estimator_sections(measured.settings.seed),
        *figure_sections(measured),
    ]


def _questions(measured: Measured) -> list[Section]:
    sections = {
        "differences": differences,
        "ablation": ablation,
        "baselines": baselines,
        "rates": learning_rates,
        "shares": contamination_sweeps,
        "robustifiers": robustifier_table,
        "clean": clean_bound,
    }
    return [make(measured) for name, make in sections.items() if name in measured.plan]


def _summary(artifacts: Iterable[Section], questions: Iterable[Section]) -> list[Section]:
    listed = {
        "The tutorial's artifacts": [v for section in artifacts for v in section.verdicts()],
        "A referee's questions": [v for section in questions for v in section.verdicts()],
    }
    everything = [v for verdicts in listed.values() for v in verdicts]
    counts = ", ".join(
        f"'{outcome}' {sum(verdict.outcome == outcome for verdict in everything)}"
        for outcome in get_args(Outcome)
    )
    first = Section(
        "What holds and what does not",
        [
            Text(
                "chainrob reproduces M. J. Holland's tutorial, and answers a referee's questions "
                "about its experiment. Each verdict follows from a rule, which is given "
                "with it below. 'Not shown' means that the interval allows both answers. It is "
                "no evidence of absence. 'Cannot be said' means that the rule needs more or "
                "longer trials. All verdicts are about this experiment only. Their numbers are: "
                f"{counts}."
            )
        ],
    )
    columns = ["claim", "verdict", "found"]
    tables = [
        Section(title, [Table(columns, [[v.claim, v.outcome, v.found] for v in verdicts])], level=3)
        for title, verdicts in listed.items()
    ]
    return [first, *tables]


def _write(
    folder: Path,
    measured: Measured,
    sections: list[Section],
    verdicts: list[Verdict],
    record: dict[str, Any],
) -> None:
    write_report(TITLE, sections, folder)
    figures = folder / "figures"
    trace = worked_example()
    write_bytes(figures / "figure1.dot", (trace.to_dot() + "\n").encode())
    write_bytes(figures / "reverse_mode.dot", (trace.to_dot("reverse") + "\n").encode())
    for name in ("released", "text"):
        results_of_setting(measured, name).write_csv(folder / f"curves_{name}.csv")
    rows = (
        (question, _named(name), trial, *last)
        for question, variants in measured.plan.items()
        for name in variants
        for trial, last in enumerate(measured.curves(question, name)[:, -1].tolist())
    )
    columns = ("question", "variant", "trial", "train_error", "test_error")
    write_csv(folder / "final_errors.csv", columns, rows)
    cells = ((v.claim, v.outcome, v.rule, v.found) for v in verdicts)
    write_csv(folder / "verdicts.csv", ("claim", "verdict", "rule", "found"), cells)
    write_json(folder / "run.json", record)


def _named(name: Any) -> str:
    return name if isinstance(name, str) else ", ".join(str(part) for part in name)
