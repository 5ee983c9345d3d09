"""A real API server with etcd and the few controllers that the chart's objects need, on loopback."""

import base64
import ctypes
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path

from helm import CHART, helm, tool

# Those who view and edit get the chart's rights by aggregation; deletions of namespaces and owners take effect.
CONTROLLERS = "clusterrole-aggregation-controller,namespace-controller,garbage-collector-controller,serviceaccount-controller"


class Cluster:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.token = secrets.token_hex(16)
        self.processes = []
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self):
        etcd, peers, api = free_port(), free_port(), free_port()
        keys = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", keys, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        self._background(
            "etcd",
            "--log-level=warn",
            "--unsafe-no-fsync",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{etcd}",
            f"--advertise-client-urls=http://127.0.0.1:{etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
            f"--initial-cluster=default=http://127.0.0.1:{peers}",
        )
        certificates = self.folder / "certificates"
        self._background(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--secure-port={api}",
            f"--cert-dir={certificates}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            # On OpenShift it is on: owning an object then asks for the owner's subresource `finalizers`.
            "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={keys}",
            f"--service-account-key-file={keys}",
            "--service-cluster-ip-range=10.0.0.0/16",
        )
        certificate = certificates / "apiserver.crt"
        wait("the API server's certificate", certificate.exists, self)
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._kubeconfig(api, certificate.read_bytes())))
        wait("the API server", lambda: self._kubectl("get", "--raw", "/readyz").returncode == 0, self)
        self._background(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={CONTROLLERS}",
            "--secure-port=0",
            "--leader-elect=false",
        )

    def _kubeconfig(self, port, certificate):
        ca = base64.b64encode(certificate).decode()
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "c", "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": ca}}
            ],
            "users": [{"name": "u", "user": {"token": self.token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }

    def _background(self, part, *arguments):
        log = (self.folder / f"{part}.log").open("w")
        self.processes.append(
            subprocess.Popen(
                [tool("kubernetes"), part, *arguments], stdout=log, stderr=log, preexec_fn=end_with_the_parent
            )
        )

    def _kubectl(self, *arguments, input=None):
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.folder)}
        command = [tool("kubernetes"), "kubectl", *map(str, arguments)]
        return subprocess.run(command, input=input, text=True, capture_output=True, env=environment)

    def log(self, process):
        return (self.folder / f"{process.args[1]}.log").read_text()[-3000:]

    def stop(self):
        for process in reversed(self.processes):
            process.kill()
            process.wait()

    def kubectl(self, *arguments, input=None):
        done = self._kubectl(*arguments, input=input)
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def refuses(self, *arguments, input=None):
        """Why the server refuses it."""
        done = self._kubectl(*arguments, input=input)
        assert done.returncode != 0, f"kubectl {arguments} went through: {done.stdout}"
        return done.stderr

    def get(self, *arguments):
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def there(self, *arguments):
        return bool(self.kubectl("get", *arguments, "--ignore-not-found", "--output=name"))

    def helm(self, *arguments, input=None):
        done = self.try_helm(*arguments, input=input)
        assert done.returncode == 0, f"helm {arguments}: {done.stderr}"
        return done.stdout

    def try_helm(self, *arguments, input=None):
        home = {f"HELM_{name}_HOME": str(self.folder / "helm") for name in ("CACHE", "CONFIG", "DATA")}
        return helm(*arguments, input=input, environment={"KUBECONFIG": str(self.kubeconfig), **home})

    def install(self, *arguments, release="spillway", namespace="spillway-system", chart=CHART):
        return self.helm("upgrade", "--install", release, chart, "--namespace", namespace, "--create-namespace", *arguments)

    def namespace(self, name, **labels):
        made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        self.kubectl("apply", "-f", "-", input=json.dumps(made))

    def may(self, user, questions):
        """Whether `user` may do each of `questions`: (verb, group, resource, namespace, name)."""
        reviews = [json.dumps(review(user, *question)) for question in questions]
        allowed = "--output=jsonpath={.status.allowed}{' '}"
        answers = self.kubectl("create", "-f", "-", allowed, input="\n---\n".join(reviews)).split()
        assert len(answers) == len(questions)
        return [answer == "true" for answer in answers]


def review(user, verb, group, resource, namespace="", name=""):
    resource, _, subresource = resource.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace,
        "name": name,
    }
    groups = ["system:authenticated"]
    if user.startswith("system:serviceaccount:"):
        groups += ["system:serviceaccounts", "system:serviceaccounts:" + user.split(":")[2]]
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }


def wait(what, happened, cluster, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        for process in cluster.processes:
            assert process.poll() is None, f"waiting for {what}: ended at once\n{cluster.log(process)}"
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.1)


PORTS = itertools.count(os.getpid() * 131)


def free_port():
    """As tests/src/child.rs: below the range from which the system takes the ports of outgoing connections."""
    while True:
        port = 20_000 + next(PORTS) % 12_000
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def end_with_the_parent():
    """A test run that is killed leaves no servers behind."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
