"""The run of a reproduction: training, files, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from chainrob.experiments.devices import get_device
from chainrob.experiments.files import prepare_folder, write_bytes, write_json
from chainrob.experiments.iris import published_figure4
from chainrob.experiments.jobs import check_workers, run_jobs
from chainrob.experiments.partial import PartialResults
from chainrob.experiments.progress import progress_bar
from chainrob.experiments.report import Outcome, Section, Table, Text, Verdict, write_report
from chainrob.experiments.reproduce.differentiation import (
    differentiation_sections,
    published_tables,
    worked_example,
)
from chainrob.experiments.reproduce.estimators import estimator_sections
from chainrob.experiments.reproduce.figures import figure_sections, results_of_setting
from chainrob.experiments.reproduce.measures import Measured
from chainrob.experiments.reproduce.plan import at_best_rates, make_plan
from chainrob.experiments.reproduce.questions import ablation, differences, learning_rates
from chainrob.experiments.reproduce.settings import ReproduceSettings
from chainrob.experiments.reproduce.sweeps import (
    clean_bound,
    contamination_sweeps,
    robustifier_table,
)
from chainrob.experiments.reproduce.variants import Variant, jobs_of, results_of, train_variant
from chainrob.experiments.tables import write_csv
from chainrob.experiments.versions import machine, versions

__all__ = ["TITLE", "run_reproduction"]

TITLE = "Robust gradient descent via back-propagation: reproduction"


def run_reproduction(
    settings: ReproduceSettings,
    out: str | os.PathLike[str],
    *,
    device: str = "@numpy",
    workers: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> list[Verdict]:
    """Regenerate every artefact of the tutorial and answer the referee's questions.

    The folder gets ``report.html`` (one file, figures inside), ``report.md``, ``figures/``,
    ``verdicts.csv``, ``final_errors.csv`` (one row a question, variant and trial),
    ``curves_released.csv`` and ``curves_text.csv`` (as ``chainrob iris`` writes them) and
    ``run.json``. The same settings give the same bytes in all CSV files, on any number of workers.
    ``partial/`` keeps the trials, so that a run can go on where it was interrupted.

    Args:
        settings (ReproduceSettings): How much to train.
        out (path): Folder for the files.
        device (str): ``'@numpy'`` or ``'@cupy:N'``.
        workers (int or None): Processes; None is one a processor. A GPU is used by one.
        resume (bool): Take over the trials that an earlier run in ``out`` finished.
        progress (bool or None): Show a progress bar; None shows it on a terminal.

    Returns:
        list of Verdict: All verdicts, in the report's order.

    Raises:
        UsageError: If the device or the folder cannot be used, or ``resume`` finds other settings.
        DataFileError: If a data file is missing or damaged.
    """
    published_tables(), published_figure4()  # what cannot work fails before anything is computed
    get_device(device)
    processes = check_workers(workers) if device == "@numpy" else 1
    start = time.monotonic()
    folder = prepare_folder(out)
    named = {f"version of {name}": version for name, version in versions().items()}
    kept = PartialResults(folder, {**settings.as_dict(), "device": device, **named}, resume=resume)
    plan = make_plan(settings)
    found_before = kept.count()
    errors: dict[Variant, Any] = {}

    def train(variants: Iterable[Variant]) -> None:
        jobs = jobs_of(variants, device)
        with progress_bar(round(sum(job.size for job in jobs)), "trial", progress) as bar:
            results = run_jobs(train_variant, jobs, kept=kept, workers=processes, bar=bar)
        errors.update(results_of(variants, results))

    train(dict.fromkeys(v for question in plan.values() for v in question.values()))
    plan["best rates"] = at_best_rates(plan, errors, settings.trials)
    train(plan["best rates"].values())
    measured = Measured(settings, plan, errors)
    artefacts, questions = _artefacts(measured), _questions(measured)
    sections = [*artefacts, *questions]
    verdicts = [verdict for section in sections for verdict in section.verdicts()]
    record = {
        "settings": settings.as_dict(),
        "device": device,
        "workers": processes,
        "versions": versions(),
        "machine": machine(),
        "seconds": round(time.monotonic() - start, 1),
        "parts from an earlier run": found_before,
    }
    summary = _summary(artefacts, questions)
    _write(folder, measured, [*summary, *sections, _how(record)], verdicts, record)
    return verdicts


def _artefacts(measured: Measured) -> list[Section]:
    return [
        *differentiation_sections(),
        *estimator_sections(measured.settings.seed),
        *figure_sections(measured),
    ]


def _questions(measured: Measured) -> list[Section]:
    return [
        differences(measured),
        ablation(measured),
        learning_rates(measured),
        contamination_sweeps(measured),
        robustifier_table(measured),
        clean_bound(measured),
    ]


def _summary(artefacts: Iterable[Section], questions: Iterable[Section]) -> list[Section]:
    listed = {
        "The tutorial's artefacts": [v for section in artefacts for v in section.verdicts()],
        "A referee's questions": [v for section in questions for v in section.verdicts()],
    }
    everything = [v for verdicts in listed.values() for v in verdicts]
    counts = ", ".join(f"{sum(v.outcome == o for v in everything)} {o}" for o in get_args(Outcome))
    first = Section(
        "What holds and what does not",
        [
            Text(
                "M. J. Holland's tutorial regenerated by chainrob, and the questions that a "
                "referee would ask of its experiment. Each verdict follows from the rule stated "
                "with it below. 'Not shown': the interval allows both answers. 'Cannot be said': "
                f"fewer or shorter trials than the rule is for. In all: {counts}."
            )
        ],
    )
    columns = ["claim", "verdict", "found"]
    tables = [
        Section(title, [Table(columns, [[v.claim, v.outcome, v.found] for v in verdicts])], level=3)
        for title, verdicts in listed.items()
    ]
    return [first, *tables]


def _how(record: dict[str, Any]) -> Section:
    found: list[tuple[str, Any]] = [
        *((f"setting: {name}", value) for name, value in record["settings"].items()),
        *((f"version: {name}", value) for name, value in record["versions"].items()),
        ("device", record["device"]),
        ("workers", record["workers"]),
        ("processor", record["machine"]),
        ("duration of this run, in seconds", record["seconds"]),
        ("parts taken over from an earlier run", record["parts from an earlier run"]),
    ]
    text = (
        "Every random number follows from the seed; a second run gives the same CSV files, bit by "
        "bit. Trials are bimodal (a network learns or does not), so all intervals are bootstrap "
        "intervals over trials, by percentiles expanded for few trials."
    )
    rows = [[name, str(value)] for name, value in found]
    return Section("How this was run", [Text(text), Table(["what", "value"], rows)])


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
    write_bytes(figures / "figure2.dot", (trace.to_dot("reverse") + "\n").encode())
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
