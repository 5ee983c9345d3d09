"""What is generated is up to date. `UPDATE=1` writes it anew."""

import os

import pytest
import yaml
from generated import described, files, workspace_version
from helm import CHART, ROOT, render

EXPECTED = files()


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_generated_file_is_what_its_source_makes(path):
    if os.environ.get("UPDATE"):
        path.write_text(EXPECTED[path]())
    assert path.exists() and path.read_text() == EXPECTED[path](), f"{path} is out of date: make crd"


def test_the_chart_has_the_version_of_the_programs():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == workspace_version()


def test_the_crd_of_the_chart_is_the_generated_one_kept_and_labelled():
    (made,) = yaml.safe_load_all((ROOT / "crds/logpipelines.yaml").read_text())
    installed = render().one("CustomResourceDefinition")
    assert installed["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert installed["metadata"].pop("labels")["app.kubernetes.io/managed-by"] == "Helm"
    assert installed == made


def test_every_value_is_described():
    def leaves(values, path=()):
        for key, value in values.items():
            here = (*path, key)
            if here in documented or not isinstance(value, dict):
                yield here
            else:
                yield from leaves(value, here)

    text = (CHART / "values.yaml").read_text()
    documented = [tuple(path.split(".")) for path, _, _ in described(text)]
    assert list(leaves(yaml.safe_load(text))) == documented


@pytest.mark.parametrize("file", ["spillway.yaml", "namespaced.yaml"])
def test_deleting_the_plain_yaml_deletes_no_pipeline(file):
    objects = list(yaml.safe_load_all((ROOT / "deploy" / file).read_text()))
    kinds = {o["kind"] for o in objects}
    assert "Deployment" in kinds
    assert not kinds & {"CustomResourceDefinition", "Namespace", "LogPipeline"}


def test_the_namespaced_yaml_needs_nothing_cluster_wide():
    objects = list(yaml.safe_load_all((ROOT / "deploy/namespaced.yaml").read_text()))
    assert {o["metadata"].get("namespace") for o in objects} == {"logging"}


def test_the_plain_yaml_does_not_claim_to_be_helms():
    for file in ("spillway.yaml", "namespaced.yaml"):
        assert "helm.sh" not in (ROOT / "deploy" / file).read_text()
        assert "managed-by: Helm" not in (ROOT / "deploy" / file).read_text()
