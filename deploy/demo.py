#!/usr/bin/env python3
"""The demo's PLC and its MQTT consumer, shown part by part. demo.sh starts it.

`demo.py configure` fills ports, folders and the model into a copy of demo.toml. `demo.py subscribe` makes
the consumer's session at the broker before there is anything to miss. `demo.py watch` is what a line has
around the daemon: a PLC (pymodbus) that triggers station 1 and reads both stations, and a
consumer (paho-mqtt) of all that is published.

The PLC's side is what a real one has to do: see demo_plc.py.
"""

import argparse
import json
import math
import os
import queue
import re
import shutil
import signal
import sys
import threading
import time
import tomllib

import paho.mqtt.client as paho
from demo_plc import POLL_S, Plc, Reader, read_symbols

# The viewer.
OTHER_SIDE_S = 3.0  # a part that was seen on one side only is shown without the other after this long
BROKER_LIMIT_S = 15.0
SETTLE_S = 5.0  # at the end, wait for MQTT to catch up
START_LIMIT_S = 60.0  # no part by then: something is wrong
BAR_CELLS, BAR_LIMIT = 14, 9  # cells of the score bar, and those up to the limit

VERDICTS = {1: "pass", 2: "review", 3: "reject", 4: "fault"}
GOALS = {"escapes": 5.0, "false rejects": 2.0}  # per cent


# ---------------------------------------------------------------------------- configure


def configure(arguments):
    """Prints the configuration. Every setting that is replaced must be there: once, or once a station."""
    with open(arguments.template, encoding="utf-8") as file:
        text = file.read()
    stations = len(tomllib.loads(text)["station"])
    quoted = json.dumps  # a JSON string is a TOML string

    def put(key, value, times):
        nonlocal text
        text, found = re.subn(rf"(?m)^{key} = .*$", lambda _: f"{key} = {value}", text)
        if found != times:
            sys.exit(f"demo: {arguments.template}: expected `{key} = ` {times} times, found {found}")

    put("listen", quoted(f"127.0.0.1:{arguments.modbus_port}"), 1)
    put("port", arguments.mqtt_port, 1)
    put("dir", quoted(arguments.journal), 1)
    put("model", quoted(arguments.model), stations)
    if arguments.data:
        # Each station its own order: two that see the same part at the same time look like one.
        seed = iter(range(1, stations + 1))
        text = re.sub(r"(?m)^camera = .*$", lambda _: folder_camera(arguments.data, next(seed)), text)
    print(text, end="")


def folder_camera(folder, seed):
    path = json.dumps(folder)
    return f'camera = {{ kind = "folder", path = {path}, order = "shuffled", seed = {seed}, repeat = true }}'


# ---------------------------------------------------------------------------- MQTT


def consumer_of(mqtt):
    """A client with a session that the broker keeps: nothing is missed from `subscribe` on."""
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="demo-viewer", clean_session=False)
    client.reconnect_delay_set(1, 2)
    client.on_connect = lambda c, *_: c.subscribe(f"{mqtt['topic_prefix']}/#", qos=1)
    client.connect_async("127.0.0.1", mqtt["port"], keepalive=10)
    return client


def subscribe(arguments):
    """Makes the session, so that it is there before the daemon is."""
    done = threading.Event()
    client = consumer_of(read_config(arguments)["mqtt"])
    client.on_subscribe = lambda *_: done.set()
    client.loop_start()
    subscribed = done.wait(BROKER_LIMIT_S)
    client.disconnect()
    client.loop_stop()
    return 0 if subscribed else "demo: the broker does not answer"


def start_consumer(mqtt, shown):
    """Puts everything that comes into `shown`."""
    client = consumer_of(mqtt)

    def take(_client, _data, message):
        kind = message.topic.rsplit("/", 1)[-1]
        shown.put(("mqtt", kind, json.loads(message.payload)))

    client.on_message = take
    client.loop_start()
    return client


# ---------------------------------------------------------------------------- what is shown


