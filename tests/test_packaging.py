"""What an installation promises: versions that agree, files that come along, commands."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import chainrob
from chainrob import _chainer
from chainrob.datasets import data_folder

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "chainrob"

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.cfg").exists(), reason="needs the checkout, not an installed package"
)


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def installed() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution("chainrob")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("chainrob is not installed")


def test_version_of_the_package_and_of_the_distribution_agree():
    assert installed().version == chainrob.__version__


def test_command_line_program_exists():
    (script,) = installed().entry_points.select(group="console_scripts", name="chainrob")
    assert callable(script.load())


def test_chainer_that_is_required_is_the_one_that_is_mended():
    requirements = setup_cfg()["options"]["install_requires"].split("\n")
    assert f"chainer =={_chainer.CHAINER_VERSION}" in requirements
    assert importlib.metadata.version("chainer") == _chainer.CHAINER_VERSION


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_data_file_comes_along():
    """The pattern of package_data reaches, through the link, each file of data/."""
    patterns = setup_cfg()["options.package_data"]["chainrob"].split()
    assert "py.typed" in patterns
    assert (PACKAGE / "py.typed").exists()
    assert "_data/**/*" in patterns
    files = {path.relative_to(ROOT / "data") for path in (ROOT / "data").rglob("*")}
    linked = {
        Path(folder, name).relative_to(PACKAGE / "_data")
        for folder, folders, names in os.walk(PACKAGE / "_data")
        for name in (*folders, *names)
    }
    assert linked == files != set()
    assert data_folder().samefile(PACKAGE / "_data")


def test_build_constraint_is_the_same_for_pip_and_uv():
    """Chainer's build needs it; see the comment in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    (constraint,) = (line for line in lines if not line.startswith("#"))
    assert f'build-constraint-dependencies = ["{constraint}"]' in (
        (ROOT / "pyproject.toml").read_text()
    )
    makefile = (ROOT / "Makefile").read_text()
    for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        assert f"{variable}=constraints.txt" in makefile


def test_continuous_integration_runs_what_a_person_types():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.search(r"^exec make test$", script.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_second_make_installs_nothing(tmp_path):
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def commands(goal: str) -> str:
        run = ["make", "--dry-run", "--no-print-directory", goal]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(
            run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    for goal in ("iris", "test"):
        assert "-m venv .venv" in commands(goal)
        assert "pip --disable-pip-version-check --quiet install" in commands(goal)
    assert "'torch ==" in commands("test")  # whose tests are skipped without it
    (tmp_path / ".venv").mkdir()
    for name in ("pyvenv.cfg", "installed", "installed-test", "installed-torch"):
        (tmp_path / ".venv" / name).touch()
    for goal in ("iris", "test"):
        assert "install" not in commands(goal)
    os.utime(tmp_path / "setup.cfg", (2e9, 2e9))  # a change of what is required installs anew
    assert "install --editable '.[test]'" in commands("test")


def test_optional_libraries_are_not_imported(run_python):
    """They cost seconds, or are not there."""
    run_python(
        """
import sys
import chainrob
heavy = {"torch", "mpi4py", "chainermn", "matplotlib.pyplot", "notebook", "pytest", "hypothesis"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    )


def test_pip_is_told_of_setuptools_before_it_fails(tmp_path):
    """setup.py says what Chainer's build needs, where nothing says that the user knows."""
    asked = {"PIP_BUILD_TRACKER": "x"}
    cases = [
        (asked, True),
        ({**asked, "PIP_CONSTRAINT": "constraints.txt"}, False),
        ({**asked, "PIP_BUILD_CONSTRAINT": "constraints.txt"}, False),
        ({**asked, "UV": "uv"}, False),
        ({**asked, "CHAINROB_NO_CHECK": "1"}, False),
        ({}, False),
    ]
    code = (
        "import json, os, runpy, setuptools, sys, sysconfig\n"
        f"sysconfig.get_path = lambda name: {str(tmp_path)!r}\n"  # an environment without Chainer
        "setuptools.setup = lambda: found.append('set up')\n"
        "around = dict(os.environ)\n"
        "results = []\n"
        "for variables in json.loads(sys.argv[1]):\n"
        "    os.environ.clear()\n"
        "    os.environ.update(around | variables)\n"
        "    found = []\n"
        "    try:\n"
        f"        runpy.run_path({str(ROOT / 'setup.py')!r})\n"
        "    except SystemExit as stop:\n"
        "        found.append(stop.code)\n"
        "    results.append(found)\n"
        "print(json.dumps(results))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV"))}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([variables for variables, _ in cases])],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    for (variables, stops), found in zip(cases, json.loads(done.stdout), strict=True):
        assert len(found) == 1, variables
        assert (found == ["set up"]) == (not stops), variables
        assert ("PIP_BUILD_CONSTRAINT=constraints.txt" in str(found[0])) == stops, variables


