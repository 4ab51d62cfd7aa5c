"""compose.yaml as a Compose implementation reads it, the Dockerfile's promises, what images start with."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from malaria.errors import UserError
from orchestration import workspace
from tests.support import storage_servers
from tests.support.project import ROOT, run

SETTINGS = {"DATA_DIR": "/somewhere", "MALARIA_IMAGES": "a.example/owner/cells", "MALARIA_VERSION": "1.2.3"}


def compose(*profiles: str, settings: dict[str, str] = SETTINGS) -> subprocess.CompletedProcess[str]:
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    command = [Path(sys.executable).parent / "podman-compose", "--dry-run", *chosen, "config"]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    done = compose("store", "airflow")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def test_the_pipeline_runs_to_its_end_and_then_the_app_serves():
    plain = yaml.safe_load(compose().stdout)["services"]
    app = plain["app"]
    assert app["depends_on"] == {"pipeline": {"condition": "service_completed_successfully"}}
    assert app["restart"] == "unless-stopped"
    assert "restart" not in plain["pipeline"]


def test_images_have_the_version_that_is_asked_for_and_are_pulled(services):
    ours = {name: service for name, service in services.items() if name != "store"}
    assert {service["pull_policy"] for service in ours.values()} == {"always"}
    assert {service["image"] for service in ours.values()} == {
        f"a.example/owner/cells-{name}:1.2.3" for name in ("train", "app", "airflow")
    }


def test_data_lie_in_the_folder_that_is_named_and_the_app_cannot_write_there(services):
    for name in ("pipeline", "app", "push", "airflow"):
        (mounted,) = services[name]["volumes"]
        assert (mounted["type"], mounted["source"], mounted["target"]) == ("bind", "/somewhere", "/data")
        assert mounted.get("read_only", False) is (name == "app")


def test_nothing_of_ours_is_root_or_writes_into_its_image(services):
    for name in ("pipeline", "app", "push", "airflow"):
        assert services[name]["read_only"] is True
        assert services[name]["user"] == "1000:1000"
        assert services[name]["cap_drop"] == ["ALL"]


def test_pages_are_for_this_machine_alone_unless_said_otherwise(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080", "127.0.0.1:7860:7860"]


def test_no_credential_is_an_environment_variable_and_git_ignores_their_files(services):
    named = [name for service in services.values() for name in service.get("environment", {})]
    assert not [name for name in named if re.search("KEY|TOKEN|PASSWORD", name)]
    for name in (".env", "secrets/store_credentials", "secrets/store_identities.json"):
        assert run("git", "check-ignore", name, cwd=ROOT).stdout.strip() == name


@pytest.mark.parametrize("name", ["DATA_DIR", "MALARIA_IMAGES"])
def test_what_has_no_default_is_asked_for_by_its_name(name):
    done = compose(settings={key: value for key, value in SETTINGS.items() if key != name})
    assert done.returncode != 0
    assert re.search("names (the folder|where)", done.stderr)


def test_the_lock_files_of_the_images_are_parts_of_the_whole():
    def pins(name: str) -> set[str]:
        """Versions and hashes; which systems a package is for hangs on what else needs it."""
        lines = (ROOT / name).read_text().replace(" \\\n", " ").splitlines()
        return {re.sub(r" ; .*?(?= --hash)", "", line) for line in lines}

    whole = pins("requirements.lock")
    for part in ("requirements-app.lock", "requirements-train.lock"):
        assert pins(part) <= whole
    assert "tensorflow==" not in (ROOT / "requirements-app.lock").read_text()


def test_only_the_files_that_an_image_runs_get_near_a_build():
    first, *let_in = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith(("#", "**"))
    ]
    assert first == "*"
    tracked = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT
    ).stdout.splitlines()
    released = "reports/ci/release/bundle/"  # what ci.released_bundle makes
    for line in let_in:
        assert any(name.startswith(line.removeprefix("!")) for name in [*tracked, released]), line
    # COPY of a name that is not let in fails only where an engine is.
    dockerfile = (ROOT / "Dockerfile").read_text().replace("${BUNDLE}", "models/pretrained")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for name in {name for names in copied for name in names.split() if name != "."}:
        assert any(f"!{name}".startswith(line.rstrip("/")) for line in let_in), name


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    workspace.lay(ROOT, tmp_path)
    return tmp_path


def test_what_is_laid_is_a_pipeline_that_dvc_can_run(folder):
    run("git", "init", "-q", ".", cwd=folder)
    assert "fetch" in run("dvc", "stage", "list", cwd=folder).stdout
    assert "fetch" in run("dvc", "status", cwd=folder).stdout


def test_code_is_replaced_and_yours_is_kept(folder):
    (folder / "params.yaml").write_text("mine: 1\n")
    (folder / "malaria/old.py").write_text("gone in this version\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "dvc.lock").write_text("results\n")
    workspace.lay(ROOT, folder)
    assert (folder / "params.yaml").read_text() == "mine: 1\n"
    assert (folder / "dvc.lock").read_text() == "results\n"
    assert not (folder / "malaria/old.py").exists()
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()


def test_a_folder_that_is_not_mounted_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: mount the folder"):
        workspace.lay(ROOT, tmp_path / "nowhere")


def test_results_go_to_a_store_whose_bucket_is_made_and_a_second_time_no_result_is_sent_again(
    finished, tmp_path
):
    repository = tmp_path / "repository"
    shutil.copytree(finished, repository)
    with storage_servers.serving(storage_servers.S3()) as store:
        secret = tmp_path / "credentials"
        secret.write_text(
            f"[default]\naws_access_key_id = {store.options['access_key_id']}\n"
            f"aws_secret_access_key = {store.options['secret_access_key']}\n"
        )
        environment = {**os.environ, **storage_servers.HERMETIC, "AWS_SHARED_CREDENTIALS_FILE": str(secret)}
        command = [
            sys.executable,
            "-m",
            "orchestration.push_to_store",
            "s3://new",
            store.options["endpointurl"],
        ]
        run(*command, cwd=repository, environment=environment)
        left = run("dvc", "status", "--cloud", "--json", cwd=repository, environment=environment)
        assert left.stdout.strip() == "{}"
        # DVC sends the records of runs each time, whatever the remote has.
        cache = run("dvc", "cache", "dir", cwd=repository).stdout.strip()
        records = [path for path in (repository / cache / "runs").rglob("*") if path.is_file()]
        again = run(*command, cwd=repository, environment=environment).stdout
        assert again.strip() == f"{len(records)} files pushed to s3://new."
        config = (repository / ".dvc/config.local").read_text()
        assert store.options["secret_access_key"] not in config