class Paint:
    """Colours and characters, where the terminal has them."""

    CODES = {"pass": "32", "review": "33", "reject": "31", "fault": "35", "bad": "1;31", "dim": "2", "bold": "1"}

    def __init__(self, out):
        self.coloured = out.isatty() and "NO_COLOR" not in os.environ
        encoding = (out.encoding or "").lower()
        full = encoding.startswith("utf")
        self.full, self.empty, self.limit, self.more, self.rule = "█·│▶─" if full else "#.|>-"

    def __call__(self, kind, text):
        return f"\x1b[{self.CODES[kind]}m{text}\x1b[0m" if self.coloured and kind in self.CODES else text

    def bar(self, score, kind):
        """The score; the line across it is the limit, 1.00."""
        cells = 0 if not math.isfinite(score) else max(0, min(BAR_CELLS, round(score * BAR_LIMIT)))
        bar = self.full * cells + self.empty * (BAR_CELLS - cells)
        if math.isfinite(score) and round(score * BAR_LIMIT) > BAR_CELLS:
            bar = bar[:-1] + self.more
        return self(kind, bar[:BAR_LIMIT]) + self.limit + self(kind, bar[BAR_LIMIT:])


class Part:
    """What is known of one part from either side."""

    def __init__(self):
        self.since = time.monotonic()
        self.words = self.seen_us = self.record = None


