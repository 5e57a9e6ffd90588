"""The results as tables and a plot, and whether the run was quiet enough to be conclusive."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import median

MOST_OTHERS = 0.05
"""The maximum share of the CPU that other processes may use."""
MOST_SPREAD = 0.15
"""The maximum spread of rounds: fastest minus slowest of the usual job, as a share of their median."""

SQLITE, POSTGRESQL = "Onefold, SQLite", "Onefold, PostgreSQL"
TWO = ", two workers"
BARE, SQLITE3, ASYNCPG = "bare FastAPI", "bare sqlite3", "bare asyncpg"
GUIDE, TEMPLATE = "the guide's code, PostgreSQL", "the template's shape, PostgreSQL"
POCKETBASE = "PocketBase, SQLite, all cores"


USUAL, MANY = 16, 256
"""Connections."""


@dataclass(frozen=True)
class Job:
    what: str
    connections: int = USUAL
    logins: int = 0
    """On how many connections others log in at the same time."""

    def __str__(self) -> str:
        return self.what + (f" during {self.logins} logins" if self.logins else "")


READ, LIST, CREATE, LOGIN = Job("read one"), Job("list of 100"), Job("create"), Job("login", 4)
DISTURBED = Job("read one", logins=8)
FIRST, LAST = Job("first page"), Job("last page")
TABLES = {
    "16 connections": (Job("the caller"), READ, Job("list of 20"), LIST, CREATE, Job("update"), LOGIN),
    "The first and the last page of a list of 20,000, by cursor": (FIRST, LAST),
    "One row, while others log in": (DISTURBED,),
    "256 connections": (Job("read one", MANY), Job("create", MANY)),
}


@dataclass(frozen=True)
class Sample:
    """One round of a job on a side."""

    rate: float
    """Requests a second."""
    p50: float
    p99: float
    cpu: float
    """Milliseconds, as p50 and p99 are: what the server's processes used for one request."""


@dataclass
class Results:
    about: list[str]
    """The machine and the conditions, in sentences."""
    samples: dict[tuple[str, Job], list[Sample]] = field(default_factory=dict)
    failures: dict[tuple[str, Job], str] = field(default_factory=dict)
    """What a side does under a load that it cannot bear."""
    start_up: dict[str, list[float]] = field(default_factory=dict)
    """Seconds until the first answer."""
    memory: dict[str, list[float]] = field(default_factory=dict)
    """MB of all processes of a side: idle, and after the load."""
    growth: dict[int, float] = field(default_factory=dict)
    """MB after so many requests."""
    others: float = 0
    """The share of the machine's CPU that went to other processes."""

    def sides(self) -> list[str]:
        return list(self.start_up)

    def middle(self, side: str, job: Job) -> Sample:
        samples = self.samples[side, job]
        return Sample(*(median(getattr(each, name) for each in samples) for name in Sample.__dataclass_fields__))

    def rounds(self) -> int:
        return min(map(len, self.samples.values()))

    def spread(self) -> float:
        return median(_spread(samples) for samples in self.samples.values())

    def noise(self) -> list[str]:
        """The reasons why the run is inconclusive; empty if it is conclusive."""
        reasons = []
        if self.others > MOST_OTHERS:
            reasons.append(f"other processes used {self.others:.0%} of the machine, and may use {MOST_OTHERS:.0%}")
        if self.spread() > MOST_SPREAD:
            reasons.append(f"rounds are {self.spread():.0%} apart, and may be {MOST_SPREAD:.0%}")
        if self.rounds() < 2:
            reasons.append("there was one round only")
        return reasons

    def compare(self, what: str, one: tuple[str, Job], other: tuple[str, Job]) -> float | None:
        """The ratio of two sides: the median over the rounds in which both were measured."""
        pairs = zip(self.samples.get(one, ()), self.samples.get(other, ()), strict=False)
        ratios = [getattr(a, what) / getattr(b, what) for a, b in pairs]
        return median(ratios) if ratios else None


def _spread(samples: Sequence[Sample]) -> float:
    rates = [sample.rate for sample in samples]
    return (max(rates) - min(rates)) / median(rates)


_DEADLOCK = """Where a session comes from a sync dependency, requests keep a connection while they wait for one of 40
threads, and those 40 threads wait for a connection: nothing is answered until the pool gives up after 30 s."""


def markdown(results: Results) -> str:
    noise = results.noise()
    verdict = f"**Too noisy to conclude**: {'; '.join(noise)}." if noise else "\n".join(_ratios(results))
    parts = [
        "# Performance",
        "Written by `./scripts/bench.sh`. Figures hold for this machine; ratios, of one round each, carry further.",
        "\n".join(f"* {sentence}" for sentence in results.about),
        f"* Other processes used {results.others:.1%} of the machine, and {results.rounds()} rounds are "
        f"{results.spread():.0%} apart.",
        "## Ratios",
        verdict,
        *([] if noise else ["![Requests a second, side by side](performance.svg)"]),
    ]
    for title, jobs in TABLES.items():
        measured = {job for _, job in (*results.samples, *results.failures)}
        rows = list(_figures(results, [job for job in jobs if job in measured]))
        if len(rows) > 1:
            legend = "Requests a second ± half the spread; p50 / p99 in ms; ms of server CPU for one request."
            parts += [f"## {title}", legend, _table(*rows)]
    if results.failures:
        parts.append(_DEADLOCK)
    parts += ["## Start-up and memory", _table(*_processes(results))]
    if results.growth:
        rows = [
            ("requests", *(f"{count:,}" for count in results.growth)),
            ("MB", *map("{:.0f}".format, results.growth.values())),
        ]
        parts += ["## Memory over many requests", _table(*rows)]
    return "\n\n".join(parts).replace("\n\n* Other", "\n* Other") + "\n"


