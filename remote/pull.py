"""Pull the results that dvc.lock names from the remote: `make pull`.

It is `dvc pull`, with a one-sentence error if the remote does not answer or lacks results.
"""

from dvc.exceptions import CheckoutError, DvcException, FileTransferError

from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from remote import storage


def main() -> None:
    new_parser("remote.pull", __doc__).parse_args()
    if missing := pull():
        raise UserError(
            f"{len(missing)} of the results that dvc.lock names ({missing[0]} is the first) are not in the "
            "remote: `make push` them where they were made, or make them here with `make repro`."
        )
    print("The results that dvc.lock names are here.")


def pull(run_cache: bool = False) -> list[str]:
    """Pull this revision's results from the default remote; return the outputs that it lacks.

    Args:
        run_cache: pull the records of earlier runs too. A store that is read over HTTP cannot list them.

    Raises:
        UserError: the remote does not answer, or refuses; or a file that is saved nowhere would be lost.
    """
    with storage.connect() as (repo, _):
        try:
            repo.pull(run_cache=run_cache, allow_missing=True)
        except (CheckoutError, FileTransferError) as error:
            if error.__cause__ is not None:
                raise
        except DvcException as error:
            message, *unsaved = str(error).splitlines()
            if "unsaved files" not in message:
                raise
            raise UserError(
                f"{unsaved[0]} is saved nowhere, and a pull would take it away: save it with `dvc add` or "
                "`dvc commit`, or remove it, and pull again."
            ) from None
        return sorted(str(out) for out in repo.index.outs if out.use_cache and not out.exists)


def fetch(commit: str) -> None:
    """Fetch a commit's results from the default remote into the cache; print a line if that fails."""
    try:
        with storage.connect() as (repo, _):
            repo.fetch(revs=[commit], workspace=False)
    except UserError as error:
        print(f"Nothing was fetched. {error}", flush=True)


if __name__ == "__main__":
    run_and_exit(main)
