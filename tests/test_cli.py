"""The command: its exit status, and one clear line where something is wrong."""

import subprocess
import sys

import pytest

import chainrob
from chainrob.cli import COMMANDS, main
from chainrob.experiments.iris import iris_experiment

QUICK = ["iris", "--trials", "2", "--iterations", "5"]


@pytest.fixture
def no_pictures(monkeypatch):
    """They are looked at elsewhere, and take seconds."""
    monkeypatch.setattr(iris_experiment, "save_figure", lambda figure, path: None)


def fails_in_one_line(capsys, arguments, *fragments):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("chainrob")
    for fragment in fragments:
        assert fragment in printed.err


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--trials", "0"], ["trials must be at least 1, found 0"]),
        (["--trials", "many"], ["--trials", "invalid int value: 'many'", "--help"]),
        (["--setting", "figure"], ["--setting", "'figure'"]),
        (["--contamination", "2"], ["contamination must be between 0 and 1, found 2.0"]),
        (["--push", "nan"], ["push must be finite"]),
        (["--record-every", "0"], ["record_every must be at least 1"]),
        (["--robustifier", "l1=medain"], ["name must be one of", "found 'medain'", "trimmed_mean"]),
        (["--robustifier", "l7=mean"], ["l1, l2, l3 or all"]),
        (["--robustifier", "l1=trimmed_mean:fraction=2"], ["fraction"]),
        (["--device", "gpu"], ["must be @numpy or @cupy:N"]),
        (["--colour"], ["unrecognized arguments: --colour"]),
        (["--trial", "3"], ["unrecognized arguments: --trial"]),
    ],
)
def test_bad_options(capsys, tmp_path, options, fragments):
    fails_in_one_line(capsys, [*QUICK, "--out", str(tmp_path), *options], *fragments)
    assert list(tmp_path.iterdir()) == []


def test_bad_commands(capsys):
    fails_in_one_line(capsys, ["irsi"], "irsi")
    fails_in_one_line(capsys, [], "COMMAND")


def test_help_fits_a_screen_and_has_an_example_of_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 90
    examples = text[text.index("examples:") :]
    for command in COMMANDS:
        assert f"chainrob {command}" in examples


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_fits_a_screen_and_has_examples(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 48
    examples = lines[lines.index("examples:") + 1 :]
    assert examples
    assert all(f"chainrob {command} " in line for line in examples)


def test_unwritable_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "results")
    fails_in_one_line(capsys, [*QUICK, "--out", out], f"cannot write to the folder {out}")


def test_device_without_cupy(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    options = ["--device", "@cupy:0", "--out", str(tmp_path)]
    fails_in_one_line(capsys, [*QUICK, *options], "needs CuPy", "pip install 'chainrob[cuda13]'")
    assert list(tmp_path.iterdir()) == []


def test_damaged_data_file(capsys, tmp_path, monkeypatch):
    (tmp_path / "data" / "iris").mkdir(parents=True)
    (tmp_path / "data" / "iris" / "iris.data").write_text("5.1,3.5,1.4,0.2,Iris-setosa\n")
    monkeypatch.setenv("CHAINROB_DATA", str(tmp_path / "data"))
    fails_in_one_line(
        capsys, [*QUICK, "--out", str(tmp_path / "out")], "iris.data is damaged", "SHA-256"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_pictures")
def test_resume_with_other_settings(capsys, tmp_path):
    assert main([*QUICK, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    options = ["--seed", "3", "--out", str(tmp_path), "--resume"]
    fails_in_one_line(capsys, [*QUICK, *options], "cannot resume", "seed was 0, now 3")


@pytest.mark.usefixtures("no_pictures")
def test_a_run_prints_its_result_last_and_no_bar_without_a_terminal(capsys, tmp_path):
    options = ["--robustifier", "all=trimmed_mean:fraction=0.05", "--record-every", "2"]
    assert main([*QUICK, "--setting", "text", *options, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1].startswith("test error after 5 iterations (2 trials")
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "method,trial,iteration,cost_in_gradients,train_error,test_error"
    assert [line.split(",")[2] for line in lines[1:5]] == ["0", "2", "4", "5"]
    assert "TrimmedMean(" in (tmp_path / "settings.json").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_pipeline_of_robustifiers(capsys, tmp_path):
    text = "l1=nearest_neighbor_mixing(f=3) >> geometric_median"
    assert main([*QUICK, "--robustifier", text, "--out", str(tmp_path)]) == 0
    settings = (tmp_path / "settings.json").read_text()
    assert "NearestNeighborMixing(f=3) >> GeometricMedian(" in settings


@pytest.mark.usefixtures("no_pictures")
def test_progress_bar_when_asked_for_is_on_standard_error(capsys, tmp_path):
    assert main([*QUICK, "--progress", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "100%" in printed.err
    assert "%" not in printed.out.splitlines()[0]


def test_interrupt_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(iris_experiment, "run_iris", interrupted)
    assert main([*QUICK, "--out", str(tmp_path)]) == 130
    assert "--resume" in capsys.readouterr().err


def test_help_and_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"chainrob {chainrob.__version__}\n"
    assert main(["--help"]) == 0
    assert "iris" in capsys.readouterr().out
    assert main(["iris", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in (
        "--setting",
        "--trials",
        "--iterations",
        "--seed",
        "--device",
        "--out",
        "--resume",
        "--contamination",
        "--push",
        "--robustifier",
        "--record-every",
    ):
        assert option in printed


def test_module_exits_with_the_status():
    command_line = [sys.executable, "-m", "chainrob", "iris", "--trials", "0"]
    done = subprocess.run(command_line, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "chainrob iris: error: trials must be at least 1, found 0\n"
