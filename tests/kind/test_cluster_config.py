"""kind, its own binary, reads the configuration and says to a Docker that isn't there what it would have done."""

import re

import pytest
import yaml
from fakes import Fakes
from tools import HERE, ROOT, path

CONFIG = HERE / "kind-config.yaml"


def create(fakes, config=CONFIG):
    kubeconfig = fakes.folder / "kubeconfig"
    arguments = ("--name", "tried", "--config", config, "--kubeconfig", kubeconfig, "--wait", "5s")
    return fakes.run(path(), "kind", "create", "cluster", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All that was asked of Docker for the configuration as it is."""
    fakes = Fakes(tmp_path_factory.mktemp("made"))
    done = create(fakes)
    assert done.returncode == 0, done.stderr
    return fakes


def nodes(fakes):
    """Name -> command line."""
    return {call["arguments"][call["arguments"].index("--name") + 1]: call["arguments"] for call in fakes.calls("docker", "run")}


def kubeadm(fakes, node):
    """Kind -> what kind gives kubeadm on this node."""
    written = [call for call in fakes.calls("docker", "exec", node) if call["arguments"][-1] == "/kind/kubeadm.conf"]
    return {document["kind"]: document for document in yaml.safe_load_all(written[0]["input"]) if document}


def test_kind_makes_a_control_plane_and_two_workers_of_it(made):
    roles = {name: [word for word in line if word.startswith("io.x-k8s.kind.role=")] for name, line in nodes(made).items()}
    assert roles == {
        "tried-control-plane": ["io.x-k8s.kind.role=control-plane"],
        "tried-worker": ["io.x-k8s.kind.role=worker"],
        "tried-worker2": ["io.x-k8s.kind.role=worker"],
    }
    (image,) = {line[-1] for line in nodes(made).values()}
    assert re.fullmatch(r"kindest/node:v[\d.]+@sha256:[0-9a-f]{64}", image)


def test_a_port_of_the_host_leads_into_the_cluster_and_from_nowhere_else(made):
    published = [word for line in nodes(made).values() for word in line if word.startswith("--publish=")]
    assert "--publish=127.0.0.1:30080:30080/TCP" in published
    assert all(word.startswith("--publish=127.0.0.1:") for word in published)


def test_the_workers_are_in_two_zones(made):
    zones = [
        kubeadm(made, node)["JoinConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]["node-labels"]
        for node in ("tried-worker", "tried-worker2")
    ]
    assert zones == [f"topology.kubernetes.io/zone=zone{n}" for n in (0, 1)]


@pytest.mark.parametrize("flag", ["horizontal-pod-autoscaler-sync-period", "node-monitor-grace-period"])
def test_the_controllers_are_as_quick_as_on_the_tests_own_nodes(made, flag):
    there = kubeadm(made, "tried-control-plane")["ClusterConfiguration"]["controllerManager"]["extraArgs"][flag]
    own = (ROOT / "tests/cluster/src/control_plane.rs").read_text()
    assert re.search(rf'"--{flag}", "([^"]+)"', own).group(1) == there


def test_it_is_the_kubernetes_that_the_tests_build():
    images = {node["image"] for node in yaml.safe_load(CONFIG.read_text())["nodes"]}
    pinned = (ROOT / "tests/tools/kubernetes/go.mod").read_text()
    minor = re.search(r"^\s*k8s.io/kubernetes v(1\.\d+)\.", pinned, re.M).group(1)
    assert [image for image in images if not image.startswith(f"kindest/node:v{minor}.")] == []


@pytest.mark.parametrize(
    "mistake, why",
    [
        (("role: worker", "rolle: worker"), 'field rolle not found'),
        (("role: worker", "role: labourer"), '"labourer" is not a valid node role'),
        (("hostPort: 30080", "hostPort: 300800"), "invalid hostPort"),
        (("controllerManager:", "controllerManager: ["), "yaml"),
    ],
)
def test_kind_refuses_a_mistake_in_it(fakes, mistake, why):
    """Else the other tests would show nothing."""
    config = fakes.folder / "config.yaml"
    config.write_text(CONFIG.read_text().replace(*mistake))
    done = create(fakes, config)
    assert done.returncode != 0 and why in done.stderr, done.stderr
