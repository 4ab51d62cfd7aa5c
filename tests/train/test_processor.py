"""The record of the processor: it differs between processors that train to different bytes."""

import platform

import pytest

from malaria.train import processor

CORE = "processor\t: {}\ncpu family\t: {}\nmodel\t\t: 2\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 {}\n\n"


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_CPUINFO", path)
    return path


def test_processors_of_one_name_differ_by_family_and_by_the_instructions_that_may_be_used(cpuinfo):
    found = []
    for family, flags in ((26, "avx512f avx512vl"), (25, "avx512f avx512vl"), (26, "")):
        cpuinfo.write_text(CORE.format(0, family, flags) + CORE.format(1, family, flags))
        found.append(processor.kind())
    assert found == [
        f"{platform.machine()}, AMD EPYC, 26/2, avx512f",
        f"{platform.machine()}, AMD EPYC, 25/2, avx512f",
        f"{platform.machine()}, AMD EPYC, 26/2, avx2",
    ]


@pytest.mark.parametrize("content", [None, "", "Features\t: fp asimd\nCPU part\t: 0xd0c\n"])
def test_where_the_system_tells_nothing_the_machine_s_type_stands_alone(cpuinfo, content):
    if content is not None:
        cpuinfo.write_text(content)
    assert processor.kind() == platform.machine()
