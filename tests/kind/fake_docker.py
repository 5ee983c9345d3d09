"""What kind asks Docker, and answers as from a Docker in which all goes well."""

import json
from pathlib import Path

INFO = {"CgroupDriver": "systemd", "CgroupVersion": "2", "MemoryLimit": True, "PidsLimit": True, "CPUShares": True}
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "kind", "cluster": {"server": "https://control-plane:6443"}}],
    "users": [{"name": "kubernetes-admin", "user": {"token": "secret"}}],
    "contexts": [{"name": "kubernetes-admin@kind", "context": {"cluster": "kind", "user": "kubernetes-admin"}}],
    "current-context": "kubernetes-admin@kind",
}
CONTAINERD = """version = 3
[plugins.'io.containerd.cri.v1.images']
snapshotter = 'overlayfs'
"""


def option(arguments, name):
    return next((b for a, b in zip(arguments, arguments[1:]) if a == name), None)


def labels(arguments):
    return dict(b.split("=", 1) for a, b in zip(arguments, arguments[1:]) if a == "--label")


def nodes(before):
    """Name -> labels of the containers that were started and not deleted."""
    there = {}
    for arguments in (call["arguments"] for call in before if call["program"] == "docker"):
        if arguments[:1] == ["run"]:
            there[option(arguments, "--name")] = labels(arguments)
        if arguments[:1] == ["rm"]:
            there = {name: of for name, of in there.items() if name not in arguments}
    return there


def answer(arguments, before):
    first, text = arguments[0], " ".join(arguments)
    if first == "-v":
        return "Docker version 29.0.0, build 0\n"
    if first == "info":
        return json.dumps(INFO) + "\n"
    if first == "ps":
        return "".join(f"{name}\n" for name in nodes(before))
    if first == "network" and arguments[1] == "ls":
        return "kind\n"
    if first == "logs":
        return "Reached target multi-user.target - Multi-User System.\n"
    if first == "create":
        return "a-container\n"
    if first == "save":
        Path(option(arguments, "-o")).write_text("archive")
    if first in ("inspect", "image"):
        return inspected(text, arguments[-1], before)
    if first == "port":
        return "127.0.0.1:40000\n"
    if first == "exec":
        return inside(text)
    return ""


def inspected(text, name, before):
    if "io.x-k8s.kind.role" in text:
        return nodes(before)[name]["io.x-k8s.kind.role"] + "\n"
    if "IPAddress" in text:
        return "172.18.0.2,\n"
    if ".NetworkSettings.Ports" in text:
        return "127.0.0.1\t40000\n"
    if ".Id" in text:
        return "sha256:0\n"
    return "\n"


def inside(text):
    if text.endswith("cat /kind/version"):
        return "v1.34.11\n"
    if text.endswith("cat /etc/kubernetes/admin.conf"):
        return json.dumps(KUBECONFIG)
    if text.endswith("containerd config dump"):
        return CONTAINERD
    if text.endswith("crictl inspecti " + text.split()[-1]):
        return '{"status": {"id": "", "repoTags": []}}'
    if "get nodes" in text:
        return "'True True True'\n"
    return ""
