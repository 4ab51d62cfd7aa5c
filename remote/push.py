"""Push this revision's results, and the runs that made them, to the remote: `make push`.

It is `dvc push --run-cache`, and then the metrics in git, which DVC leaves out. With these, a checkout that
has a run's parameters but not its dvc.lock finds the whole run, and runs no stage.

With --verify, every object in the remote is first read and compared with its hash; a damaged one is sent
again. DVC itself trusts every object that exists.
"""

from malaria.command import new_parser, run_and_exit
from remote import storage


def main() -> None:
    parser = new_parser("remote.push", __doc__)
    parser.add_argument("--verify", action="store_true", help="repair damaged objects: traffic as for a pull")
    push(verify=parser.parse_args().verify)


def push(verify: bool = False) -> None:
    """Push the results of the checkout in the current folder to its default remote.

    Raises:
        UserError: the remote does not answer or refuses, or an object is damaged there and not intact here.
    """
    with storage.connect() as (repo, odb):
        if verify:
            storage.replace_damaged(repo, odb)
        metrics = {out.hash_info for out in repo.index.outs if not out.use_cache and out.hash_info}
        pushed = repo.push(run_cache=True)
        repo.cloud.push({info for info in metrics if repo.cache.local.exists(info.value)})
        print(f"{pushed} files pushed to {storage.url_of(odb)}.")


if __name__ == "__main__":
    run_and_exit(main)