def _table(head: Sequence[str], *rows: Sequence[str]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(results: Results, jobs: Sequence[Job]) -> Iterator[Sequence[str]]:
    yield "", *(f"{job}{' (4)' if job.connections == 4 else ''}" for job in jobs)
    for side in results.sides():
        if any((side, job) in results.samples or (side, job) in results.failures for job in jobs):
            yield side, *(_cell(results, side, job) for job in jobs)


def _cell(results: Results, side: str, job: Job) -> str:
    if (side, job) not in results.samples:
        return results.failures.get((side, job), "")
    middle, spread = results.middle(side, job), _spread(results.samples[side, job])
    cpu = "" if job.logins else f"<br>{middle.cpu:.2f}"  # most of the time is theirs
    return f"**{_number(middle.rate)}** ±{spread / 2:.0%}<br>{middle.p50:.1f} / {middle.p99:.1f}{cpu}"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _ratios(results: Results) -> Iterator[str]:
    """The claims about speed, and the measured ratios."""

    def line(title: str, what: str, *pairs: tuple[str, tuple[str, Job], tuple[str, Job]]) -> Iterator[str]:
        found = [(name, results.compare(what, one, other)) for name, one, other in pairs]
        if ratios := ", ".join(f"{name} **{ratio:.2f}**" for name, ratio in found if ratio is not None):
            yield f"* {title}: {ratios}"

    def sides(title: str, what: str, one: str, other: str) -> Iterator[str]:
        return line(title, what, *((job.what, (one, job), (other, job)) for job in TABLES["16 connections"]))

    yield from sides("PostgreSQL to the template's shape, requests a second", "rate", POSTGRESQL, TEMPLATE)
    yield from sides("PostgreSQL to the template's shape, p99", "p99", POSTGRESQL, TEMPLATE)
    yield from sides("PostgreSQL to the template's shape, server CPU", "cpu", POSTGRESQL, TEMPLATE)
    yield from sides("PostgreSQL to the guide's code, requests a second", "rate", POSTGRESQL, GUIDE)
    yield from sides("SQLite to bare FastAPI, requests a second", "rate", SQLITE, BARE)
    yield from sides("PostgreSQL to bare FastAPI, requests a second", "rate", POSTGRESQL, BARE)
    yield from sides("SQLite to the bare driver, requests a second", "rate", SQLITE, SQLITE3)
    yield from sides("PostgreSQL to the bare driver, requests a second", "rate", POSTGRESQL, ASYNCPG)
    yield from sides("SQLite to PocketBase, requests a second", "rate", SQLITE, POCKETBASE)
    yield from sides("Two workers to one, requests a second, SQLite", "rate", SQLITE + TWO, SQLITE)
    yield from sides("Two workers to one, requests a second, PostgreSQL", "rate", POSTGRESQL + TWO, POSTGRESQL)
    both = {"SQLite": SQLITE, "PostgreSQL": POSTGRESQL, "the template's shape": TEMPLATE}
    deep = [(name, (side, LAST), (side, FIRST)) for name, side in both.items()]
    yield from line("Last page of 20,000 rows to the first, p50", "p50", *deep)
    disturbed = [(name, (side, DISTURBED), (side, READ)) for name, side in both.items()]
    yield from line("During 8 logins to without, p99 of reading one row", "p99", *disturbed)
    if {SQLITE, BARE} <= results.start_up.keys():
        ratio = median(results.start_up[SQLITE]) / median(results.start_up[BARE])
        yield f"* Start-up, SQLite to bare FastAPI: **{ratio:.2f}**"


def _processes(results: Results) -> Iterator[Sequence[str]]:
    yield "", "seconds until the first answer", "MB idle", "MB after the load"
    for side in results.sides():
        yield side, f"{median(results.start_up[side]):.2f}", *(f"{each:.0f}" for each in results.memory[side])


_COLOURS = {"Onefold": "#1b7837", "bare": "#9e9e9e", "PocketBase": "#7b6fa8"}
_OTHER_COLOUR = "#d98032"


def svg(results: Results) -> str:
    """Bars of requests per second by job, with their ratios to the template's shape, or to the first side."""
    base = TEMPLATE if TEMPLATE in results.sides() else results.sides()[0]
    y, shapes = 60, []
    for job in TABLES["16 connections"]:
        rates = {side: results.middle(side, job).rate for side in results.sides() if (side, job) in results.samples}
        if not rates:
            continue
        shapes.append(f'<text x="16" y="{y + 14}" class="job">{escape(str(job))}, {job.connections} connections</text>')
        y += 22
        for side, rate in rates.items():
            width = max(2, 430 * rate / max(rates.values()))
            colour = next((colour for name, colour in _COLOURS.items() if side.startswith(name)), _OTHER_COLOUR)
            ratio = results.compare("rate", (side, job), (base, job))
            times = f", {ratio:.2g}x" if ratio and not results.noise() else ""
            shapes += [
                f'<text x="230" y="{y + 12}" text-anchor="end">{escape(side)}</text>',
                f'<rect x="238" y="{y + 1}" width="{width:.0f}" height="14" fill="{colour}"/>',
                f'<text x="{244 + width:.0f}" y="{y + 12}">{_number(rate)}{times}</text>',
            ]
            y += 18
        y += 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {y}" font-family="sans-serif" font-size="12">',
            "<style>text { fill: #222 } .title { font-size: 16px } .job { font-weight: bold }</style>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="16" y="26" class="title">Requests a second, and times those of {escape(base)}</text>',
            f'<text x="16" y="44">{escape(results.about[0])}</text>',
            *shapes,
            "</svg>",
            "",
        ]
    )
