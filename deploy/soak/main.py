#!/usr/bin/env python3
"""The soak: parts at the highest steady speed, faults all the time, one process, and the question whether anything grows.

deploy/soak.sh starts it and says what it is for. Each second is one row of samples.csv, each export of the journal one
of intervals.csv, each fault one of faults.csv; report.txt and report.json are what came of it.

Exit codes: 0 flat and nothing wrong; 1 something grows or was wrong; 3 nothing wrong, but too short or too noisy to
tell; 130 ended by a signal with nothing wrong.
"""

import argparse
import csv
import json
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from demo_plc import read_symbols
from faults import Faults
from growth import HEADER, growth
from ledger import Ledger
from line import until
from plcs import SoakPlc
from yardstick import Yardstick
from hall import PLC_STATIONS, Hall, bytes_below, process_now

SAMPLE_S = 1.0
EXPORT_S = 8.0
SHOW_S = 10.0
FOLDERS_S = 5.0
NO_PART_S = 120.0
SETTLE_S = 60.0
RELOAD_S = 4.0  # a trigger that was sent so near to a restart in process may have been refused
FLAT, GROWS, CANNOT_TELL = "flat", "grows", "cannot tell"
COLUMNS = (
    "time_s", "parts", "rss_mb", "anonymous_mb", "file_mb", "shared_mb", "handles", "threads", "journal_mb", "archive_mb",
    "run_mb", "disk_mb", "backlog", "queued", "archive_dropped", "faults", "fault_now",
)
INTERVALS = ("time_s", "parts", "records", "p50_us", "p99_us", "p999_us", "most_us", "machine_p99_us")


class Rows:
    """A CSV file that is whole up to its last row at any time."""

    def __init__(self, path, columns):
        self.file = open(path, "w", newline="", encoding="utf-8")
        self.out = csv.DictWriter(self.file, columns, restval="")
        self.out.writeheader()
        self.rows = []

    def add(self, row):
        self.rows.append(row)
        self.out.writerow(row)
        self.file.flush()

    def column(self, name):
        return [row.get(name, float("nan")) for row in self.rows]


