"""Verify what a version tag names, and put its bundle and model card into reports/ci/release/.

A release consists of the results that the tagged commit's dvc.lock names, pulled and not made again. A model
of the synthetic sample is refused.
"""

import os
import shutil
import zipfile
from pathlib import Path

from ci import outputs, release, revisions
from ci.github import event
from malaria import bundle, paths
from malaria.command import new_parser, run_and_exit
from malaria.errors import UserError


def main() -> None:
    parser = new_parser("ci.released_bundle", __doc__)
    tag = os.environ.get("GITHUB_REF_NAME", "")
    parser.add_argument("--tag", default=tag, help="a version, such as malaria-cells@v1.2.0")
    version = verify(parser.parse_args().tag)
    pack(paths.BUNDLE, version, outputs.RELEASE)
    event.output("version", version)
    # Registries accept only lower case.
    event.output("image", f"ghcr.io/{event.repository().lower()}")
    print(f"malaria-cells {version} is what its dvc.lock names; {outputs.RELEASE} holds bundle and card.")


def verify(tag: str) -> str:
    """The version that `tag` names.

    Raises:
        UserError: it is no version tag, or on another commit; the results are not those of dvc.lock; the
            bundle is damaged, or was made of the synthetic sample.
    """
    name, _, version = tag.rpartition("@v")
    if name != release.ARTIFACT or not release.VERSION.fullmatch(version):
        raise UserError(f"The tag {tag!r} is no version: it must be like malaria-cells@v1.2.0.")
    if revisions.resolve(tag) != revisions.resolve("HEAD"):
        raise UserError(f"The tag {tag} is on another commit than the one checked out: check out the tag.")
    revisions.work_tree()
    release.check_real()
    return version


def pack(source: Path, version: str, folder: Path) -> None:
    """Put the bundle into `folder`, as `bundle/` and as a zip with reproducible bytes, and its card."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder / "bundle")
    with zipfile.ZipFile(folder / f"malaria-cells-{version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.iterdir()):
            # A ZipInfo of a name alone has the same date on each machine.
            entry = zipfile.ZipInfo(f"malaria-cells-{version}/{file.name}")
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    shutil.copyfile(source / bundle.CARD, folder / bundle.CARD)


if __name__ == "__main__":
    run_and_exit(main)
