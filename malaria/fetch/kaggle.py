"""The NIH/NLM set from Kaggle: the same cells as from `nlm`, for people with an account there.

Kaggle's own client signs in and finds the file: `kagglesdk`, on which the `kaggle` package is built. The
`kaggle` package itself is not imported, because its import signs in at once, over the network, at
kaggle.com whatever KAGGLE_API_ENVIRONMENT says, and prints or exits if it can't. Its download writes under
the final name from the first byte on, and checks no content. The client's answer, however, contains an
ordinary request to a signed address, which is valid for some minutes. `download` sends this request again
with a range, and asks the client for a new one for each attempt.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import requests

from malaria import params
from malaria.cells.provenance import Provenance
from malaria.errors import UserError
from malaria.fetch import archives, download, nih

_HOW_TO_SIGN_IN = (
    "create a token at kaggle.com/settings and put it into ~/.kaggle/access_token or KAGGLE_API_TOKEN, or "
    "run `kaggle auth login`, or take data.source: nlm, which needs no account"
)


def fetch(
    data: params.Data, folder: Path, cache: Path | None = None, census: nih.Census = nih.WHOLE
) -> Provenance:
    """Download the archive that `data.kaggle` names, and unpack it without its second copy of the set.

    Raises:
        UserError: you are not signed in, or Kaggle refuses; as `download.fetch` and `nih.unpack`.
    """
    dataset = data.kaggle
    origin = f"kaggle.com/datasets/{dataset.slug}"
    archive = download.cache_folder(cache) / "kaggle" / dataset.slug / f"version-{dataset.version}.zip"
    remote = download.Remote(f"{origin}, version {dataset.version}", lambda: _request(dataset), "data.kaggle")
    download.fetch(remote, archive)
    try:
        provenance = nih.unpack(archive, folder, census)
    except UserError as error:
        # Kaggle publishes no hash: an archive that can't be used is removed, and the next run downloads it.
        if not isinstance(error, archives.DiskRefusal):
            archive.unlink(missing_ok=True)
        raise
    return replace(provenance, source="kaggle", origin=f"https://www.{origin}", version=str(dataset.version))


def _request(dataset: params.KaggleData) -> requests.PreparedRequest:
    """The signed request for the archive, from Kaggle's client.

    Raises:
        UserError: Kaggle refuses, or its client fails. Their own texts are not passed on, because they may
            quote credentials.
        requests.RequestException: another attempt may help.
    """
    # Imported here, because it takes a second and other sources do not need it.
    from kagglesdk import KaggleClient
    from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

    request = ApiDownloadDatasetRequest()
    request.owner_slug, request.dataset_slug = dataset.slug.split("/")
    request.dataset_version_number = dataset.version
    try:
        with (
            KaggleClient(**_credentials()) as client,
            client.datasets.dataset_api_client.download_dataset(request) as response,
        ):
            signed_request: requests.PreparedRequest = response.request
            return signed_request
    except requests.HTTPError as error:
        error.response.close()
        # After a redirect the storage answers, which knows nothing about datasets and rules.
        page = f"kaggle.com/datasets/{dataset.slug}"
        refusals = {
            401: f"does not accept the credentials (401): {_HOW_TO_SIGN_IN}.",
            403: f"forbids the download (403): open {page} signed in, accept its rules, and check that the "
            "credentials are that account's.",
            404: f"has no version {dataset.version} of {dataset.slug} (404): check data.kaggle in "
            f"params.yaml against {page}.",
        }
        if error.response.status_code in refusals and not error.response.history:
            raise UserError(f"Kaggle {refusals[error.response.status_code]}") from None
        raise
    except (UserError, requests.ConnectionError, requests.Timeout):
        raise
    except Exception as error:
        raise UserError(
            f"Kaggle's client fails over data.kaggle or the credentials ({type(error).__name__}): "
            f"{_HOW_TO_SIGN_IN}."
        ) from None


def _credentials() -> dict[str, str]:
    """The credentials that Kaggle's own command finds, as arguments of `KaggleClient`, which finds fewer.

    Raises:
        UserError: there is none.
    """
    from kagglesdk import KaggleClient
    from kagglesdk.kaggle_creds import KaggleCredentials
    from kagglesdk.kaggle_env import get_access_token_from_env

    if token := get_access_token_from_env()[0]:
        return {"api_token": token}
    config_dir = os.environ.get("KAGGLE_CONFIG_DIR")
    config_home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    folders = [config_dir] if config_dir else ["~/.kaggle", f"{config_home}/kaggle"]
    paths = (Path(home, "kaggle.json").expanduser() for home in folders)
    stored: dict[str, str] = next((json.loads(file.read_bytes()) for file in paths if file.is_file()), {})
    user, key = (os.environ.get(f"KAGGLE_{name.upper()}") or stored.get(name) for name in ("username", "key"))
    if user and key:
        return {"username": user, "password": key}
    with KaggleClient() as client:
        credentials = KaggleCredentials.load(client)
        if token := credentials and credentials.get_access_token():
            return {"api_token": token}
    raise UserError(f"data.source is kaggle, but you are not signed in: {_HOW_TO_SIGN_IN}.")
