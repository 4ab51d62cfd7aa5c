"""The kind of processor, which training records: it decides the last bits of a result."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# Instruction sets for which oneDNN has its own kernels, the widest first.
_WIDEST = ("amx_tile", "avx512f", "avx2")


def kind() -> str:
    """The kind of processor, on which a training's last bits depend: `x86_64, AMD EPYC, 26/2, avx512f`.

    Clouds use one name for processors of several generations: family and model tell them apart. The widest
    instruction set tells what a virtual machine may use.
    """
    try:
        lines = [line.split(":", 1) for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    # Reversed, so that the first of several cores counts.
    facts = {key.strip(): value[0].strip() for key, *value in reversed(lines) if value}
    generation = "/".join(facts[key] for key in ("cpu family", "model") if key in facts)
    widest = next((name for name in _WIDEST if name in facts.get("flags", "").split()), "")
    return ", ".join(filter(None, (platform.machine(), facts.get("model name"), generation, widest)))
