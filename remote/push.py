"""Send this revision's results, and the runs that made them, to the remote: `make push`.

It is `dvc push --run-cache`, and then the metrics that git has, which DVC leaves out: with these a checkout
that has a run's parameters and not its dvc.lock finds the whole of the run, and runs no stage.

With --verify every object in the remote is read first and compared with its hash; a damaged one is sent
again. DVC itself takes what exists for good.
"""

import argparse

from dvc.repo import Repo

from malaria.command import end_with
from malaria.errors import UserError
from remote import storage


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m remote.push",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--verify", action="store_true", help="as much traffic as a whole pull")
    push(verify=parser.parse_args().verify)
    return 0


def push(verify: bool = False) -> None:
    """Send what the current folder's checkout has to its default remote.

    Raises:
        UserError: the remote does not answer or refuses, or holds something damaged that is not here whole.
    """
    with Repo() as repo:
        if verify:
            replace_damaged(storage.of(repo))
        where = storage.url_of(storage.reach(repo))
        in_git = {out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info}
        with storage.one_sentence(repo.config["core"]["remote"], where):
            sent = repo.push(run_cache=True)
            repo.cloud.push({info for info in in_git if repo.cache.local.exists(info.value)})
    print(f"{sent} files pushed to {where}.")


def replace_damaged(remote: storage.Remote) -> None:
    """Delete what is damaged in the remote and whole in the cache: the push that follows sends it again.

    Raises:
        UserError: something is damaged that this checkout's cache does not have.
    """
    damaged = remote.damaged()
    replaceable = remote.replaceable(damaged)
    remote.forget(replaceable)
    for md5 in sorted(replaceable):
        print(f"{md5} is damaged in the remote {remote.name}, and is sent again.")
    if lost := sorted(damaged - replaceable):
        raise UserError(
            f"{len(lost)} of {len(remote.objects):,} objects are damaged in the remote {remote.name}, and "
            f"this checkout's cache does not have them ({lost[0]} is the first): run `make push VERIFY=1` "
            "where they were made."
        )
    print(f"{len(remote.objects):,} objects of this revision were read in the remote {remote.name}.")


if __name__ == "__main__":
    end_with(main)
