"""A process that does nothing but fork others, each of which decodes pictures for one who asks.

It has decoded none itself, so that uninitialised memory of a fork shows no other picture. `sandbox` starts
it, and tells it over a socket what each is bound to. multiprocessing's forkserver does the same, for three
times the processor time a fork.
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

# Of one fork: `decoding.Limits`, processor seconds a picture and in all (0: without end), memory in MB,
# seconds a picture on the clock (0: without end), and whether pixels are wanted.
ORDER = struct.Struct("!IIIIIIII")
# As multiprocessing's connections have it.
SIZE = struct.Struct("!i")


def serve(control: socket.socket) -> None:
    """Fork for each order that comes with a socket, until the socket is closed."""
    signal.signal(signal.SIGCHLD, _bury)
    # Ctrl-C is for the process that asks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Imported here is what Pillow imports as it goes, and not in each fork.
    for sample in (*map(_sample, decoding.FORMATS), b"none"):
        _answer(sample, decoding.Limits(16, 256), pixels=True)
    gc.disable()
    gc.freeze()
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if not order:
            return
        if not os.fork():
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                with socket.socket(fileno=descriptors[0]).makefile("rwb") as asks:
                    _work(asks, order)
            finally:
                os._exit(0)
        os.close(descriptors[0])


def _bury(*_: object) -> None:
    """Let the system forget forks that have ended, and count their time as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _sample(kind: str) -> bytes:
    black = io.BytesIO()
    Image.new("RGB", (16, 16)).save(black, kind)
    return black.getvalue()


def _work(asks: io.BufferedRWPair, order: bytes) -> None:
    """Decode what comes, one picture after the other, in at most so much time and memory."""
    min_side, max_pixels, bits, seconds, total, memory, wait, pixels = ORDER.unpack(order)
    limits = decoding.Limits(min_side, max_pixels, bits)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Darwin has no such limit.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory * 2**20, memory * 2**20))
    _send(asks, str(os.getpid()).encode())
    while head := asks.read(SIZE.size):
        content = asks.read(SIZE.unpack(head)[0])
        most = int(time.process_time()) + 1 + seconds
        # The system may allow less than this, and refuses more. Without end is 0 or, on Linux, -1.
        allowed = [bound for bound in (total, resource.getrlimit(resource.RLIMIT_CPU)[1]) if bound > 0]
        hard = min(allowed, default=resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_CPU, (min([most, *allowed]), hard))
        # Where both are reached the system ends the process.
        signal.alarm(wait)
        try:
            said, decoded = _answer(content, limits, bool(pixels))
        except MemoryError:
            return
        signal.alarm(0)
        _send(asks, json.dumps(said).encode() + b"\n" + decoded)


def _answer(content: bytes, limits: decoding.Limits, pixels: bool) -> tuple[dict[str, object], bytes]:
    """The head of what is sent back, for JSON, and the pixels as RGB bytes, where they are wanted."""
    try:
        found = decoding.decode(content, limits)
    except decoding.Unreadable as refusal:
        return vars(refusal), b""
    image = found.image
    size = {"width": image.width, "height": image.height}
    if not pixels and all(low == high for low, high in decoding.extrema(image)):
        return {"reason": decoding.EMPTY_PICTURE, **size}, b""
    head = {**size, "pages": found.pages, "bits": found.bits, "notes": found.notes}
    return head, image.tobytes() if pixels else b""


def _send(asks: io.BufferedRWPair, content: bytes) -> None:
    asks.write(SIZE.pack(len(content)) + content)
    asks.flush()
