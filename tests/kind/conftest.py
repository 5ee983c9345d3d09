import sys
import tempfile
from pathlib import Path

import pytest

# What the chart's tests share with these: Helm and an API server.
sys.path.append(str(Path(__file__).resolve().parents[1] / "chart"))

from cluster import Cluster  # noqa: E402
from fakes import Fakes  # noqa: E402


@pytest.fixture(scope="module")
def server():
    """An API server for a module: nothing that is applied to it is in another test's way."""
    with tempfile.TemporaryDirectory(prefix="spillway-kind-") as folder:
        cluster = Cluster(folder)
        yield cluster
        cluster.stop()


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path)