class Soak:
    """One run, from the start to the report."""

    def __init__(self, arguments, stop):
        self.wanted, self.out, self.stop = arguments.parts, arguments.out, stop
        self.hall = Hall(arguments.inspectd, arguments.model, arguments.work, arguments.seed)
        self.end_peers = threading.Event()
        symbols = read_symbols(arguments.inspectd)
        self.plcs = [
            SoakPlc(self.hall.port, unit, symbols, self.end_peers, name, acknowledges=unit == 1)
            for unit, name in enumerate(PLC_STATIONS, start=1)
        ]
        self.ledger = Ledger(self.hall, self.plcs)
        self.faults = Faults(self.hall, self.plcs, self.end_peers, lambda: self.parts, arguments.can_fill)
        self.samples = Rows(self.out / "samples.csv", COLUMNS)
        self.intervals = Rows(self.out / "intervals.csv", INTERVALS)
        self.parts, self.restarts, self.wrong = 0, 0, []
        self.yardstick = Yardstick()
        self.began = time.monotonic()
        self.folders = (0.0, 0.0, 0.0, 0.0)

    def run(self):
        self.yardstick.start()
        self.hall.start()
        self.began = time.monotonic()
        for thread in self.plcs:
            thread.start()
        until(self.faults.is_whole, 120, "every station is ready for the first time", pause_s=0.2)
        self.faults.began = self.began
        self.faults.start()
        self.watch()
        return self.finish()

    # ------------------------------------------------------------------ while it runs

    def watch(self):
        due = exported = shown = time.monotonic()
        moved = (0, time.monotonic())
        while self.parts < self.wanted and not self.stop.is_set():
            now = time.monotonic()
            self.sample(now)
            if now - exported >= EXPORT_S:
                self.export()
                exported = now
            if now - shown >= SHOW_S:
                self.show(now)
                shown = now
            if self.parts > moved[0]:
                moved = (self.parts, now)
            elif now - moved[1] > NO_PART_S:
                self.wrong.append(f"no part for {NO_PART_S:.0f} s at {self.parts} parts")
                return
            if not self.hall.daemon.is_running():
                self.wrong.append(f"inspectd ended with exit code {self.hall.daemon.ended()}")
                return
            due = max(due + SAMPLE_S, time.monotonic())
            self.stop.wait(max(0.0, due - time.monotonic()))

    def sample(self, now):
        status = self.hall.status()
        try:
            mb, handles, threads = process_now(self.hall.daemon.pid)
        except (OSError, KeyError):
            return  # it ended, which is seen elsewhere
        if now - self.folders[0] >= FOLDERS_S:
            archive = bytes_below(self.hall.journal / "archive")
            self.folders = (now, bytes_below(self.hall.journal) - archive, archive, bytes_below(self.hall.run))
        _, journal, archive, run = (size / 1e6 for size in self.folders)
        row = {
            "time_s": round(now - self.began, 2), "rss_mb": mb["VmRSS"], "anonymous_mb": mb["RssAnon"],
            "file_mb": mb["RssFile"], "shared_mb": mb["RssShmem"], "handles": handles, "threads": threads,
            "journal_mb": journal, "archive_mb": archive, "run_mb": run, "disk_mb": journal + archive + run,
            "faults": len(self.faults.log), "fault_now": self.faults.now,
        }
        if status and status["journal"]:
            # What the export has not seen yet is parts, but for an event here and there.
            known = self.ledger.events - sum(self.ledger.not_kept.values())
            self.parts = max(self.parts, status["journal"]["sequence"] - known)
            self.count(status["stations"])
            row |= {"queued": status["journal"]["queued"], "backlog": (status["mqtt"] or {}).get("backlog", "")}
            row["archive_dropped"] = (status["archive"] or {}).get("dropped", "")
        self.samples.add(row | {"parts": self.parts})

    def count(self, stations):
        """The daemon's own counters: each trigger that was accepted has a verdict, but for the one in hand."""
        for station in stations:
            name, counters = station["state"]["station"], station["state"]["counters"]
            answered = sum(counters[word] for word in ("pass", "review", "reject", "fault", "challenges"))
            # Results that wait for their acknowledgement are in hand, too.
            if not 0 <= counters["accepted"] - answered <= 1:
                self.wrong.append(f"{name}: {counters['accepted']} triggers accepted, {answered} answered")

    def export(self):
        totals = self.ledger.take()
        if totals:
            p50, p99, p999, most = np.percentile(totals, [50, 99, 99.9, 100], method="inverted_cdf")
            self.intervals.add({
                "time_s": round(time.monotonic() - self.began, 2), "parts": self.ledger.parts, "records": len(totals),
                "p50_us": int(p50), "p99_us": int(p99), "p999_us": int(p999), "most_us": int(most),
                "machine_p99_us": int(np.percentile(self.yardstick.take() or [0], 99)),
            })

    def show(self, now):
        row = self.samples.rows[-1] if self.samples.rows else {}
        rate = self.parts / max(now - self.began, 1)
        left = (self.wanted - self.parts) / max(rate, 1) / 60
        wrong = len(self.wrong) + len(self.ledger.wrong) + len(self.faults.wrong())
        print(
            f"soak: {self.parts:>9,} parts, {rate:.0f}/s, {left:.0f} min to go; memory {row.get('rss_mb', 0):.1f} MB"
            f" ({row.get('anonymous_mb', 0):.1f} anonymous), {row.get('handles', 0)} handles, {row.get('threads', 0)} threads;"
            f" {len(self.faults.log)} faults; {wrong} wrong",
            flush=True,
        )

    # ------------------------------------------------------------------ the end

    def finish(self):
        print("soak: ending: PLCs, broker's backlog, journal", flush=True)
        took_s = time.monotonic() - self.began
        self.end_peers.set()
        for thread in (self.faults, *self.plcs):
            thread.join(timeout=SETTLE_S * 3)
        if self.hall.daemon.is_running():
            try:
                self.hall.reload()  # whatever the last fault left
                until(self.faults.is_whole, SETTLE_S, "the broker has what the journal has")
            except Exception as error:
                self.wrong.append(f"at the end: {error}")
        code = self.hall.stop()
        if code != 0:
            self.wrong.append(f"inspectd ended with exit code {code}")
        self.export()
        checked = self.hall.command("journal", "check", "--config", self.hall.config)
        if checked.returncode != 0:
            self.wrong.append(f"inspectd journal check: {checked.stdout[-2000:]}")
        self.write_faults()
        return self.report(took_s, checked.stdout.strip().splitlines()[-1:])

    def write_faults(self):
        rows = Rows(self.out / "faults.csv", ("time_s", "parts", "fault", "took_s", "healed_s", "outcome"))
        for row in self.faults.log:
            rows.add(row)
        shutil.copyfile(self.hall.work / "inspectd.log", self.out / "inspectd.log")

    def unexplained_triggers(self):
        """Triggers without a result and without a record, but for those beside a restart in process, which it refuses."""
        left = [(plc.station, i, sent) for plc in self.plcs for i, sent in (*plc.left, *plc.open.items())]
        reloads = self.faults.reloads
        refused = [one for one in left if any(abs(one[2] - at) < RELOAD_S for at in reloads)]
        return len(refused), [one for one in left if one not in refused]

    def series(self):
        """What is tested, and what is accepted as noise: see deploy/manual/operation.md for why."""
        samples, intervals = self.samples, self.intervals
        parts = samples.column("parts")

        def of(name, column, unit, accepted, share=0.0):
            values = samples.column(column)
            return growth(name, unit, parts, values, max(accepted, share * float(np.nanmedian(values or [0]))))

        def slow(name, column):
            ms = [us / 1e3 for us in intervals.column(column)]
            return growth(name, "ms", intervals.column("parts"), ms, 0.5 * float(np.median(ms or [0])))

        p99, machine = slow("p99, trigger to result", "p99_us"), slow("p99, the machine's", "machine_p99_us")
        if p99 and p99.verdict == GROWS and machine.verdict != FLAT:
            p99 = replace(p99, verdict=CANNOT_TELL)
        return [
            of("memory", "rss_mb", "MB", 0, 0.03),
            of("anonymous memory", "anonymous_mb", "MB", 0, 0.03),
            of("handles", "handles", "", 1),
            of("threads", "threads", "", 4),
            of("journal", "journal_mb", "MB", 0, 0.05),
            of("archive", "archive_mb", "MB", 0, 0.05),
            of("run_dir", "run_mb", "MB", 0, 0.05),
            p99,
        ], machine

    def report(self, took_s, journal):
        ledger, (grown, machine) = self.ledger, self.series()
        refused, unexplained = self.unexplained_triggers()
        wrong = [*self.wrong, *ledger.wrong, *self.faults.wrong(), *(text for plc in self.plcs for text in plc.wrong)]
        wrong += [f"{s}: {n} parts have no record and no event tells of them" for s, n in ledger.gaps().items()]
        wrong += [f"{s}: trigger_id {i} has neither a result nor a record" for s, i, _ in unexplained]
        if ledger.left():
            wrong.append(f"{ledger.left()} results were read by a PLC and are not in the journal")
        kinds = Counter(row["fault"] for row in self.faults.log)
        lines = [
            f"{ledger.parts + sum(ledger.not_kept.values())} parts in {took_s:.0f} s ({ledger.parts / took_s:.0f} a second), one process;"
            f" {sum(kinds.values())} faults: " + ", ".join(f"{name} {n}" for name, n in sorted(kinds.items())),
            "verdicts: " + ", ".join(f"{name} {n}" for name, n in ledger.verdicts.most_common())
            + "; parts that are faults: " + ", ".join(f"{name} {n}" for name, n in ledger.faults.most_common()),
            f"records: {ledger.sequence} sequences, none missing unless told below; {sum(ledger.not_kept.values())} parts were"
            f" rejected without a record while the disk was full; journal check: {' '.join(journal)}",
            f"PLCs: {sum(p.sent for p in self.plcs)} triggers, {sum(p.read_results for p in self.plcs)} results read,"
            f" {ledger.compared} of them compared with their records, {ledger.found} parts of broken connections found in the"
            f" journal, {refused} refused beside a restart in process; {sum(p.cuts for p in self.plcs)} connections broken",
            "events: " + ", ".join(f"{name} {n}" for name, n in ledger.kinds.most_common()),
            "", HEADER, *(g.line() for g in (*grown, machine) if g), "",
        ]
        told = {g.verdict for g in grown if g} | ({CANNOT_TELL} if None in grown else set())
        if self.parts < self.wanted:
            lines.append(f"ended early: {self.parts} of {self.wanted} parts")
        lines += [f"WRONG: {text}" for text in wrong]
        growing = GROWS in told
        lines.append(
            "GROWS" if growing else "wrong, see above" if wrong else "cannot tell: too short or too noisy"
            if CANNOT_TELL in told else "nothing grows, nothing wrong"
        )
        text = "\n".join(lines) + "\n"
        print(text, end="", flush=True)
        (self.out / "report.txt").write_text(text)
        about = {"parts": self.parts, "seconds": took_s, "growth": [asdict(g) for g in (*grown, machine) if g], "wrong": wrong}
        about |= {"faults": kinds, "verdicts": ledger.verdicts, "fault_verdicts": ledger.faults, "events": ledger.kinds}
        (self.out / "report.json").write_text(json.dumps(about, indent=1, default=str) + "\n")
        if growing or wrong:
            return 1
        return 130 if self.stop.is_set() else 3 if CANNOT_TELL in told else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inspectd", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder that goes with the run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--can-fill", action="store_true", help="WORK/disk is a file system of its own")
    arguments = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    soak = Soak(arguments, stop)
    try:
        return soak.run()
    except Exception:
        print((arguments.work / "inspectd.log").read_text(errors="replace")[-3000:], file=sys.stderr)
        raise
    finally:
        soak.end_peers.set()
        soak.yardstick.stop()
        soak.hall.stop()


if __name__ == "__main__":
    sys.exit(main())