class Viewer:
    """Puts the two sides together, prints a line for each part, and counts."""

    def __init__(self, stations, out):
        self.stations = stations  # names, the first is unit 1
        self.paint, self.out = Paint(out), out
        self.open = {}  # (station, part) -> Part
        self.done = set()
        self.first = {}  # station -> the first part that was read over Modbus
        self.counts = dict.fromkeys([*VERDICTS.values(), "parts", "carried", "good", "defective"], 0)
        self.counts |= {"escapes": 0, "false rejects": 0, "judged good": 0, "judged defective": 0}
        self.total_us, self.seen_us = [], []
        self.published, self.doubles = set(), 0
        self.one_sided, self.later, self.contradictions = 0, 0, 0
        self.status = None

    def take(self, kind, *what):
        if kind == "note":
            unit, text = what
            self.note(f"{self.stations[unit - 1]}: {text}")
        elif kind == "modbus":
            unit, words, seen_us = what
            self.first.setdefault(self.stations[unit - 1], words["part"])
            part = self.part(self.stations[unit - 1], words["part"])
            if part:
                part.words, part.seen_us = words, seen_us
        elif what[0] == "inspection":
            self.take_record(what[1])
        elif what[0] == "status":
            if what[1]["status"] != self.status:  # retained: it comes with each connection again
                self.status = what[1]["status"]
                self.note(f"MQTT status: {self.status}")

    def take_record(self, record):
        key = (record["journal"], record["sequence"])
        if key in self.published:
            self.doubles += 1
            return
        self.published.add(key)
        part = self.part(record["station"], record["part"])
        if part:
            part.record = record
        else:
            self.later += 1  # printed without it: the broker was away

    def part(self, station, number):
        key = (station, number)
        return None if key in self.done else self.open.setdefault(key, Part())

    def flush(self, force=None):
        """Prints what is complete, and what has waited too long for its other side.

        `force`: "complete" prints that only, "read" all that was read over Modbus.
        """
        now = time.monotonic()
        for key, part in list(self.open.items()):
            both = part.words is not None and part.record is not None
            waited = now - part.since > OTHER_SIDE_S
            if both or {None: waited, "complete": False, "read": part.words is not None}[force]:
                del self.open[key]
                self.done.add(key)
                if part.words is None and key[1] < self.first.get(key[0], 0):
                    continue  # inspected before the PLC was there
                self.one_sided += not both
                self.count(part)
                self.print_part(key[0], key[1], part)

    def count(self, part):
        words, record = part.words, part.record
        verdict = VERDICTS.get(words["verdict"], "fault") if words else record["verdict"]
        gate = (words["gate"] == 1) if words else record["gate"] == "pass"
        self.counts["parts"] += 1
        self.counts["carried"] += record is not None
        self.counts[verdict] += 1
        self.total_us.append(words["total_us"] if words else record["times_us"]["total"])
        if part.seen_us is not None:
            self.seen_us.append(part.seen_us)
        if words and record:
            self.contradictions += verdict != record["verdict"] or gate != (record["gate"] == "pass")
        truth = record.get("truth") if record else None
        if truth is None:
            return
        good = truth == "good"
        self.counts["good" if good else "defective"] += 1
        if verdict != "fault":
            self.counts["judged good" if good else "judged defective"] += 1
            self.counts["false rejects"] += good and not gate
            self.counts["escapes"] += not good and gate

    def print_part(self, station, number, part):
        words, record, paint = part.words, part.record, self.paint
        verdict = VERDICTS.get(words["verdict"], "fault") if words else record["verdict"]
        gate = (words["gate"] == 1) if words else record["gate"] == "pass"
        views = record["views"] if record else []
        scores = [v["relative_score"] for v in views if v.get("relative_score") is not None]
        score = words["score"] if words else max(scores, default=math.nan)
        code = words["result_fault_code"] if words else 0
        word = verdict.upper() + (f" {code}" if code else "")
        trigger_id = words["result_trigger_id"] if words else (record["trigger"].get("trigger_id") or 0)
        total_us = words["total_us"] if words else record["times_us"]["total"]
        truth = (record.get("truth") or "") if record else ""
        wrong = ""
        if truth and verdict != "fault" and gate != (truth == "good"):
            wrong = paint("bad", "  ESCAPE" if gate else "  FALSE REJECT")
        self.line(
            f"{time.strftime('%H:%M:%S')}  {station:<8.8}{number:>6} {trigger_id or '-':>6}"
            f"  {paint(verdict, f'{word:<9}')} {paint.bar(score, verdict)} {f'{score:.2f}' if math.isfinite(score) else '-':>5}"
            f" {milliseconds(total_us)} {milliseconds(part.seen_us)}"
            f" {record['sequence'] if record else '-':>7}  {truth}{wrong}"
            + ("" if words else "  (not seen over Modbus)") + ("" if record else "  (not seen over MQTT)")
        )

    def header(self):
        self.line(
            self.paint("dim", f"{'':<8}  {'':<8}{'':>6} {'trig.':>6}  {'':<9} {'score, limit at 1.00':<{BAR_CELLS + 7}}"
            f" {'daemon':>8} {'PLC saw':>8} {'MQTT':>7}")
        )
        self.line(
            self.paint("dim", f"{'time':<8}  {'station':<8}{'part':>6} {'id':>6}  {'verdict':<9} {'':<{BAR_CELLS + 7}}"
            f" {'ms':>8} {'ms':>8} {'seq.':>7}  truth")
        )

    def note(self, text):
        self.line(self.paint("dim", f"{time.strftime('%H:%M:%S')}  {text}"))

    def line(self, text):
        print(text, file=self.out, flush=True)

    # ------------------------------------------------------------------------ summary

    def summary(self, unanswered):
        counts = self.counts
        width = min(shutil.get_terminal_size((100, 24)).columns, 100)
        self.line("\n" + self.paint("bold", " summary ".center(width, self.paint.rule)))
        self.line(
            f"parts             {counts['parts']}: {counts['pass']} passes, {counts['review']} reviews,"
            f" {counts['reject']} rejects, {counts['fault']} faults"
            + (f"; {unanswered} without a result at the gate" if unanswered else "")
        )
        if counts["good"] + counts["defective"]:
            self.line(f"truth             {counts['good']} good, {counts['defective']} with a defect, as the camera knows")
            self.rate("escapes", counts["judged defective"], "defective parts passed the gate")
            self.rate("false rejects", counts["judged good"], "good parts were pushed out")
        else:
            self.line("truth             not known: escapes and false rejects cannot be told")
        self.line(f"trigger to result {spread(self.total_us)}, in the daemon (total_us)")
        self.line(f"                  {spread(self.seen_us)}, as the PLC saw it, reading every {POLL_S * 1000:.0f} ms")
        self.line(f"MQTT              {counts['carried']} of {counts['parts']} parts, {self.doubles} doubles")
        if self.one_sided:
            self.line(f"                  shown before both sides were there: {self.one_sided}; came later: {self.later}")
        if self.contradictions:
            self.line(self.paint("bad", f"                  {self.contradictions} verdicts differ between Modbus and MQTT"))

    def rate(self, name, of, what):
        number, goal = self.counts[name], GOALS[name]
        if not of:
            self.line(f"{name:<17} none could be: no such part")
            return
        share = 100 * number / of
        verdict = self.paint("pass", "met") if share <= goal else self.paint("bad", "missed")
        self.line(
            f"{name:<17} {number} of {of} {what}: {share:.1f} %, goal {goal:.0f} % {verdict}"
            f" (95 % sure: at most {100 * at_most(number, of):.1f} %)"
        )


def milliseconds(micros):
    return f"{'-' if micros is None else f'{micros / 1000:.1f}':>8}"


