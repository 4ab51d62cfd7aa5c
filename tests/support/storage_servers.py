"""Stores for DVC's remotes, as servers on this machine: an S3 API over HTTP, and OpenSSH's sftp."""

import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import requests

# No settings of the user's own, and no requests to a cloud's metadata address.
HERMETIC = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "SSH_AUTH_SOCK": "",
}


class Store(Protocol):
    """A running server and what it holds.

    options: settings of the remote, for `dvc remote modify`. wrong: the same with credentials that fail.
    """

    url: str
    options: dict[str, str]
    wrong: dict[str, str]

    def objects(self) -> dict[str, int]:
        """Sizes in bytes, by name below the remote's folder."""

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def at_upload(self, number: int, call: Callable[[], None]) -> None:
        """Call `call` once, when the `number`th upload from now on begins."""

    def stop(self) -> None: ...

    def start(self) -> None:
        """Serve, or serve again at the same address, with the objects that were there before."""

    def close(self) -> None:
        """Stop for good."""


@dataclass
class _Countdown:
    remaining: int = 0
    call: Callable[[], None] = lambda: None

    def tick(self) -> None:
        self.remaining -= 1
        if self.remaining == 0:
            self.call()


@dataclass
class S3:
    """Moto's server, which checks the credentials of each request."""

    url: str = "s3://team/results"
    options: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    port: int = 0
    uploads: _Countdown = field(default_factory=_Countdown)

    def start(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        class Quiet(MotoRequestHandler):
            def log(self, *arguments: Any) -> None:
                """Say nothing."""

        application = DomainDispatcherApplication(create_backend_app)

        def counting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            if environ["REQUEST_METHOD"] == "PUT":
                self.uploads.tick()
            answer: Iterable[bytes] = application(environ, start_response)
            return answer

        self._server = make_server("127.0.0.1", self.port, counting, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        if not self.port:
            self.port = self._server.server_port
            self._set_up()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def close(self) -> None:
        # Moto keeps its state in this process, where other tests use it too.
        for path, content in (("reset", b""), ("reset-auth", b"inf")):
            requests.post(f"http://127.0.0.1:{self.port}/moto-api/{path}", data=content, timeout=10)
        self.stop()

    def objects(self) -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="team", Prefix="results/")
        objects = [item for page in pages for item in page.get("Contents", [])]
        return {item["Key"].removeprefix("results/"): item["Size"] for item in objects}

    def read(self, name: str) -> bytes:
        content: bytes = self._client.get_object(Bucket="team", Key=f"results/{name}")["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket="team", Key=f"results/{name}", Body=content)

    def at_upload(self, number: int, call: Callable[[], None]) -> None:
        self.uploads = _Countdown(number, call)

    def _set_up(self) -> None:
        import boto3

        endpoint = f"http://127.0.0.1:{self.port}"

        def client(service: str, key: str, secret: str) -> Any:
            return boto3.client(
                service,
                endpoint_url=endpoint,
                region_name="us-east-1",
                aws_access_key_id=key,
                aws_secret_access_key=secret,
            )

        # Moto accepts all credentials until the first `reset-auth`.
        iam = client("iam", "anybody", "anything")
        iam.create_user(UserName="dvc")
        policy = (
            '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        )
        iam.put_user_policy(UserName="dvc", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="dvc")["AccessKey"]
        self._client = client("s3", key["AccessKeyId"], key["SecretAccessKey"])
        self._client.create_bucket(Bucket="team")
        assert requests.post(f"{endpoint}/moto-api/reset-auth", data=b"0", timeout=10).status_code == 200
        self.options = {
            "endpointurl": endpoint,
            "access_key_id": key["AccessKeyId"],
            "secret_access_key": key["SecretAccessKey"],
        }
        self.wrong = {**self.options, "secret_access_key": "of-somebody-else"}


@dataclass
class Ssh:
    """OpenSSH's server for one key and one folder of this machine."""

    home: Path
    options: dict[str, str] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    port: int = 0
    uploads: _Countdown = field(default_factory=_Countdown)

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.folder}"

    @property
    def folder(self) -> Path:
        return self.home / "results"

    def start(self) -> None:
        if not self.port:
            self._set_up()
        command = [
            "/usr/sbin/sshd",
            "-D",
            "-E",
            str(self.home / "log"),
            "-f",
            str(self.home / "sshd_config"),
        ]
        self._server = subprocess.Popen(command)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        assert self._ready.wait(30), "sshd does not start"

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(30)
        with (self.home / "log").open("w") as log:
            log.write("stopped\n")
        self._thread.join()

    def close(self) -> None:
        self.stop()

    def objects(self) -> dict[str, int]:
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in paths}

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def at_upload(self, number: int, call: Callable[[], None]) -> None:
        self.uploads = _Countdown(number, call)

    def _listen(self) -> None:
        # Opened for writing too, so that the pipe does not end when a server that writes to it stops.
        with open(os.open(self.home / "log", os.O_RDWR), encoding="utf-8", errors="replace") as log:
            for line in log:
                if "Server listening" in line:
                    self._ready.set()
                if "WRITE" in line and line.startswith("open "):
                    self.uploads.tick()
                if line == "stopped\n":
                    return

    def _set_up(self) -> None:
        for name in ("host", "key", "other"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.home / name)]
            subprocess.run(command, check=True)
        os.mkfifo(self.home / "log")
        shutil.copy(self.home / "key.pub", self.home / "authorized_keys")
        if os.getuid() == 0:
            # Debian makes this folder when its own service starts, which may not have happened.
            Path("/run/sshd").mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        lines = (
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.home / 'host'}",
            f"AuthorizedKeysFile {self.home / 'authorized_keys'}",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            # The user's shell runs this line. The log would go to the client; this sends it to the test.
            f"Subsystem sftp /usr/lib/openssh/sftp-server -e -l INFO 2>>{self.home / 'log'}",
        )
        (self.home / "sshd_config").write_text("\n".join(lines) + "\n")
        self.options = {"keyfile": str(self.home / "key")}
        self.wrong = {"keyfile": str(self.home / "other")}


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    """Run the store while the block runs."""
    store.start()
    try:
        yield store
    finally:
        store.close()
