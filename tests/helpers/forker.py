"""A process that has imported the package, and forks others that run code. Run as a script.

It has opened no database itself, and so may fork. To start a Python that imports what these need takes much longer.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TextIO

import structchunk  # noqa: F401


class Forker:
    """The process, from outside."""

    def __init__(self) -> None:
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            command = [sys.executable, __file__, str(far.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[far.fileno()])

    def start(self, code: str, *arguments: str) -> TextIO:
        """Run code in a new process, which has the arguments in ``sys.argv``; return its input and output.

        The output ends when the process does.
        """
        mine, its = socket.socketpair()
        with mine, its:
            socket.send_fds(self._socket, [json.dumps([code, *arguments]).encode()], [its.fileno()])
            return mine.makefile("rw")

    def close(self) -> None:
        """End the process; not those that it has started."""
        self._socket.close()
        self._process.wait()


def kill(pid: int) -> None:
    """Kill a process that was started, and wait until it is gone, and its locks with it."""
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.001)


# ---------------------------------------------------------------------- inside


def serve(jobs: socket.socket) -> None:
    """Start processes until there is nothing more to run."""
    gc.freeze()  # else each of them looks through all that was imported, and so copies it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    while True:
        job, descriptors, _, _ = socket.recv_fds(jobs, 1 << 16, 1)
        if not job:
            return
        if not os.fork():
            run(*json.loads(job), descriptor=descriptors[0])
        os.close(descriptors[0])


def run(code: str, *arguments: str, descriptor: int) -> None:
    """Run code in this process, and leave."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for standard in (0, 1):
            os.dup2(descriptor, standard)
        os.close(descriptor)
        sys.argv[1:] = arguments
        exec(compile(code, "<code of a test>", "exec"), {"__name__": "__main__"})
        sys.stdout.flush()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
