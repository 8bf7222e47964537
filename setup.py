"""Everything about the package stands in setup.cfg; here pip is stopped before it fails obscurely.

Chainer's last release is a source archive whose build fails with today's setuptools, in a
traceback that names neither Chainer's part in it nor the cure. pip makes our metadata first, so we
can say it.
"""

import os
import sys
import sysconfig
from pathlib import Path

from setuptools import setup

MESSAGE = """
chainrob needs Chainer 7.8.1, whose source archive builds only with setuptools below 81.
Tell pip so (old versions of pip read the first variable, new ones the second):

    PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt pip install .

or install Chainer first:

    pip install "setuptools<81" wheel && pip install --no-build-isolation chainer==7.8.1

If you know better, set CHAINROB_NO_CHECK=1.
"""


def chainer_is_there() -> bool:
    """Whether the environment that is installed into has Chainer; pip's own build does not."""
    folder = Path(sysconfig.get_path("purelib"))
    return any(folder.glob("chainer-7.8.1*"))


def pip_would_fail() -> bool:
    """Whether pip asks, will build Chainer next, and was told nothing of an older setuptools."""
    told = ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_NO_BUILD_ISOLATION", "PIP_NO_DEPS")
    asked_by_pip = "PIP_BUILD_TRACKER" in os.environ and "UV" not in os.environ
    return asked_by_pip and not any(name in os.environ for name in told) and not chainer_is_there()


if pip_would_fail() and "CHAINROB_NO_CHECK" not in os.environ:
    sys.exit(MESSAGE)

setup()
