"""Read every image once, set aside what is no cell crop, and write a page that shows both."""

from malaria.command import run_stage


def main() -> None:
    # Here, since worker processes import this module too, and need none of it.
    from malaria import processes
    from malaria.cells import images

    processes.prepare(images.examine)

    # isort: split
    from dataclasses import asdict

    from malaria import files, tables
    from malaria.cells import audit, audit_page, provenance, slides
    from malaria.params import load_params
    from malaria.paths import AUDIT, AUDIT_PAGE, CELLS, RAW

    params = load_params().audit
    cells = audit.audit(RAW, params)
    summary = audit.summarise(cells, slides.read(RAW))
    limits = images.Limits(params.min_side, params.max_pixels)
    page = audit_page.render(RAW, cells, summary, provenance.read(RAW), limits)
    # Written before the check, which sends people to the page.
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
