"""The machine, from /proc: its description, and the CPU and memory of processes."""

import os
import platform
import re
import time
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0))


def description() -> str:
    model = re.search(r"^model name\s*: (.+)$", (_PROC / "cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    kernel = f"{platform.system()} {platform.release().split('-')[0]}"
    return f"{CORES} cores ({model[1] if model else platform.machine()}), {memory:.0f} GiB, {kernel}"


def _stat(pid: int | str) -> list[str]:
    """The fields of proc(5) from the third on, because the second may contain spaces. Empty for a dead process."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents = {int(path.name): stat[1] for path in _PROC.glob("[0-9]*") if (stat := _stat(path.name))}
    found = [pid]
    for each in found:  # the list grows in the loop
        found += [child for child, parent in parents.items() if parent == str(each)]
    return found


def cpu(pid: int, *, reaped: bool = False) -> float:
    """CPU seconds of a process and its descendants, on request including ended ones."""
    fields = slice(11, 15 if reaped else 13)
    return sum(int(ticks) for each in family(pid) for ticks in _stat(each)[fields]) / _TICKS


def resident(pid: int) -> float:
    """The resident memory of a process and its descendants in MB."""
    pages = 0
    for each in family(pid):
        if stat := _stat(each):
            pages += int(stat[21])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Others:
    """Measures the CPU that other processes, or other machines on the same hardware, have used."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        user, nice, system, _idle, _iowait, _irq, _softirq, steal, *_ = map(
            int, (_PROC / "stat").read_text().split()[1:11]
        )
        return time.monotonic(), (user + nice + system + steal) / _TICKS - cpu(os.getpid(), reaped=True)

    def share(self) -> float:
        """From 0 to 1, since the creation of this object."""
        (began, before), (now, after) = self._before, self._now()
        return max(0.0, (after - before) / (now - began) / CORES)
