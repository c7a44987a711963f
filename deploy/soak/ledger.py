"""The ledger: every record of the run, taken out of the journal with `inspectd journal export` while it is written.

It is kept beside the daemon, and knows nothing but what is exported and what PLCs have read: no sequence and no part
is missing, no part passes but on a score below its limit, and what a PLC has read stands in the journal.

Never here: the daemon's own counters (main.py compares those).
"""

import json
import re
from collections import Counter
from datetime import datetime, timedelta, timezone

VERDICTS = {"pass": 1, "review": 2, "reject": 3, "fault": 4}
JOURNAL_FULL = 50
OVERLAP_S = 40  # a full disk holds records back: their time is older than their sequence says
LOST = re.compile(r"^(\d+) parts, the last of them (\d+), are not in the journal")
NEVER = {"unclean_stop", "journal_quarantined", "undelivered_dropped", "gave_up", "audit_trouble"}
TOLD = 20


class Ledger:
    """What the journal has said so far."""

    def __init__(self, hall, plcs):
        self.hall, self.plcs = hall, {plc.station: plc for plc in plcs}
        self.sequence = 0
        self.newest = None  # time of the newest record
        self.parts, self.events = 0, 0
        self.last = {}  # station: its last part
        self.missing, self.not_kept = Counter(), Counter()  # by station
        self.verdicts, self.faults, self.kinds = Counter(), Counter(), Counter()
        self.compared, self.found = 0, 0
        self.wrong = []
        self.totals_us = []

    def complain(self, text):
        if len(self.wrong) < TOLD:
            self.wrong.append(text)
        elif len(self.wrong) == TOLD:
            self.wrong.append("and more")

    def take(self):
        """Exports what is new and reads it. Returns trigger to result of its parts, microseconds."""
        out = self.hall.work / "export.jsonl"
        since = [] if self.newest is None else ["--from", (self.newest - timedelta(seconds=OVERLAP_S)).isoformat()]
        done = self.hall.command("journal", "export", "--dir", self.hall.journal, "--format", "jsonl", "--out", out, *since)
        if done.returncode != 0:
            self.complain(f"journal export ended with {done.returncode}: {done.stderr[-300:]}")
            return []
        self.totals_us = []
        with open(out, encoding="utf-8") as file:
            for line in file:
                # The sequence stands near the front: what is known already is not parsed.
                sequence = int(line[line.index('"sequence":', 0, 120) + 11 : line.index(",", 60)])
                if sequence > self.sequence:
                    self.record(sequence, json.loads(line))
        return self.totals_us

    def record(self, sequence, record):
        if sequence != self.sequence + 1:
            self.complain(f"sequences {self.sequence + 1} to {sequence - 1} are missing")
        self.sequence = sequence
        if "event" in record:
            self.event(record)
        else:
            self.inspection(record)

    def event(self, event):
        self.events += 1
        kind = event["event"]
        self.kinds[kind] += 1
        if kind in NEVER:
            self.complain(f"event {kind}: {event['message']}")
        if kind == "inspections_lost":
            told = LOST.match(event["message"])
            if told is None:
                self.complain(f"event {kind}: {event['message']}")
            else:
                self.not_kept[event["station"]] += int(told[1])

    def inspection(self, record):
        self.parts += 1
        station, part, verdict = record["station"], record["part"], record["verdict"]
        self.missing[station] += part - self.last.get(station, 0) - 1
        if part <= self.last.get(station, 0):
            self.complain(f"{station}: part {part} comes after part {self.last[station]}")
        self.last[station] = part
        self.verdicts[verdict] += 1
        if verdict == "fault":
            self.faults[record.get("fault")] += 1
        if (record["gate"] == "pass" or verdict == "pass") and not earned(record):
            self.complain(f"{station}: part {part} passed without having earned it: {json.dumps(record)}")
        self.totals_us.append(record["times_us"]["total"])
        trigger = record["trigger"]
        self.newest = time_of(trigger["accepted"])
        plc = self.plcs.get(station)
        if plc is not None:
            self.compare(plc, part, trigger["trigger_id"], record)

    def compare(self, plc, part, trigger_id, record):
        """With what the PLC read; a trigger whose result it never read is found here all the same."""
        with plc.lock:
            read = plc.results.pop(part, None)
            sent = plc.open.get(trigger_id)
            # Ids come again after 65,535 parts; those of a part still in hand stay.
            if read is None and sent is not None and abs(self.newest.timestamp() - sent) < OVERLAP_S:
                del plc.open[trigger_id]
                self.found += 1
        if read is None:
            return
        self.compared += 1
        expected = (trigger_id, VERDICTS[record["verdict"]], 1 if record["gate"] == "pass" else 2)
        if read[:3] != expected:
            self.complain(f"{plc.station}: part {part} was read as {read}, and is in the journal as {expected}")

    def gaps(self):
        """Parts without a record that no event explains, by station."""
        return {s: n - self.not_kept[s] for s, n in self.missing.items() if n > self.not_kept[s]}

    def left(self):
        """At the end: results that were read and are not in the journal, but for those that said so themselves."""
        return sum(result[3] != JOURNAL_FULL for plc in self.plcs.values() for result in plc.results.values())


def earned(record):
    """Whether every look has a score at or below its own limit."""
    views = record["views"]
    return record["verdict"] == "pass" and bool(views) and all(
        view["score"] is not None and view["thresholds"] is not None and view["score"] <= view["thresholds"]["review"]
        for view in views
    )


def time_of(text):
    """Of RFC 3339 with nanoseconds."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}").replace(tzinfo=timezone.utc)
