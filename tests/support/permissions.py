"""File permissions that bind root, too: in containers, tests run as root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Run the block as the user nobody if this process is root, whom permissions do not bind."""
    uid = os.geteuid()
    if uid == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(uid)
