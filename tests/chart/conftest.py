import tempfile

import pytest
from cluster import Cluster


@pytest.fixture
def cluster():
    """An API server of the test's own: what the chart installs is cluster-wide."""
    with tempfile.TemporaryDirectory(prefix="spillway-chart-") as folder:
        cluster = Cluster(folder)
        yield cluster
        cluster.stop()
