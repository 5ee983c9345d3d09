import json

import pytest
from cluster import Cluster

NAMESPACES = ("spillway-system", "logging", "audit", "else")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(server):
    """An API server that nothing of the chart is on."""
    yield server
    for release in json.loads(server.helm("list", "--all-namespaces", "--all", "--output=json")):
        server.helm("uninstall", release["name"], "--namespace", release["namespace"])
    server.kubectl("delete", "crd", "logpipelines.spillway.dev", "--ignore-not-found")
    ours = ("-l", "app.kubernetes.io/part-of=spillway")
    server.kubectl("delete", "clusterrole,clusterrolebinding", *ours)
    server.kubectl("delete", "deployment,poddisruptionbudget,networkpolicy,serviceaccount", "--all-namespaces", *ours)
    # Namespaces themselves take seconds to go.
    for namespace in NAMESPACES:
        server.kubectl("delete", "secret,configmap,role,rolebinding", "--all", "--namespace", namespace)
