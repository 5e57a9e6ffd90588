"""`python -m tests.bench`: measures, and writes docs/performance.md and docs/performance.svg. See `--help`."""

import argparse
import asyncio
import logging
import platform
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, cycle, islice
from pathlib import Path

import psycopg
import uvloop

from tests.bench import load, machine, report
from tests.bench.report import CREATE, LIST, LOGIN, READ, SQLITE, TABLES, Job, Results, Sample
from tests.bench.sides import Requests, Server, pocketbase, sides
from tests.postgres import Postgres, find_binaries
from tests.service import ROOT

LIMIT = 590
"""The maximum seconds of a run, without `--growth`. No round starts that would end later."""


@dataclass(frozen=True)
class Plan:
    rounds: int = 3
    seconds: float = 2
    """Of each job in each round."""
    jobs: Sequence[Job] = tuple(chain(*TABLES.values()))
    only: Sequence[str] = ("",)
    """Sides with one of these in their name."""
    rows: int = 1_000
    deep: int = 20_000
    """Of the list that is read, and of the one whose last page is compared with its first."""
    generator: str | None = None
    growth: int = 0
    """How many requests to send to the service in the end, to see its memory grow."""


QUICK = Plan(rounds=2, seconds=1, jobs=(READ, LIST, CREATE, LOGIN), deep=0)


def measure(plan: Plan) -> Results:
    end = time.monotonic() + LIMIT
    generator, generate = load.choose(plan.generator, plan.seconds)
    others = machine.Others()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onefold-bench-")))
        postgresql, make_database = _postgresql(stack)
        results = Results(_about(plan, generator, postgresql))

        servers: list[Server] = []
        for side in sides(folder, make_database):
            if any(word in side.name for word in plan.only):
                _progress(f"starting {side.name}")
                side.set_up()
                servers.append(Server(side, folder))
                stack.callback(servers[-1].end)
                results.start_up[side.name] = [servers[-1].start_up]
        results.memory = {server.side.name: [server.resident()] for server in servers}

        filled: dict[str, Requests] = {}
        for server in servers:
            _progress(f"filling {server.side.name}")
            if server.side.api:
                api = server.side.api(server.port)
                with api.client:
                    filled[server.side.data] = api.fill(plan.rows, plan.deep)
            server.requests = filled[server.side.data]
        work = [(job, server) for job in plan.jobs for server in servers if server.can(job)]
        for job, server in work:
            if job.connections > report.USUAL:
                continue
            _progress(f"warming up {server.side.name}")
            uvloop.run(load.send(server.port, islice(cycle(server.requests[job.what]), 200), job.connections, 0.5))

        longest = 0.0
        for turn in range(plan.rounds):
            began = time.monotonic()
            if began + longest > end:
                break
            for done, (job, server) in enumerate(work):
                _progress(f"round {turn + 1} of {plan.rounds}, {done / len(work):.0%}: {job}, {server.side.name}")
                if (key := (server.side.name, job)) in results.failures:
                    continue
                try:
                    sample = uvloop.run(_sample(job, server, generate, plan.seconds))
                    results.samples.setdefault(key, []).append(sample)
                except load.Failure as failure:
                    if job.connections <= report.USUAL:
                        raise SystemExit(
                            f"{server.side.name} {failure}: {job}\n{server.process.text[-2000:]}"
                        ) from None
                    results.failures[key] = str(failure)
                    results.samples.pop(key, None)
                    server.end()  # it may hang for longer than this run
                    server.start()
            for server in servers:
                another = Server(server.side, folder)
                another.end()
                results.start_up[server.side.name].append(another.start_up)
            longest = max(longest, time.monotonic() - began)
        results.others = others.share()
        for server in servers:
            results.memory[server.side.name].append(server.resident())
            if server.side.name == SQLITE and plan.growth:
                results.growth = uvloop.run(_grow(server, generate, plan))
    _progress("")
    return results


