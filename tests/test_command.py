"""malaria.command, which all commands share: errors, exit status, and messages of native libraries."""

import argparse
import errno
import os
import subprocess
import sys
import threading

import pytest

from malaria.command import positive, run_and_exit, without_native_logs
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
        run_and_exit(fail)
    assert capsys.readouterr().err == "error: params.yaml: this is wrong, do that.\n"


def test_a_file_that_the_system_refuses_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="1"):
        run_and_exit(lambda: len(tmp_path.read_bytes()))
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory.\n"


def test_a_program_that_fails_is_an_error_also_where_the_parent_ignores_ended_children():
    ask = (
        "from malaria import programs; from malaria.command import run_and_exit; "
        "run_and_exit(lambda: print(programs.git('rev-parse', '--verify', 'no-such-revision')))"
    )
    start = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        f"os.execv(sys.executable, [sys.executable, '-c', {ask!r}])"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: `git rev-parse" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_works_and_writes_only_where_it_is_told(tmp_path, closed):
    file = tmp_path / "out"
    work = (
        "import subprocess; from pathlib import Path; from malaria.command import run_and_exit\n"
        "def main():\n"
        f"    with Path({str(file)!r}).open('w') as out:\n"
        "        print('said', flush=True)\n"
        "        subprocess.run('echo said; echo said >&2', shell=True)\n"
        "        out.write('written')\n"
        "run_and_exit(main)"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert file.read_text() == "written"


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "many", ""])
def test_what_counts_something_is_a_whole_number_from_1_on(text):
    assert positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 on"):
        positive(text)


def test_a_full_disk_is_told_in_one_line_and_another_system_error_is_raised(capsys):
    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "data/packed")

    def broken() -> int:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(SystemExit, match="1"):
        run_and_exit(full)
    said = "error: The disk is full at data/packed: free some space, and run this again.\n"
    assert capsys.readouterr().err == said
    with pytest.raises(OSError, match="Input/output"):
        run_and_exit(broken)


@pytest.mark.parametrize("where", ["a full disk", "a reader that has gone"])
def test_a_short_output_that_cannot_be_written_is_an_error_too(where):
    code = [
        sys.executable,
        "-c",
        "from malaria.command import run_and_exit; run_and_exit(lambda: print('short'))",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    if where == "a full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        read, output = os.pipe()
        os.close(read)
    done = subprocess.run(
        code, check=False, stdout=output, stderr=subprocess.PIPE, text=True, env=environment
    )
    os.close(output)
    assert done.returncode == 1
    full = "error: The disk is full: free some space, and run this again.\n"
    assert done.stderr == (full if where == "a full disk" else "")


def test_one_thread_at_a_time_keeps_the_terminal_quiet():
    entered = threading.Event()

    def enter() -> None:
        with without_native_logs():
            entered.set()

    other = threading.Thread(target=enter)
    with without_native_logs(), without_native_logs():
        other.start()
        assert not entered.wait(0.1)
    other.join()
    assert entered.is_set()
