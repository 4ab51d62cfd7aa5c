"""The process from which `sandbox` forks its decoding processes, one for each Decoder.

It decodes no client's picture itself, so that uninitialised memory of a fork cannot show one. `sandbox`
starts it, and sends it the limits of each fork over a socket. multiprocessing's forkserver does the same,
but takes three times the processor time for a fork.
"""

import gc
import io
import json
import os
import resource
import signal
import socket
import struct
import time
from contextlib import suppress

from PIL import Image

from malaria.cells import decoding

# The order for one fork: the numbers of `decoding.Limits`, and those of `sandbox.Bounds`.
ORDER = struct.Struct("!IIIIIII")
# The length before each message, as in multiprocessing's connections.
SIZE = struct.Struct("!i")


def serve(control: socket.socket) -> None:
    """Fork a process for each order and socket that `control` brings, until `control` is closed."""
    signal.signal(signal.SIGCHLD, _reap)
    # The process that started this one handles Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Pillow imports some modules when it first needs them: here, and not in each fork.
    for sample in (*map(_black_picture, decoding.FORMATS), b"none"):
        _answer(sample, decoding.Limits(16, 256))
    gc.disable()
    gc.freeze()
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if not order:
            return
        try:
            child = os.fork()
        except OSError:
            # The other end sees that the connection is closed.
            os.close(descriptors[0])
            continue
        if not child:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                with socket.socket(fileno=descriptors[0]).makefile("rwb") as stream:
                    _answer_all(stream, order)
            finally:
                os._exit(0)
        os.close(descriptors[0])


def _reap(*_: object) -> None:
    """Reap forks that have ended, so that their processor time counts as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _black_picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    return buffer.getvalue()


def _answer_all(stream: io.BufferedRWPair, order: bytes) -> None:
    """Decode the pictures that come over `stream`, one after the other, within the limits of `order`."""
    min_side, max_pixels, bits, seconds, total, memory, wait = ORDER.unpack(order)
    limits = decoding.Limits(min_side, max_pixels, bits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limits end the process by these signals, which its parents may ignore or block.
    for number in (signal.SIGALRM, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # macOS has no such limit.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory * 2**20, memory * 2**20))
    _send(stream, str(os.getpid()).encode())
    while size := stream.read(SIZE.size):
        content = stream.read(SIZE.unpack(size)[0])
        soft = int(time.process_time()) + 1 + seconds
        # The system's hard limit may be lower than `total`, and cannot be raised. 0 and -1 (Linux): no limit.
        bounds = [bound for bound in (total, resource.getrlimit(resource.RLIMIT_CPU)[1]) if bound > 0]
        hard = min(bounds, default=resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_CPU, (min([soft, *bounds]), hard))
        # At either limit, processor time or wall-clock time, the system ends the process.
        signal.alarm(wait)
        try:
            answer = _answer(content, limits)
        except MemoryError:
            return
        signal.alarm(0)
        _send(stream, answer)


def _answer(content: bytes, limits: decoding.Limits) -> bytes:
    """A line of JSON, and the pixels as RGB bytes after it, if the file can be read."""
    try:
        decoded = decoding.decode(content, limits)
    except decoding.Unreadable as refusal:
        return json.dumps(vars(refusal)).encode()
    image = decoded.image
    header = {"size": image.size, "notes": decoded.notes, "pages": decoded.pages, "bits": decoded.bits}
    return json.dumps(header).encode() + b"\n" + image.tobytes()


def _send(stream: io.BufferedRWPair, content: bytes) -> None:
    stream.write(SIZE.pack(len(content)) + content)
    stream.flush()
