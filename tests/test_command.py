"""What every command has in common."""

import errno
import os

import pytest

from malaria.command import end_with, without_native_logs
from malaria.errors import UserError


def test_what_native_code_says_at_its_start_is_kept_off_the_terminal(capfd):
    with without_native_logs():
        os.write(2, b"oneDNN custom operations are on\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"


def test_what_native_code_said_is_shown_where_the_start_fails(capfd):
    def start() -> None:
        with without_native_logs():
            os.write(2, b"libcuda is too old\n")
            raise ImportError("no such library")

    with pytest.raises(ImportError, match="no such library"):
        start()
    assert "libcuda is too old" in capfd.readouterr().err


def test_a_users_error_is_one_line_and_status_1(capsys):
    def fail() -> int:
        raise UserError("params.yaml: this is wrong, do that.")

    with pytest.raises(SystemExit, match="1"):
        end_with(fail)
    assert capsys.readouterr().err == "error: params.yaml: this is wrong, do that.\n"


def test_a_full_disk_is_one_line_and_any_other_refusal_of_the_system_is_no_such_thing(capsys):
    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "data/packed")

    def broken() -> int:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(SystemExit, match="1"):
        end_with(full)
    said = "error: The disk is full at data/packed: free some space, and run this again.\n"
    assert capsys.readouterr().err == said
    with pytest.raises(OSError, match="Input/output"):
        end_with(broken)
