"""Send this revision's results, and the runs that made them, to the remote: `make push`.

It is `dvc push --run-cache`, and then the metrics that git has, which DVC leaves out: with these a checkout
that has a run's parameters and not its dvc.lock finds the whole of the run, and runs no stage.

With --verify every object in the remote is read first and compared with its hash; a damaged one is sent
again. DVC itself takes what exists for good.
"""

from malaria.command import end_with, options
from remote import storage


def main() -> None:
    parser = options("remote.push", __doc__)
    parser.add_argument("--verify", action="store_true", help="as much traffic as a whole pull")
    push(verify=parser.parse_args().verify)


def push(verify: bool = False) -> None:
    """Send what the current folder's checkout has to its default remote.

    Raises:
        UserError: the remote does not answer or refuses, or holds something damaged that is not here whole.
    """
    with storage.reached() as (repo, odb):
        if verify:
            storage.replace_damaged(repo, odb)
        in_git = {out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info}
        sent = repo.push(run_cache=True)
        repo.cloud.push({info for info in in_git if repo.cache.local.exists(info.value)})
        print(f"{sent} files pushed to {storage.url_of(odb)}.")


if __name__ == "__main__":
    end_with(main)