async def _sample(job: Job, server: Server, generate: load.Generator, seconds: float) -> Sample:
    before = server.cpu()
    loads = [generate(server.port, server.requests[job.what], job.connections, seconds)]
    if job.logins:
        loads.append(generate(server.port, server.requests["login"], job.logins, seconds))
    result, *_ = await asyncio.gather(*loads)
    used = server.cpu() - before
    if job.connections > report.USUAL:
        await load.send(server.port, server.requests[job.what][:1], 1)  # does it still answer?
    return Sample(result.done / result.seconds, result.p50, result.p99, used / result.done * 1e3)


async def _grow(server: Server, generate: load.Generator, plan: Plan) -> dict[int, float]:
    """Send this many requests of several kinds. Returns the memory in MB after every tenth of them."""
    done, found = 0, {0: server.resident()}
    for job in cycle((READ, LIST, CREATE)):
        done += (await generate(server.port, server.requests[job.what], job.connections, plan.seconds)).done
        _progress(f"{done:,} of {plan.growth:,} requests: {server.resident():.0f} MB")
        if done >= plan.growth * len(found) / 10:
            found[done] = server.resident()
        if done >= plan.growth:
            return found
    raise AssertionError  # for the type checker: the loop has no end


def _postgresql(stack: ExitStack) -> tuple[str | None, Callable[[str], str] | None]:
    """The version of a throwaway server, and a function that creates databases on it; None if none is installed."""
    binaries = find_binaries()
    if binaries is None:
        return None, None
    server = Postgres(binaries)
    stack.callback(server.remove)
    server.start()

    def make_database(name: str) -> str:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return server.url(name)

    with psycopg.connect(server.url()) as connection:
        return str(connection.info.parameter_status("server_version")).split()[0], make_database


def _about(plan: Plan, generator: str, postgresql: str | None) -> list[str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("FastAPI", "SQLAlchemy", "uvicorn"))
    by = (
        "wrk"
        if generator == "wrk"
        else "Python, which is the limit of what is faster than some 7,000 requests a second"
    )
    return [
        f"{machine.description()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, PostgreSQL {postgresql or 'left out (not found)'}, {libraries}.",
        f"Load by {by}, on the same machine, {plan.seconds:g} s for each job, by turns.",
        f"An ordinary user with {plan.rows:,} rows lists them; 16 others create, read and change one by turns.",
        "PostgreSQL runs without fsync, SQLite as the service sets it up: no write waits for a disk.",
        "Each side may have 15 connections to PostgreSQL. The service and its peers log accesses.",
        *([] if pocketbase() else ["PocketBase is left out: it is not on the PATH, and POCKETBASE names none."]),
    ]


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)


def write(results: Results, output: Path) -> list[str]:
    """Write the report. Returns the reasons why the run is too noisy; empty if it is not."""
    output.mkdir(exist_ok=True)
    (output / "performance.md").write_text(report.markdown(results))
    (output / "performance.svg").write_text(report.svg(results))
    return results.noise()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.sh", description="Measure the service beside its limits and peers.")
    parser.add_argument("--quick", action="store_true", help="about a minute: fewer jobs and rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="seconds of each job in each round")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only sides whose name contains this; repeatable"
    )
    parser.add_argument(
        "--generator", choices=["wrk", "own"], help="the default is wrk if it is installed, otherwise our own"
    )
    parser.add_argument(
        "--growth", type=int, metavar="N", help="send N more requests at the end and measure the memory"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs", metavar="FOLDER")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    output, quick = given.pop("output"), given.pop("quick")
    logging.disable(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that started processes end too
    results = measure(replace(QUICK if quick else Plan(), **given))
    noise = write(results, output)
    print(report.markdown(results))
    print(f"Written to {output}")
    if noise:
        sys.exit(f"Too noisy to conclude: {'; '.join(noise)}")


if __name__ == "__main__":
    main()
