"""Read every image once, set aside those that are not cell crops, and write a page about all of them."""

from dataclasses import asdict

from malaria import files, tables
from malaria.cells import audit, audit_page, patients, provenance
from malaria.command import run_stage
from malaria.params import load_params
from malaria.paths import AUDIT, AUDIT_PAGE, CELLS, RAW


def main() -> None:
    params = load_params().audit
    cells = audit.audit(RAW, params)
    summary = audit.summarise(cells, patients.read_slides(RAW))
    page = audit_page.render(RAW, cells, summary, provenance.read(RAW), params.max_pixels)
    # Written before the check, because its error message refers to the page.
    files.write_text(AUDIT_PAGE, page)
    files.write_json(AUDIT, asdict(summary))
    tables.write(cells, CELLS, tables.CELLS)
    audit.check(cells, params)
    print(
        f"Accepted {summary.accepted:,} of {summary.images:,} images, of {sum(summary.patients.values()):,} "
        f"known patients; {summary.quarantined:,} set aside. Look at {AUDIT_PAGE}."
    )


if __name__ == "__main__":
    run_stage(main)
