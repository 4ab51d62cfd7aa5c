"""Push the results, and the runs that made them, to an S3-compatible store; it becomes DVC's remote.

A missing bucket is created. Credentials come from AWS's environment variables and files.
"""

from urllib.parse import urlsplit

import s3fs
from botocore.exceptions import BotoCoreError

from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError
from remote import push, storage


def main() -> None:
    parser = new_parser("orchestration.push_to_store", __doc__)
    parser.add_argument("url", help="s3://bucket, or a folder in one")
    parser.add_argument("endpoint", help="the store's own address, such as http://store:8333")
    arguments = parser.parse_args()
    make_bucket(arguments.url, arguments.endpoint)
    storage.use("store", url=arguments.url, endpointurl=arguments.endpoint)
    push.push()


def make_bucket(url: str, endpoint: str) -> None:
    """Create the bucket of `url` if it is missing.

    Raises:
        UserError: the store does not answer, or refuses access.
    """
    bucket = urlsplit(url).netloc
    store = s3fs.S3FileSystem(endpoint_url=endpoint)
    try:
        if not store.exists(bucket):
            store.mkdir(bucket)
    except (OSError, BotoCoreError) as error:
        raise UserError(f"The store at {endpoint} does not give the bucket {bucket}: {error}") from None


if __name__ == "__main__":
    run_and_exit(main)
