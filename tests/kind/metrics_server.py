"""metrics-server.yaml: what its Go module ships, with the settings of the tests' clusters."""

import json
import subprocess

from helm import tool

VERSION = "v0.9.0"
HEADER = f"""\
# metrics-server {VERSION} for kind, made from the manifests of its Go module: UPDATE=1 pytest tests/kind/test_manifests.py
"""
# kind's kubelets sign their own certificates. The others are tests/cluster's: the first must be below the second.
SETTINGS = ["--kubelet-insecure-tls", "--kubelet-request-timeout=5s", "--metric-resolution=10s"]


def module():
    """The folder of the module, fetched if need be; its checksum is what Go's own database has for it."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"sigs.k8s.io/metrics-server@{VERSION}"],
        text=True,
        capture_output=True,
        # In no module: nothing there is changed.
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["Dir"]


def made(folder):
    """`kubectl kustomize` of the module's release and of the settings."""
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args/4", "value": SETTINGS[2]}]
    patch += [{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": setting} for setting in SETTINGS[:2]]
    # Else it would replace another argument without a word.
    patch.insert(0, {"op": "test", "path": "/spec/template/spec/containers/0/args/4", "value": "--metric-resolution=15s"})
    # Quicker to notice that it is ready; it has to wait for two scrapes as it is.
    patch.append({"op": "replace", "path": "/spec/template/spec/containers/0/readinessProbe/periodSeconds", "value": 2})
    (folder / "release").symlink_to(f"{module()}/manifests")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["release/overlays/release"],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    done = subprocess.run([tool("kubernetes"), "kubectl", "kustomize", folder], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return HEADER + done.stdout
