#!/bin/sh
# Tests and benchmark of the GPU on a bare machine: cupy, numpy, numba, scikit-learn, matplotlib and pytest are
# installed (and PyTorch for CUDA, if its front is to be tested), and Chainer lies beside this checkout, or in the folder WHEELS, as a wheel or a source archive (with the
# wheels of what else is missing: six, filelock, typing_extensions, protobuf, tqdm, ...). Nothing is installed and
# nothing is downloaded: archives are unpacked into a temporary folder on Python's path.
#
#     [WHEELS=folder] [PYTHON=python3] sh benchmarks/gpu.sh [options of benchmarks/gpu.py]
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-python3}
wheels=${WHEELS:-$(dirname "$root")}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT INT TERM

"$python" - "$site" "$wheels" "$root" <<'PYTHON'
import importlib.util
import sys
import tarfile
import zipfile
from pathlib import Path

site, *folders = (Path(one) for one in sys.argv[1:])
for folder in folders:
    for archive in sorted(folder.glob("*.whl")):
        name = archive.name.split("-")[0]
        if importlib.util.find_spec(name) is None:
            zipfile.ZipFile(archive).extractall(site)
            print(f"using {archive}")
    for archive in sorted(folder.glob("chainer-*.tar.gz")):
        if importlib.util.find_spec("chainer") is None and not (site / "chainer").exists():
            with tarfile.open(archive) as source:
                top = archive.name.removesuffix(".tar.gz")
                packages = tuple(f"{top}/{name}/" for name in ("chainer", "chainermn", "chainerx"))
                parts = [one for one in source if one.name.startswith(packages)]
                for one in parts:
                    one.name = one.name.split("/", 1)[1]
                source.extractall(site, members=parts, filter="data")
            print(f"using {archive}")
if importlib.util.find_spec("chainer") is None and not (site / "chainer").exists():
    sys.exit(
        "gpu.sh: Chainer is not installed, and there is no chainer-*.whl or chainer-*.tar.gz in "
        + " or ".join(map(str, folders)) + "; put one there, or set WHEELS to its folder"
    )
PYTHON

PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}" CHAINER_CUDNN=0 "$python" "$root/benchmarks/gpu.py" "$@"
