"""A real Kubernetes API server with its etcd, started by tests where both programs are at hand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.backends.node import make_certificate

TOKENS = {"admin": "system:masters", "viewer": "viewers", "stranger": ""}
"""Users, each with a token of the same name, and their groups."""


def program(name: str) -> str:
    """Return the path of a program of Kubernetes, from SWEEPER_KUBE_BIN or PATH; skip the test without it."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("SWEEPER_KUBE_BIN", ""), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not here: name the folder of kube-apiserver and etcd in SWEEPER_KUBE_BIN")
    return found


class ApiServer:
    """A running API server, with RBAC and without nodes or controllers."""

    def __init__(self, folder: Path) -> None:
        etcd, apiserver = program("etcd"), program("kube-apiserver")
        self._folder = folder
        client, peer, self.port = free_ports(3)
        make_certificate(folder)
        (folder / "tokens.csv").write_text(
            "".join(f'{name},{name},{name},"{group}"\n' for name, group in TOKENS.items())
        )
        urls = [f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"]
        self._processes = [
            self._start(
                etcd,
                f"--data-dir={folder}/etcd",
                f"--listen-client-urls={urls[0]}",
                f"--advertise-client-urls={urls[0]}",
                f"--listen-peer-urls={urls[1]}",
                f"--initial-advertise-peer-urls={urls[1]}",
                f"--initial-cluster=default={urls[1]}",
            ),
            self._start(
                apiserver,
                f"--etcd-servers={urls[0]}",
                f"--secure-port={self.port}",
                f"--cert-dir={folder}/certificates",
                f"--token-auth-file={folder}/tokens.csv",
                "--authorization-mode=RBAC",
                "--bind-address=127.0.0.1",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--service-account-issuer=https://tests",
                f"--service-account-key-file={folder}/key.pem",
                f"--service-account-signing-key-file={folder}/key.pem",
                "--disable-admission-plugins=ServiceAccount",
            ),
        ]
        self._wait()

    def kubeconfig(self, user: str, port: int | None = None, token: str | None = None) -> str:
        """Return the path of a kubeconfig for a user."""
        certificate = str(self._folder / "certificates" / "apiserver.crt")  # the server makes it, signed by itself
        server = {"server": f"https://127.0.0.1:{port or self.port}", "certificate-authority": certificate}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": server}],
            "users": [{"name": user, "user": {"token": token or user}}],
            "contexts": [{"name": "lab", "context": {"cluster": "tests", "user": user}}],
            "current-context": "lab",
        }
        file = self._folder / f"{user}-{port}-{token}.kubeconfig"
        file.write_text(json.dumps(config))
        return str(file)

    def client(self) -> Any:
        from kubernetes import config

        return config.new_client_from_config(self.kubeconfig("admin"))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.kill()  # nothing of it is kept
            process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{Path(command[0]).name}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _wait(self) -> None:
        from kubernetes.client import CoreV1Api

        deadline = time.monotonic() + 60
        while True:
            try:
                CoreV1Api(self.client()).read_namespace("default", _request_timeout=5)
                return
            except Exception as error:
                if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                    log = (self._folder / "kube-apiserver.log").read_text()[-2000:]
                    self.stop()
                    raise AssertionError(f"the API server did not start: {error}\n{log}") from error
                time.sleep(0.5)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports
