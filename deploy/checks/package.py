"""Packs the chart, and renders it from the package.

package.py FOLDER    writes trackfinity-unlocker-VERSION.tgz there
"""

import pathlib
import shutil
import sys
import tempfile

import helm_python

CHART = pathlib.Path(__file__).resolve().parent.parent / "helm/trackfinity-unlocker"


def rendered(chart):
    return chart.render({}, name="trackfinity-unlocker", namespace="trackfinity")


with tempfile.TemporaryDirectory() as copied:
    # Helm says a line about every symbolic link; a copy has none.
    folder = shutil.copytree(CHART, pathlib.Path(copied) / CHART.name)
    package = pathlib.Path(helm_python.package(str(folder), destination=sys.argv[1]))
    with helm_python.Chart.load(str(folder)) as source, helm_python.Chart.load_archive(package.read_bytes()) as packed:
        if rendered(source) != rendered(packed):
            sys.exit("package: the package renders something else than the chart")
        print(f"package: {package.name} renders the {len(rendered(packed))} templates of the chart")
