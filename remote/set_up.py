"""Point the remote that results travel by somewhere else, for this checkout alone: `make remote URL=...`.

Writes .dvc/config.local, which git ignores, and tries the remote. What was set there before for the remote,
credentials too, is forgotten. Without a URL it is the folder of .dvc/config again.
"""

import argparse
import re
from urllib.parse import urlsplit

from dvc.config import Config, ConfigError
from dvc.repo import Repo

from malaria.command import end_with
from malaria.errors import UserError
from remote import storage

# Options of DVC's remotes that are secrets, or may hold one, and never belong on a command line.
SECRET = {
    "access_key_id", "account_key", "client_secret", "connection_string", "passphrase", "password",
    "sas_token", "secret_access_key", "session_token", "token",
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m remote.set_up",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", default="", help="s3://, ssh://, gs://, azure:// or a folder")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="OPTION=VALUE",
        help="of that kind of remote, as `dvc remote modify` has it",
    )
    arguments = parser.parse_args()
    point(arguments.url, dict(_pair(option) for option in arguments.options))
    with Repo() as repo:
        remote = storage.of(repo)
        count = len(remote.there())
    print(f"{remote.name} is {remote.url}: it answers, and holds {count:,} objects.")
    return 0


def point(url: str, options: dict[str, str]) -> None:
    """Write the remote's URL and options to .dvc/config.local; an empty URL takes it out of there.

    Raises:
        UserError: the URL holds a password, or DVC knows no such remote or option.
    """
    if re.match(r"\w+=", url):
        raise UserError(f"{url} is an option, and the URL is missing: make remote URL=... OPTIONS={url}")
    try:
        password = urlsplit(url).password
    except ValueError:
        raise UserError(f"{url} is no URL: see docs/remote.md for what can be named.") from None
    if password is not None:
        raise UserError(
            "The URL holds a password, which others can see: leave it out, and see docs/remote.md for where "
            "credentials go."
        )
    # Not checked as it is read: what stands there may be what is to be mended.
    config = Config.from_cwd(validate=False)
    name = config["core"]["remote"]
    try:
        with config.edit("local") as local:
            if url:
                local["remote"][name] = {"url": url, **options}
            else:
                local["remote"].pop(name, None)
    except ConfigError as error:
        raise UserError(f"{url}: {' '.join(str(error).split())}: see docs/remote.md.") from None


def _pair(option: str) -> tuple[str, str]:
    name, sign, value = option.partition("=")
    if not sign:
        raise UserError(f"{option} is no option: write OPTION=VALUE, as endpointurl=https://s3.example.org.")
    if name in SECRET:
        raise UserError(
            f"{name} is a secret, and the command line shows it to others: see docs/remote.md for where "
            "credentials go."
        )
    return name, value


if __name__ == "__main__":
    end_with(main)
