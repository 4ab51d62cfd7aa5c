"""compose.yaml as podman-compose reads it, the Dockerfile, and what containers do at their start."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from dvc.repo import Repo

from malaria.errors import UserError
from orchestration import workspace
from tests.support import app_server, storage_servers
from tests.support.project import ROOT, run

SETTINGS = {"DATA_DIR": "/somewhere", "MALARIA_IMAGES": "a.example/owner/cells", "MALARIA_VERSION": "1.2.3"}


def compose(*options: str, settings: dict[str, str] = SETTINGS) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "podman-compose", "--dry-run", *options, "config"]
    environment = {"PATH": os.environ["PATH"], **settings}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    done = compose("--profile", "store", "--profile", "airflow")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


def test_the_pipeline_runs_to_its_end_and_then_the_app_serves():
    plain = yaml.safe_load(compose().stdout)["services"]
    app = plain["app"]
    assert app["depends_on"] == {"pipeline": {"condition": "service_completed_successfully"}}
    assert app["restart"] == "unless-stopped"
    assert "restart" not in plain["pipeline"]


def test_images_have_the_version_that_is_asked_for_and_are_pulled(services):
    ours = {name: service for name, service in services.items() if name not in ("store", "front")}
    assert {service["pull_policy"] for service in ours.values()} == {"always"}
    assert {service["image"] for service in ours.values()} == {
        f"a.example/owner/cells-{name}:1.2.3" for name in ("train", "app", "airflow")
    }


def test_data_lie_in_the_folder_that_is_named_and_the_app_cannot_write_there(services):
    for name in ("pipeline", "app", "push", "airflow"):
        (mounted,) = services[name]["volumes"]
        # The app sees only the models: no cells, and not Airflow's password.
        below = "/models" if name == "app" else ""
        assert (mounted["source"], mounted["target"]) == (f"/somewhere{below}", f"/data{below}")
        assert mounted["type"] == "bind"
        assert mounted.get("read_only", False) is (name == "app")


def test_nothing_of_ours_is_root_or_writes_into_its_image(services):
    for name in ("pipeline", "app", "front", "push", "airflow"):
        assert services[name]["read_only"] is True
        assert services[name]["user"] == "1000:1000"
        assert services[name]["cap_drop"] == ["ALL"]


def test_the_front_does_not_run_as_root_even_if_root_owns_the_data():
    root = yaml.safe_load(compose(settings={**SETTINGS, "DATA_UID": "0", "DATA_GID": "0"}).stdout)["services"]
    assert {name: service["user"] for name, service in root.items()} == {
        "pipeline": "0:0", "app": "0:0", "front": "1000:1000"
    }  # fmt: skip


def test_every_service_has_bounds_on_its_memory_and_what_lies_in_it(services):
    for service in services.values():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
        for mounted in service.get("tmpfs", []):
            assert re.search(r":size=\d+[mg],", mounted)


def test_what_runs_stages_is_told_to_stop_as_on_a_terminal_and_has_time_to(services):
    for name in ("pipeline", "push", "airflow"):
        service = services[name]
        assert (service["stop_signal"], service["stop_grace_period"]) == ("SIGINT", "1m")
        # tini passes the signal on to the stage too; Airflow stops its processes itself.
        assert ("TINI_KILL_PROCESS_GROUP" in service["environment"]) is (name != "airflow")
        # A training checkpoint holds for one host name, and each container would get another one.
        assert service["hostname"] == name
    assert all(service["init"] for service in services.values())


def test_containers_go_by_the_name_of_the_folder_that_they_are_started_in():
    assert "name" not in yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_all_images_are_built_without_any_setting_and_with_pips_as_secrets():
    file = yaml.safe_load((ROOT / "compose.build.yaml").read_text())
    targets = re.findall(
        r"^FROM \w+ AS (train|app|airflow)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    built = {service["build"]["target"]: service for service in file["services"].values()}
    assert set(built) == set(targets) == {"train", "app", "airflow"}
    for target, service in built.items():
        assert service["image"].startswith("${MALARIA_IMAGES:-localhost/malaria-cells}-" + target)
        assert service["build"]["secrets"] == ["pip_conf", "ca_certificates"]
    done = compose("-f", "compose.build.yaml", settings={})
    assert done.returncode == 0, done.stderr


def test_pages_are_for_this_machine_alone_unless_said_otherwise(services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"airflow": ["127.0.0.1:8080:8080"], "front": ["127.0.0.1:7860:8080"]}


def test_no_credential_is_an_environment_variable_and_git_ignores_their_files(services):
    variables = [name for service in services.values() for name in service.get("environment", {})]
    assert not [name for name in variables if re.search("KEY|TOKEN|PASSWORD", name)]
    for name in (".env", "secrets/store_credentials", "secrets/store_identities.json"):
        assert run("git", "check-ignore", name, cwd=ROOT).stdout.strip() == name


@pytest.mark.parametrize("name", ["DATA_DIR", "MALARIA_IMAGES"])
def test_what_has_no_default_is_asked_for_by_its_name(name):
    done = compose(settings={key: value for key, value in SETTINGS.items() if key != name})
    assert done.returncode != 0
    assert re.search("names (the folder|where)", done.stderr)


def test_the_lock_files_of_the_images_are_parts_of_the_whole():
    def pins(name: str) -> set[str]:
        """Versions and hashes, without environment markers, which depend on what else is locked."""
        lines = (ROOT / name).read_text().replace(" \\\n", " ").splitlines()
        return {re.sub(r" ; .*?(?= --hash)", "", line) for line in lines}

    whole = pins("requirements.lock")
    for part in ("requirements-app.lock", "requirements-train.lock"):
        assert pins(part) <= whole
    assert "tensorflow==" not in (ROOT / "requirements-app.lock").read_text()


def test_only_the_files_that_an_image_runs_get_near_a_build():
    first, *allowed = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith(("#", "**"))
    ]
    assert first == "*"
    # Keeps out tables of patients that a command may leave among the code.
    assert "**/*.csv" in (ROOT / ".dockerignore").read_text().splitlines()
    tracked = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT
    ).stdout.splitlines()
    released = "reports/ci/release/bundle/"  # what ci.released_bundle makes
    private = ("data/folder/patient.png", "data/split.csv", "data/doubtful.csv", "data/patients.csv", ".env")
    assert not [name for name in private for line in allowed if name.startswith(line.removeprefix("!"))]
    for line in allowed:
        assert any(name.startswith(line.removeprefix("!")) for name in [*tracked, released]), line
    # A COPY of a file that .dockerignore excludes would fail only with a container engine.
    dockerfile = (ROOT / "Dockerfile").read_text().replace("${BUNDLE}", "models/pretrained")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    # So would workspace.install, which copies these names out of the image.
    for name in {*workspace.CODE, *(name for names in copied for name in names.split() if name != ".")}:
        assert any(f"!{name}".startswith(line.rstrip("/")) for line in allowed), name


@contextlib.contextmanager
def front(app: str, folder: Path, logs: str = "") -> Iterator[str]:
    """Run Debian's nginx in front of an app, with compose.yaml's settings; yields its URL.

    Its timeouts for slow clients are 1 s instead of 10 s.

    Args:
        app: the app's URL.
        logs: a regular expression that all of nginx's log has to match.
    """
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        if os.environ.get("MALARIA_REQUIRE_SERVERS"):
            pytest.fail("MALARIA_REQUIRE_SERVERS is set, but there is no nginx")
        pytest.skip("needs nginx: make servers, as root")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    settings = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["front"]["environment"][
        "SETTINGS"
    ]
    local = {"$$": "$", "/tmp/": f"{folder}/", "listen 8080": f"listen {host}:{port}", "http://app:7860": app}
    timeouts = {f"client_{part}_timeout 10s": f"client_{part}_timeout 1s" for part in ("header", "body")}
    for old, new in (local | timeouts).items():
        assert old in settings
        settings = settings.replace(old, new)
    # Started by root, nginx would become another user, who may not write below the test's folder.
    (folder / "nginx.conf").write_text(settings if os.getuid() else f"user root;\n{settings}")
    command = [nginx, "-e", "stderr", "-c", str(folder / "nginx.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError), socket.create_connection((host, port)):
                    break
            yield f"http://{host}:{port}"
        finally:
            process.terminate()
            assert process.stderr is not None
            assert re.fullmatch(logs, process.stderr.read())


def test_the_front_hands_on_what_page_and_programs_ask_and_cuts_off_who_sends_slowly(live, tmp_path, pngs):
    with front(live.url, tmp_path) as url:
        assert requests.post(f"{url}/classify", data=pngs[0]).json()["status"] == "ok"
        visitor = app_server.Server(url, live.process, live.log)
        (path,) = visitor.upload(("cell.png", pngs[0]))
        kind, result = visitor.answer("classify", {"path": path}, 0.5)
        assert (kind, result[0]["status"]) == ("complete", "ok")
        assert requests.post(f"{url}/classify", data=bytes(22 * 2**20)).status_code == 413
        assert requests.post(f"{url}/gradio_api/upload", headers={"Origin": "http://a.b"}).status_code == 403
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\n"
        for request in (head, head + b"Content-Length: 9\r\n\r\n1"):
            with socket.create_connection((host, int(port)), timeout=30) as connection:
                connection.sendall(request)
                with contextlib.suppress(ConnectionResetError):
                    assert not connection.recv(100).startswith(b"HTTP/1.1 200")


def test_a_front_without_room_for_a_body_asks_to_come_again_later(tmp_path):
    with front("http://127.0.0.1:9", tmp_path, logs=r".*\[crit\].*/body/.*\n") as url:
        (tmp_path / "body").rmdir()
        answer = requests.post(f"{url}/classify", data=bytes(2**20))
        assert (answer.status_code, answer.json()) == (
            503,
            {"error": "Too much is being sent at once: ask again later."},
        )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    workspace.install(ROOT, tmp_path)
    return tmp_path


def test_an_installed_folder_is_a_pipeline_that_dvc_can_run(folder):
    run("git", "init", "-q", ".", cwd=folder)
    assert "fetch" in run("dvc", "stage", "list", cwd=folder).stdout
    assert "fetch" in run("dvc", "status", cwd=folder).stdout


def test_all_that_stages_read_and_no_stage_makes_is_installed(folder):
    run("git", "init", "-q", ".", cwd=folder)
    index = Repo(folder).index
    outs = [Path(out.fs_path) for out in index.outs]
    dependencies = [Path(dependency.fs_path) for dependency in index.deps if dependency.protocol == "local"]
    assert folder / "data/start" in dependencies
    for path in dependencies:
        assert path.exists() or any(path.is_relative_to(out) for out in outs), path


def test_the_templates_of_plots_are_installed(folder):
    used = set(re.findall(r"template: (\w+)", (folder / "dvc.yaml").read_text()))
    ours = {path.stem for path in (ROOT / ".dvc/plots").iterdir()}
    assert used & ours == {path.stem for path in (folder / ".dvc/plots").iterdir()} == ours


def test_the_tables_that_are_installed_are_those_without_rows(folder):
    for name in workspace.TABLES:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    for name in workspace.FOLDERS:
        assert not list((folder / name).iterdir())


def test_dvc_runs_as_a_user_whom_the_system_has_no_name_for(tmp_path):
    foreign = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
    if subprocess.run([*foreign, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs user namespaces, to become another user")
    (settings,) = re.findall(r"^ENV (DVC_SITE_CACHE_DIR.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    nameless = {
        name: value for name, value in os.environ.items() if name not in ("LOGNAME", "USERNAME", "LNAME")
    }
    environment = nameless | dict(setting.split("=") for setting in settings.split())
    environment |= {"HOME": str(tmp_path), "DVC_SITE_CACHE_DIR": str(tmp_path / "site")}
    run("git", "init", "-q", ".", cwd=tmp_path)
    command = (sys.executable, "-m", "orchestration.workspace", str(tmp_path), "dvc", "status")
    assert "fetch" in run(*foreign, *command, cwd=ROOT, environment=environment).stdout


def test_locks_of_a_container_that_ended_are_gone_and_those_of_one_that_lives_are_not(folder):
    def start() -> subprocess.Popen[str]:
        look = ("sh", "-c", f"ls {lock.parent}; read line")
        program = [sys.executable, "-m", "orchestration.workspace", str(folder), *look]
        return subprocess.Popen(program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    lock = folder / ".dvc/tmp/rwlock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text("of one that ended")
    with start() as first:
        assert first.stdout.readline() == "containers\n"
        lock.write_text("of the first")
        with start() as second:
            assert [second.stdout.readline() for _ in range(2)] == ["containers\n", "rwlock\n"]
            second.communicate()
        first.communicate()


def test_code_is_replaced_and_yours_is_kept(folder):
    (folder / "params.yaml").write_text("mine: 1\n")
    (folder / "malaria/old.py").write_text("gone in this version\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "dvc.lock").write_text("results\n")
    workspace.install(ROOT, folder)
    assert (folder / "params.yaml").read_text() == "mine: 1\n"
    assert (folder / "dvc.lock").read_text() == "results\n"
    assert not (folder / "malaria/old.py").exists()
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()


def test_a_folder_that_is_not_mounted_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: mount the folder"):
        workspace.install(ROOT, tmp_path / "nowhere")


@pytest.mark.long
def test_results_go_to_a_store_whose_bucket_is_made_and_a_second_time_no_result_is_sent_again(
    finished, tmp_path
):
    repository = tmp_path / "repository"
    shutil.copytree(finished, repository)
    with storage_servers.serving(storage_servers.S3()) as store:
        file = tmp_path / "credentials"
        file.write_text(
            f"[default]\naws_access_key_id = {store.options['access_key_id']}\n"
            f"aws_secret_access_key = {store.options['secret_access_key']}\n"
        )
        environment = {**os.environ, **storage_servers.HERMETIC, "AWS_SHARED_CREDENTIALS_FILE": str(file)}
        command = [
            sys.executable,
            "-m",
            "orchestration.push_to_store",
            "s3://new",
            store.options["endpointurl"],
        ]
        run(*command, cwd=repository, environment=environment)
        status = run("dvc", "status", "--cloud", "--json", cwd=repository, environment=environment)
        assert status.stdout.strip() == "{}"
        # DVC sends the records of its run cache each time, even if the remote has them.
        cache = run("dvc", "cache", "dir", cwd=repository).stdout.strip()
        records = [path for path in (repository / cache / "runs").rglob("*") if path.is_file()]
        again = run(*command, cwd=repository, environment=environment).stdout
        assert again.strip() == f"{len(records)} files pushed to s3://new."
        config = (repository / ".dvc/config.local").read_text()
        assert store.options["secret_access_key"] not in config


def test_the_cluster_s_workers_are_two_and_everything_talks_over_tls():
    settings = {"MALARIA_IMAGES": "a.example/owner/cells", "TLS_DIR": "/tls", "CELLS_DIR": "/cells"}
    command = [Path(sys.executable).parent / "podman-compose", "--file", "orchestration/cluster.yaml"]
    done = subprocess.run(
        [*command, "--dry-run", "--profile", "driver", "config"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"scheduler", "worker", "predict"}
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert service["image"] == "a.example/owner/cells-engine:latest"
        assert any(re.search("/tls:/etc/dask:ro", str(mounted)) for mounted in service["volumes"])
        assert re.search("tls", str(service.get("command") or service["entrypoint"]))
        assert (service["read_only"], service["mem_limit"]) == (True, "1g")
