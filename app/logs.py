"""Log to stderr, one JSON object per line, without names of files and without pictures."""

import json
import logging
import math
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger("app")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            # Libraries put paths and addresses into their messages: log only their unfilled templates.
            "event": record.getMessage() if record.name == log.name else str(record.msg),
            **record.__dict__.get("fields", {}),
        }
        if record.exc_info and record.exc_info[1]:
            content["error"] = locate(record.exc_info[1])
        return json.dumps(content)


class OncePerMinute(logging.Filter):
    """Pass one line per minute for each kind of problem; the next one says how many were held back."""

    def __init__(self) -> None:
        super().__init__()
        # By kind, the time of the last line that passed, and how many were held back since.
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        fields = record.__dict__.get("fields", {})
        if record.levelno < logging.WARNING and fields.get("status", 0) < 400:
            return True
        error = locate(record.exc_info[1]) if record.exc_info and record.exc_info[1] else fields.get("error")
        kind = (record.name, str(record.msg), error, fields.get("route"), fields.get("status"))
        passed, held_back = self._kinds.get(kind, (-math.inf, 0))
        if abs(record.created - passed) < 60:
            self._kinds[kind] = passed, held_back + 1
            return False
        self._kinds[kind] = record.created, 0
        if held_back:
            record.__dict__["fields"] = {**fields, "held_back": held_back}
        return True


def start() -> None:
    """Send the log of this process to stderr, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    handler.addFilter(OncePerMinute())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    log.setLevel(logging.INFO)
    # Gradio prints tracebacks, with the paths of uploads in them, straight to stderr.
    traceback.print_exc = lambda *_, **__: log.exception("error")


def event(name: str, **fields: Any) -> None:
    """Log that something happened."""
    log.info(name, extra={"fields": fields})


def locate(error: BaseException) -> str:
    """An exception's type, file and line, without its message."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
