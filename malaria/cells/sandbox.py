"""Decode images in separate processes, which can be killed and never hold another client's images."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import numpy.typing as npt

from malaria.cells.decoding import Limits, Unreadable
from malaria.cells.fork_server import ORDER
from malaria.errors import UnavailableError

# What the fork server runs. Pillow imports `logging` and `subprocess`, and decodes without either. They bring
# `threading`, whose work after each fork takes a third of the fork's time.
_CODE = """'malaria.cells.fork_server'
import socket, sys
class Silent:
    def __getattr__(self, _): return self
    def __call__(self, *_, **__): return self
sys.modules['logging'] = sys.modules['subprocess'] = Silent()
sys.path[:] = {path!r}
from malaria.cells import fork_server
fork_server.serve(socket.socket(fileno={control}))
"""
_POLL_SECONDS = 0.1  # between two checks whether the client still waits for the answer
_MAX_HEADER_BYTES = 2**16


@dataclass(frozen=True)
class Bounds:
    """Limits on decoding.

    seconds: processor time for one picture, in s. total: processor time for one process, in s; 0: no limit.
    memory: in MB. wait: wall-clock time for one picture, in s; 0: no limit.
    """

    seconds: int
    total: int
    memory: int
    wait: int


# No limit on wall-clock time: a busy machine may be slow.
TRUSTED = Bounds(seconds=60, total=0, memory=4096, wait=0)
UPLOADED = Bounds(seconds=5, total=60, memory=1024, wait=30)


class DecoderEnded(Exception):  # noqa: N818 - a finding about a file, not a fault of the program
    """The process that decoded a file ended: it reached a limit, was killed, or the decoder crashed."""


@dataclass(frozen=True)
class Crop:
    """A decoded image.

    pixels: uint8 (height, width, 3), RGB. notes: on how it was read. pages, bits: as in decoding.Decoded.
    """

    pixels: npt.NDArray[np.uint8]
    notes: tuple[str, ...] = ()
    pages: int = 1
    bits: int = 0

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


class Decoder:
    """Decode in a process of its own. After a process has ended, the next call forks another.

    Args:
        limits: on cell crops.
        bounds: on time and memory.
        ahead: how many more processes to fork in advance, for later decoders with the same arguments.
    """

    def __init__(self, limits: Limits, bounds: Bounds = TRUSTED, ahead: int = 0) -> None:
        numbers = (limits.min_side, limits.max_pixels, limits.bits, *vars(bounds).values())
        self._order = ORDER.pack(*(min(number, 2**32 - 1) for number in numbers))
        self._most_bytes = 3 * limits.max_pixels + _MAX_HEADER_BYTES
        self._ahead = ahead
        self._connection: Connection | None = None
        self._pid = self._parent_pid = 0

    def read(self, content: bytes, gone: Callable[[], bool] | None = None) -> Crop:
        """Decode a file. If `gone` returns True, the client has left, and the process is killed.

        Raises:
            Unreadable: as `decoding.decode`.
            DecoderEnded: the process ended, or was killed.
            UnavailableError: the system starts no process.
        """
        # After os.fork() the child must not reuse its parent's connection: each would read the other's
        # answers.
        if self._connection is None or self._parent_pid != os.getpid():
            self._connection = self._start()
        try:
            self._connection.send_bytes(content)
            while not self._connection.poll(_POLL_SECONDS if gone else None):
                if gone and gone():
                    os.kill(self._pid, signal.SIGKILL)
            header, _, pixels = self._connection.recv_bytes(self._most_bytes).partition(b"\n")
            # A hostile file may control the process, so nothing in its answer is trusted.
            answer = json.loads(header)
            if "reason" in answer:
                sides = (None if answer[side] is None else int(answer[side]) for side in ("width", "height"))
                raise Unreadable(str(answer["reason"]), *sides)
            width, height = map(int, answer["size"])
            if not pixels:
                raise ValueError("there are no pixels")
            notes, pages, bits = tuple(map(str, answer["notes"])), int(answer["pages"]), int(answer["bits"])
            return Crop(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), notes, pages, bits)
        except (OSError, EOFError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            self.close()
            raise DecoderEnded from None

    def _start(self) -> Connection:
        self.close()
        self._parent_pid = os.getpid()
        try:
            connection = _fork_server.fork(self._order, self._ahead)
            self._pid = int(connection.recv_bytes(_MAX_HEADER_BYTES))
        except (OSError, EOFError) as error:
            raise UnavailableError(
                f"No process that decodes pictures can be started ({str(error) or 'it ended at once'}): "
                "allow more processes and open files (ulimit -u and -n), or close other programs."
            ) from None
        return connection

    def close(self) -> None:
        """Close the connection, which ends the process."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _ForkServer:
    """The process from which all decoding processes are forked; started when needed, ended with this one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start anew, also after os.fork(): the server and its connections belong to the parent."""
        self._lock = threading.Lock()
        self._ready: dict[bytes, deque[Connection]] = defaultdict(deque)
        self._control: socket.socket | None = None

    def fork(self, order: bytes, ahead: int) -> Connection:
        with self._lock:
            ready = self._ready[order]
            while len(ready) <= ahead:
                ready.append(self._fork(order))
            return ready.popleft()

    def _fork(self, order: bytes) -> Connection:
        parent_end, fork_end = socket.socketpair()
        with fork_end:
            try:
                socket.send_fds(self._control or self._start(), [order], [fork_end.fileno()])
            except BrokenPipeError:
                socket.send_fds(self._start(), [order], [fork_end.fileno()])
        return Connection(parent_end.detach())

    def _start(self) -> socket.socket:
        self.end()
        control, server_end = socket.socketpair()
        with server_end:
            path = [folder or os.getcwd() for folder in sys.path]
            code = _CODE.format(path=path, control=server_end.fileno())
            # Without `site` and most of the environment: each further module makes every fork slower.
            libraries = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code],
                pass_fds=[server_end.fileno()],
                stdin=subprocess.DEVNULL,
                env={name: os.environ[name] for name in libraries if name in os.environ},
            )
        self._control = control
        return control

    def end(self) -> None:
        self._ready.clear()
        if self._control is not None:
            self._control.close()
            self._control = None
            self._process.wait()


_fork_server = _ForkServer()
atexit.register(_fork_server.end)
os.register_at_fork(after_in_child=_fork_server.reset)
