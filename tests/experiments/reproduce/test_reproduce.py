"""The report: every part, its rules, the same files whatever happens on the way."""

import csv
import json
import re

import numpy as np
import pytest

import chainrob
from chainrob.cli import main
from chainrob.experiments import jobs as jobs_module
from chainrob.experiments.iris import iris_settings, run_iris
from chainrob.experiments.report import writing
from chainrob.experiments.report.document import Code, Section, Table, Text, Verdict
from chainrob.experiments.report.html import to_html
from chainrob.experiments.report.markdown import to_markdown
from chainrob.experiments.reproduce import ReproduceSettings
from chainrob.experiments.reproduce.measures import Measured
from chainrob.experiments.reproduce.plan import (
    DIFFERENCES,
    at_best_rates,
    make_plan,
    robustifiers_tried,
)
from chainrob.experiments.reproduce.variants import SlowMean, Variant, jobs_of, results_of

QUICK = ["reproduce", "--quick", "--iterations", "4", "--workers", "1"]
CSV = ("final_errors.csv", "verdicts.csv", "curves_released.csv", "curves_text.csv")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A quick run, interrupted after some jobs, resumed."""
    folder = tmp_path_factory.mktemp("reproduce")
    advance = jobs_module._advance
    count = 0

    def interrupt(bar, job):
        nonlocal count
        count += 1
        if count == 60:
            raise KeyboardInterrupt
        advance(bar, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "_advance", interrupt)
        assert main([*QUICK, "--out", str(folder)]) == 130
    assert not (folder / "report.html").exists()
    kept = len(list((folder / "partial").glob("*.npy")))
    assert kept >= 59
    assert main([*QUICK, "--out", str(folder), "--resume"]) == 0
    assert json.loads((folder / "run.json").read_text())["parts from an earlier run"] == kept
    return folder


@pytest.mark.timeout(300)
def test_report_holds_every_artefact(whole):
    text = (whole / "report.md").read_text()
    for artefact in (
        "Table 1", "Table 2", "Table 3", "Listing 1", "Figures 1 and 2", "Equation (2)",
        "Algorithm 1", "Algorithm 2", "Listings 2 to 4", "Figure 3", "Figure 4",
        "Ablation", "best learning rate", "clean-data bound", "seed", "seconds", "device",
        "version: chainer",
    ):  # fmt: skip
        assert artefact in text, artefact
    for link in re.findall(r"\((figures/\S+)\)", text):
        assert (whole / link).stat().st_size > 5000
    page = (whole / "report.html").read_text()
    assert page.count("<img ") == text.count("](figures/")
    assert 'src="figures' not in page  # the page needs no other file
    assert (whole / "figures" / "figure1.dot").read_text().startswith("digraph")


def test_derivatives_and_estimators_hold_and_short_trials_say_nothing(whole):
    with (whole / "verdicts.csv").open() as file:
        verdicts = list(csv.DictReader(file))
    exact = [v for v in verdicts if re.match(r"Table|Listing|Algorithm \d:|psi", v["claim"])]
    assert len(exact) == 10
    assert {v["verdict"] for v in exact} == {"holds"}
    assert {v["verdict"] for v in verdicts if v not in exact} == {"cannot be said"}
    assert all(v["rule"] and v["found"] for v in verdicts)


@pytest.mark.timeout(300)
def test_a_second_run_without_interruption_gives_the_same_bytes(whole, tmp_path, monkeypatch):
    def no_picture(figure, path):  # drawing takes most of the time, and is not the point here
        path.with_suffix(".png").write_bytes(b"")

    monkeypatch.setattr(writing, "save_figure", no_picture)
    assert main([*QUICK, "--out", str(tmp_path)]) == 0
    for name in CSV:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def test_curves_are_those_of_the_iris_command(whole, tmp_path):
    settings = iris_settings("released", trials=6, iterations=4, record_every=5)
    run_iris(settings).write_csv(tmp_path / "curves.csv")
    assert (tmp_path / "curves.csv").read_text() == (whole / "curves_released.csv").read_text()


def test_resuming_with_other_settings_is_refused(whole, capsys):
    capsys.readouterr()
    assert main([*QUICK, "--seed", "3", "--out", str(whole), "--resume"]) == 2
    assert "seed was 0, now 3" in capsys.readouterr().err


def test_plan_switches_one_difference_at_a_time():
    plan = make_plan(ReproduceSettings())["differences"]
    for start, other in (("released", "text"), ("text", "released")):
        base = plan[start, "nothing", "deep-rob"].settings
        for name in DIFFERENCES:
            changed = plan[start, name, "deep-rob"].settings.as_dict()
            moved = {k for k, v in base.as_dict().items() if changed[k] != v}
            assert moved == {name}
            assert changed[name] == iris_settings(other).as_dict()[name]
    # All of them together lead from one to the other.
    released, text = (iris_settings(name).as_dict() for name in ("released", "text"))
    assert {k for k in text if text[k] != released[k]} == {*DIFFERENCES, "setting"}


def test_best_rates_are_chosen_by_the_sweep_and_have_more_trials():
    plan = make_plan(ReproduceSettings())
    errors = {
        variant: np.full((40, 2, 2), abs(rate - (0.2 if method == "deep" else 1.0)))
        for (method, rate), variant in plan["rates"].items()
    }
    chosen = at_best_rates(plan, errors, 200)
    assert {m: v.settings.learning_rate for m, v in chosen.items()} == {
        method: 0.2 if method == "deep" else 1.0 for method, _ in plan["rates"]
    }
    assert {variant.trials for variant in chosen.values()} == {200}


def test_every_robustifier_is_tried_or_refused_with_a_reason():
    tried = robustifiers_tried()
    names = {key.split(",")[0] for key in tried}
    assert names == set(chainrob.robustifiers.names())
    assert [key for key, value in tried.items() if isinstance(value, str)] == ["smea"]


def test_variants_share_equal_trials():
    few, many = (Variant.of(iris_settings(trials=n)) for n in (20, 60))
    first, *_ = many.jobs("@numpy")
    assert [job.name for job in few.jobs("@numpy")] == [first.name]
    plain = {Variant.of(iris_settings(name, trials=20), "deep") for name in ("released", "text")}
    assert len(jobs_of(plain, "@numpy")) == 2  # their data differ
    same = {Variant.of(iris_settings(trials=20, variance_ddof=ddof), "deep") for ddof in (0, 1)}
    assert len(jobs_of(same, "@numpy")) == 1  # what deep-rob's layer is does not concern deep
    assert len({job.name for job in jobs_of([Variant.of(iris_settings(trials=20))], "@numpy")} &
               {job.name for job in jobs_of(same, "@numpy")}) == 0  # fmt: skip


def test_slow_mean_is_a_learning_rate():
    rows = np.random.default_rng(0).normal(size=(9, 4))
    np.testing.assert_allclose(SlowMean(0.01)(rows), rows.mean(axis=0) / 100)
    layer = chainrob.links.Linear(3, 2, robustifier=SlowMean(0.01))
    plain = chainrob.links.Linear(3, 2)
    plain.copyparams(layer)
    x = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    for one in (layer, plain):
        y = one(x)
        y.grad = np.ones_like(y.array)
        y.backward()
    np.testing.assert_allclose(layer.W.grad, plain.W.grad / 100, rtol=1e-6)


def made_up(deep, robust, slow):
    """Measured errors of 200 trials that never were, to test the rules."""
    plan = make_plan(ReproduceSettings())
    rng = np.random.default_rng(0)
    levels = dict(zip(plan["ablation"].values(), (deep, robust, slow), strict=True))
    shape = (200, 101, 2)
    errors = {v: np.clip(rng.normal(m, 0.05, shape), 0, 1) for v, m in levels.items()}
    return Measured(ReproduceSettings(), plan, errors)


@pytest.mark.parametrize(
    ("levels", "outcomes"),
    [
        ((0.4, 0.1, 0.13), ["holds", "holds"]),
        ((0.4, 0.1, 0.35), ["does not hold", "holds"]),
        ((0.4, 0.1, 0.1), ["holds", "not shown"]),
        ((0.4, 0.2, 0.1), ["holds", "does not hold"]),
    ],
)
def test_rules_of_the_ablation_can_go_either_way(levels, outcomes):
    from chainrob.experiments.reproduce.questions import ablation

    assert [v.outcome for v in ablation(made_up(*levels)).verdicts()] == outcomes


def test_documents_escape_what_they_show():
    verdict = Verdict.of("c", "cannot be said", "r", "f")
    section = Section("A & `B`", [Text("1 < 2"), Code("<b>"), Table(["a|b"], [["x|y"]]), verdict])
    page = to_html("<T>", [section])
    assert "<h1>&lt;T&gt;</h1>" in page
    assert "<pre>&lt;b&gt;</pre>" in page
    assert "A &amp; <code>B</code>" in page
    assert "| a\\|b |" in to_markdown("T", [section])
    assert "**cannot be said**: c" in to_markdown("T", [section])


def test_results_are_put_together_in_order():
    variant = Variant.of(iris_settings(trials=45, iterations=1))
    names = [job.name for job in variant.jobs("@numpy")]
    parts = {
        n: np.full((k, 2, 2), i) for i, (n, k) in enumerate(zip(names, (20, 20, 5), strict=True))
    }
    joined = results_of([variant], parts)[variant]
    assert joined.shape == (45, 2, 2)
    assert joined[:, 0, 0].tolist() == [0] * 20 + [1] * 20 + [2] * 5


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--trials", "1"], "trials must be at least 2, found 1"),
        (["--trials", "5"], "must exceed sweep_trials by at least 2, found 5 and 4"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--device", "gpu"], "must be @numpy or @cupy:N"),
        (["figures"], "invalid choice: 'figures'"),
    ],
)
def test_bad_options(capsys, tmp_path, options, fragment):
    assert main([*QUICK[:2], *options, "--out", str(tmp_path)]) == 2
    assert fragment in capsys.readouterr().err
