"""malaria.programs, which calls git, DVC and others: their output, and errors when they fail."""

import sys
from pathlib import Path

import pytest

from malaria import programs
from malaria.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_what_a_program_prints_comes_back_and_what_it_is_given_goes_in():
    code = "import sys; print(sys.stdin.read().upper()); print('aside', file=sys.stderr)"
    assert programs.run(python(code), stdin="grüße") == "GRÜSSE\n"


def test_a_programs_own_error_is_told_and_not_that_of_the_program_above_it():
    code = "print('error: no cells here'); print('ERROR: failed to reproduce'); print('see the log'); exit(3)"
    with pytest.raises(UserError, match=r"failed \(status 3\): error: no cells here$"):
        programs.run(python(code))
    with pytest.raises(UserError, match=r"failed \(status 3\): error: no cells here$"):
        list(programs.lines(python(code)))


def test_a_module_beside_the_data_is_not_taken_for_dvc(tmp_path):
    for name in ("dvc", "argparse"):
        (tmp_path / f"{name}.py").write_text("print('another')")
    assert programs.dvc("--version", cwd=tmp_path)[0].isdigit()


def test_a_failure_without_a_word_is_told_too():
    with pytest.raises(UserError, match=r"failed \(status 1\): it printed nothing"):
        programs.run(python("exit(1)"))


def test_a_program_that_hangs_is_ended():
    with pytest.raises(UserError, match=r"did not end within 0\.2 s"):
        programs.run(python("import signal; signal.pause()"), timeout=0.2)


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(UserError, match="no-such-program is not installed"):
        programs.run(["no-such-program"])


def test_lines_come_one_by_one_from_both_streams():
    code = "import sys; print('one', flush=True); print('two', file=sys.stderr)"
    assert list(programs.lines(python(code))) == ["one", "two"]


def test_git_works_on_its_folder_also_where_a_hook_names_another_repository(tmp_path, monkeypatch):
    for name in ("hooked", "own"):
        programs.git("init", "--quiet", str(tmp_path / name), cwd=tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooked/.git"))
    used = programs.git("rev-parse", "--absolute-git-dir", cwd=tmp_path / "own")
    assert used == str((tmp_path / "own/.git").resolve())


def test_git_and_dvc_are_called_where_they_are_told(tmp_path: Path):
    programs.git("init", "--quiet", cwd=tmp_path)
    assert programs.git("rev-parse", "--show-toplevel", cwd=tmp_path) == str(tmp_path.resolve())
    with pytest.raises(UserError, match=r"`dvc status` failed \(status \d+\): ERROR: you are not inside"):
        programs.dvc("status", cwd=tmp_path)


def test_stages_run_whatever_the_login_shell_is(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/false")
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo ran}}")
    for command in (["git", "init", "--quiet"], [*programs.DVC, "init", "--quiet"]):
        programs.run(command, cwd=tmp_path)
    assert "ran" in list(programs.lines([*programs.DVC, "repro"], cwd=tmp_path))
    shell = programs.run(["make", "--silent", "--eval", "shell: ; @echo $$SHELL", "shell"], cwd=ROOT)
    assert shell == "/bin/sh\n"


def test_a_secret_that_is_not_set_is_no_credential(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_PROFILE", "cells")
    found = programs.environment()
    assert "AWS_SECRET_ACCESS_KEY" not in found
    assert found["AWS_PROFILE"] == "cells"