LEFT_OUT = {"build", "dist", "results", "shared"}
"""Of the checkout's own folder: what is made there, or lent."""

BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def leave_out(folder: str, names: list[str]) -> set[str]:
    made = {name for name in names if name.startswith(".") or name.endswith(".egg-info")}
    made |= {name for name in names if name == "__pycache__"}
    return made | (LEFT_OUT & set(names) if Path(folder) == ROOT else set())


def run_quietly(*command: object, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "CHAINROB_NO_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1] if done.stdout else ""


@pytest.fixture(scope="module")
def source_archive(tmp_path_factory) -> Path:
    """What ``python -m build`` makes first, from the files of the checkout, without a network."""
    folder = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=leave_out)
    return folder.parent / run_quietly("-c", BUILD, "sdist", folder.parent, folder=folder)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_source_archive_holds_what_its_makefile_needs(source_archive):
    with tarfile.open(source_archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    wanted = {"Makefile", "constraints.txt", "CITATION.cff", "LICENSE", "data/README.md"}
    wanted |= {"notebooks/demo.ipynb", "docs/index.md", "docs/examples/chainer_quickstart.py"}
    wanted |= {"tests/conftest.py", "docs/_static/figures/pull.png"}
    assert wanted - names == set()
    assert not [name for name in names if name.startswith(("docs/results", "docs/_extra"))]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wheel_of_the_source_archive_works_where_it_is_installed(source_archive, tmp_path):
    with tarfile.open(source_archive) as content:
        content.extractall(
            tmp_path, **({"filter": "tar"} if hasattr(tarfile, "tar_filter") else {})
        )
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    wheel = tmp_path / run_quietly("-c", BUILD, "wheel", tmp_path, folder=unpacked)
    shutil.rmtree(unpacked)
    target = tmp_path / "site"
    options = ("--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run_quietly("-m", "pip", "install", *options, "--target", target, wheel, folder=tmp_path)
    program = """
import importlib.metadata, pathlib
import chainrob
from chainrob.datasets import load_iris, data_folder
folder = pathlib.Path(chainrob.__file__).parent
assert folder == pathlib.Path(TARGET) / "chainrob", folder
assert data_folder() == folder / "_data"
assert load_iris().x.shape == (150, 4)
assert list((folder / "kernels" / "gpu").glob("*.cu"))
assert (folder / "py.typed").exists()
assert importlib.metadata.version("chainrob") == chainrob.__version__
from chainrob.cli import main
quick = ["--trials", "1", "--iterations", "2", "--robustifier", "all=trimmed_mean:fraction=0.05"]
assert main(["iris", *quick, "--out", "out"]) == 0
assert list(pathlib.Path("out").glob("*.png"))
"""
    script = tmp_path / "program.py"
    script.write_text(f"TARGET = {str(target)!r}\n{program}")
    run_quietly(script, folder=tmp_path, PYTHONPATH=str(target))
