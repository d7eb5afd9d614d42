"""A control plane without nodes: etcd, kube-apiserver and Kubernetes's garbage collector, on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.k8s.network import free_ports

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "openssl")

GROUPS = {"admin": "system:masters", "someone": "sweeper-users", "viewer": "viewers", "stranger": ""}
"""Users, each with its name as its token, and their groups."""

START_TIMEOUT_S = 120

_UNTIL_STDIN_ENDS = 'exec 3<&0; "$@" & program=$!; { read end <&3; kill -9 $program; } & wait $program'
"""Runs a program until it ends, or until the process that holds the other end of stdin ends, by whatever means."""


def missing_programs() -> list[str]:
    """Return the programs of a control plane that are neither in SWEEPER_KUBE_BIN nor in PATH."""
    return [name for name in PROGRAMS if _path_of(name) is None]


class ControlPlane:
    """A control plane that runs for the time of a `with` block, or until this process is killed.

    Args:
        folder: gets its files and logs.
        crds: CustomResourceDefinitions to load.
    """

    def __init__(self, folder: Path, crds: Sequence[dict[str, Any]] = ()) -> None:
        self._folder, self._crds = folder, crds
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ControlPlane:
        self._folder.mkdir(exist_ok=True)
        self._write_settings()
        try:
            self._start_etcd()
            self._start_api_server("kube-apiserver", self.port)
            for crd in self._crds:
                self.define(crd)
            self._start_garbage_collector()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    @property
    def certificate(self) -> Path:
        """Return the certificate of 127.0.0.1; beside it is its key."""
        return self._folder / "cert.pem"

    def kubeconfig(self, user: str = "admin", *, port: int | None = None, token: str | None = None) -> Path:
        """Write a kubeconfig for a user, and return its path.

        Args:
            port: that of another server or of a proxy.
            token: another one than the user's.
        """
        server = f"https://127.0.0.1:{port or self.port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": "cert.pem"}}],
            "users": [{"name": user, "user": {"token": token or user}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
            "current-context": "tests",
        }
        path = self._folder / f"{user}-{port or self.port}-{token or user}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def client(self, port: int | None = None) -> Any:
        """Return a client with all rights."""
        from kubernetes import config

        return config.new_client_from_config(str(self.kubeconfig(port=port)))

    def add_empty_api_server(self) -> int:
        """Start a second API server, whose cluster has no CustomResourceDefinitions and is empty; return its port."""
        (port,) = free_ports(1)
        self._start_api_server("empty", port)
        return port

    def requests_of(self, user: str) -> list[dict[str, Any]]:
        """Return the requests of a user so far, the oldest first, as the API server's audit log has them."""
        log = self._folder / "kube-apiserver.audit"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["user"].get("username") == user]

    def _write_settings(self) -> None:
        rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}
        (self._folder / "audit.yaml").write_text(json.dumps(policy))
        tokens = (f'{name},{name},{name},"{group}"\n' for name, group in GROUPS.items())
        (self._folder / "tokens.csv").write_text("".join(tokens))
        names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run([*command, *names], cwd=self._folder, check=True, capture_output=True)

    def _start_etcd(self) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        options = [f"--listen-client-urls={client}", f"--advertise-client-urls={client}", "--unsafe-no-fsync"]
        options += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
        self._start("etcd", "etcd", "--data-dir=etcd", f"--initial-cluster=default={peer}", *options)

    def _start_api_server(self, prefix: str, port: int) -> None:
        options = [f"--etcd-servers=http://127.0.0.1:{self._etcd_port}", f"--etcd-prefix=/{prefix}"]
        options += ["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", f"--secure-port={port}"]
        options += ["--tls-cert-file=cert.pem", "--tls-private-key-file=key.pem", "--token-auth-file=tokens.csv"]
        options += ["--service-account-key-file=key.pem", "--service-account-signing-key-file=key.pem"]
        options += ["--service-account-issuer=https://tests", "--authorization-mode=RBAC"]
        options += ["--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none"]
        # As on many clusters, whoever makes an object own another needs the right to block the deletion of the owner.
        options += ["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]
        options += ["--disable-admission-plugins=ServiceAccount"]  # nothing creates the accounts of pods here
        options += ["--audit-policy-file=audit.yaml", f"--audit-log-path={prefix}.audit"]
        self._start(prefix, "kube-apiserver", *options)
        self._wait(prefix, port)

    def _start_garbage_collector(self) -> None:
        """Start the garbage collector; it learns new kinds late, so all of them must have been defined."""
        options = ["--controllers=garbage-collector-controller", "--leader-elect=false", "--secure-port=0"]
        self._start("controllers", "kube-controller-manager", f"--kubeconfig={self.kubeconfig()}", *options)

    def _start(self, name: str, program: str, *options: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                ["sh", "-c", _UNTIL_STDIN_ENDS, "sh", str(_path_of(program)), *options],
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _wait(self, name: str, port: int) -> None:
        """Wait until an API server is ready."""
        from kubernetes.client import RbacAuthorizationV1Api
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        roles = RbacAuthorizationV1Api(self.client(port))
        roles.api_client.configuration.retries = False
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                # It creates its own roles last; users can do nothing before.
                roles.read_cluster_role_binding("system:basic-user", _request_timeout=5)
                return
            except (ApiException, HTTPError) as error:
                ended = [name for name, process in self._processes.items() if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    log = (self._folder / f"{(ended or [name])[0]}.log").read_text()[-2000:]
                    raise RuntimeError(f"no control plane: {ended or 'none'} ended, {error}\n{log}") from error
            time.sleep(0.1)

    def define(self, crd: dict[str, Any], *, port: int | None = None) -> None:
        """Load a CustomResourceDefinition and wait until it is served."""
        from kubernetes.client import CustomObjectsApi

        # The client's classes for definitions take seconds for one of a megabyte.
        objects, kind = CustomObjectsApi(self.client(port)), ("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        name = crd["metadata"]["name"]
        objects.create_cluster_custom_object(*kind, crd)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            status = objects.get_cluster_custom_object(*kind, name).get("status", {})
            if any(
                item["type"] == "Established" for item in status.get("conditions") or [] if item["status"] == "True"
            ):
                return
            assert time.monotonic() < deadline, f"{name} is not established"
            time.sleep(0.1)


def _path_of(program: str) -> str | None:
    places = [os.environ.get("SWEEPER_KUBE_BIN"), os.environ.get("PATH", os.defpath)]
    return shutil.which(program, path=os.pathsep.join(filter(None, places)))
