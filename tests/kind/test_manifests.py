"""What is applied to kind's cluster, on a real API server."""

import json
import os
import re

import metrics_server
import own_image
import pytest
import yaml
from helm import render
from tools import HERE, ROOT

E2E = ROOT / "tests/e2e/manifests"
MINE = HERE / "metrics-server.yaml"
SUITE = (ROOT / "tests/e2e/src/cluster.rs").read_text()


def objects(path):
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def one(path, kind):
    (only,) = [document for document in objects(path) if document["kind"] == kind]
    return only


def test_metrics_server_is_its_own_release_with_our_settings(tmp_path):
    expected = metrics_server.made(tmp_path)
    if os.environ.get("UPDATE"):
        MINE.write_text(expected)
    assert MINE.read_text() == expected


def test_metrics_server_has_the_settings_of_the_tests_own_nodes():
    own = (ROOT / "tests/cluster/src/addons.rs").read_text()
    (container,) = one(MINE, "Deployment")["spec"]["template"]["spec"]["containers"]
    for flag in ("kubelet-request-timeout", "metric-resolution"):
        value = re.search(rf'"--{flag}", "([^"]+)"', own).group(1)
        assert f"--{flag}={value}" in container["args"]
        assert len([word for word in container["args"] if word.startswith(f"--{flag}=")]) == 1


def test_an_api_server_takes_every_object_of_metrics_server(server):
    said = server.kubectl("apply", "--server-side", "--validate=strict", "-f", MINE)
    assert len(said.splitlines()) == len(objects(MINE)) == 9


@pytest.mark.parametrize("path", [HERE / "clickhouse.yaml", E2E / "minio.yaml"], ids=lambda path: path.name)
def test_a_server_is_admitted_where_only_restricted_pods_are(server, path):
    namespace = f"try-{path.stem}"
    server.namespace(namespace, **{"pod-security.kubernetes.io/enforce": "restricted"})
    server.kubectl("apply", "--server-side", "--validate=strict", "-n", namespace, "-f", path)
    pod = one(path, "Deployment")["spec"]["template"]
    pod["metadata"]["name"] = "pod"
    pod = json.dumps({"apiVersion": "v1", "kind": "Pod", **pod})
    server.kubectl("create", "-n", namespace, "--dry-run=server", "-f", "-", input=pod)


def test_the_public_clickhouse_stands_where_the_tests_own_does():
    ours, theirs = E2E / "clickhouse.yaml", HERE / "clickhouse.yaml"
    assert [o for o in objects(ours) if o["kind"] != "Deployment"] == [o for o in objects(theirs) if o["kind"] != "Deployment"]
    ours, theirs = one(ours, "Deployment"), one(theirs, "Deployment")
    # What differs, and nothing else.
    for pod in (deployment["spec"]["template"]["spec"] for deployment in (ours, theirs)):
        (container,) = pod["containers"]
        container.pop("args", None)
        container.pop("env", None)
        container["volumeMounts"][0].pop("mountPath")
        for user in ("runAsUser", "runAsGroup", "fsGroup"):
            pod["securityContext"].pop(user, None)
    assert ours == theirs


def test_the_suite_puts_the_public_images_in_place_of_the_tests_own():
    for name in ("clickhouse", "minio"):
        (container,) = one(E2E / f"{name}.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"localhost/spillway/{name}:test"
    (container,) = one(HERE / "clickhouse.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "localhost/spillway/clickhouse:test"


def test_on_kind_the_chart_installs_what_it_installs_on_the_tests_own_nodes():
    """As tests/e2e installs it: name and tag of the image, and what is set besides."""
    assert '--set", &format!("image.repository={repository}")' in SUITE
    assert '--set", &format!("image.tag={tag}")' in SUITE
    own = own_image.name()
    kind = re.search(r"^image=(.*)$", (HERE / "e2e.sh").read_text(), re.M).group(1)
    rendered = {}
    for image in (own, kind):
        repository, tag = image.rsplit(":", 1)
        rendered[image] = render({"image": {"repository": repository, "tag": tag}, "cleanupTimeout": "90s"}).text
    assert own in rendered[own] and kind in rendered[kind] and own != kind
    assert rendered[own].replace(own, kind) == rendered[kind]