def spread(micros):
    """p50 and p99: the smallest value that so much of all is not above."""
    if not micros:
        return "p50 -, p99 -"
    ordered = sorted(micros)
    p50, p99 = (ordered[math.ceil(len(ordered) * p) - 1] / 1000 for p in (0.50, 0.99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def at_most(hits, of, sure=0.95):
    """The rate that is not exceeded, `sure`: Clopper and Pearson's one-sided upper limit."""
    if hits >= of:
        return 1.0
    low, high = hits / of, 1.0 - 1e-12
    for _ in range(50):
        rate = (low + high) / 2
        # In logarithms: the binomial coefficients of a long run are beyond a float.
        odds = (math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1) for k in range(hits + 1))
        below = sum(math.exp(c + k * math.log(rate) + (of - k) * math.log1p(-rate)) for k, c in enumerate(odds))
        low, high = (rate, high) if below > 1 - sure else (low, rate)
    return high


# ---------------------------------------------------------------------------- watch


def read_config(arguments):
    with open(arguments.config, "rb") as file:
        return tomllib.load(file)


def watch(arguments):
    config = read_config(arguments)
    names = [s["name"] for s in config["station"]]
    port = int(config["modbus"]["listen"].rsplit(":", 1)[1])
    shown, stop = queue.Queue(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    viewer = Viewer(names, sys.stdout)
    viewer.line("")
    viewer.note(f"Modbus at port {port}, MQTT at port {config['mqtt']['port']}, topic {config['mqtt']['topic_prefix']}")
    symbols = read_symbols(arguments.inspectd)
    consumer = start_consumer(config["mqtt"], shown)
    ends = []
    for unit, station in enumerate(config["station"], 1):
        kind = Plc if station["trigger"]["source"] == "plc" else Reader
        ends.append(kind(port, unit, symbols, shown, stop))
    viewer.header()
    for end in ends:
        end.start()
    problem = look(viewer, shown, stop, arguments)
    stop.set()
    for end in ends:
        end.join(timeout=3)
    settle(viewer, shown)
    consumer.disconnect()
    consumer.loop_stop()
    viewer.summary(sum(getattr(end, "unanswered", 0) for end in ends))
    if not problem and not viewer.counts["parts"]:
        problem = "not one part was inspected"
    if not problem and viewer.contradictions:
        problem = "Modbus and MQTT contradict each other"
    if problem:
        viewer.line(viewer.paint("bad", f"demo: {problem}"))
    return 1 if problem else 0


def look(viewer, shown, stop, arguments):
    """Shows parts until told to stop or out of time. Returns what is wrong, if something is."""
    began = time.monotonic()
    while not stop.is_set():
        now = time.monotonic()
        if arguments.seconds and now - began >= arguments.seconds:
            return None
        if not viewer.counts["parts"] and now - began > START_LIMIT_S:
            return f"no part within {START_LIMIT_S:.0f} s"
        if arguments.daemon_pid and not is_alive(arguments.daemon_pid):
            return "inspectd died"
        try:
            viewer.take(*shown.get(timeout=0.1))
        except queue.Empty:
            pass
        viewer.flush()
    return None


def settle(viewer, shown):
    """Waits for the MQTT side of what the PLC has read; parts of the time after it left do not count."""
    until = time.monotonic() + SETTLE_S
    while not shown.empty():
        viewer.take(*shown.get())
    viewer.flush(force="complete")
    while time.monotonic() < until and any(p.words is not None for p in viewer.open.values()):
        try:
            viewer.take(*shown.get(timeout=0.1))
        except queue.Empty:
            pass
        viewer.flush(force="complete")
    viewer.flush(force="read")


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fill = commands.add_parser("configure", help="print demo.toml with its places filled in")
    fill.add_argument("--template", required=True)
    fill.add_argument("--modbus-port", type=int, required=True)
    fill.add_argument("--mqtt-port", type=int, required=True)
    fill.add_argument("--journal", required=True)
    fill.add_argument("--model", required=True)
    fill.add_argument("--data")
    make = commands.add_parser("subscribe", help="make the consumer's session at the broker")
    make.add_argument("--config", required=True)
    see = commands.add_parser("watch", help="be the line's PLC and MQTT consumer, and show both")
    see.add_argument("--config", required=True)
    see.add_argument("--inspectd", required=True)
    see.add_argument("--daemon-pid", type=int, default=0)
    see.add_argument("--seconds", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.command == "configure":
        configure(arguments)
        return 0
    if arguments.command == "subscribe":
        return subscribe(arguments)
    return watch(arguments)


if __name__ == "__main__":
    sys.exit(main())
