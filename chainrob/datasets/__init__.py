"""Data for the experiments: load, split, scale, contaminate."""

from __future__ import annotations

from chainrob.datasets import contamination
from chainrob.datasets._files import DataFileError, data_folder, read_data_file
from chainrob.datasets.iris import Iris, load_iris
from chainrob.datasets.splits import Split, random_split

__all__ = [
    "DataFileError",
    "Iris",
    "Split",
    "contamination",
    "data_folder",
    "load_iris",
    "random_split",
    "read_data_file",
]
