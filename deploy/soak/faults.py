"""What goes wrong in a soak, from outside and all the time: each kind once a round (some more often), in an order of the seed.

After each fault the line has to be whole again within HEALS_S: every station ready, the broker connected and served.
The daemon itself is never ended: one process has to take it all.

Never here: whether something grows.
"""

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from line import until

HEALS_S = 90
BACKLOG_IS_SERVED = 3_000
REFUSED_S = 30
PAUSE_S = (1.0, 4.0)  # between a line that is whole and the next fault
STRANGERS = 48
SILENT = 2  # at the status socket, which serves four at once
# Modbus TCP: a request that says it is longer than it is, one for a function that is not there, and no Modbus at all.
NONSENSE = (
    bytes.fromhex("000100000006010400"), bytes.fromhex("0001000000020163"),
    b"GET / HTTP/1.1\r\n\r\n", os.urandom(600), b"",
)


class Faults(threading.Thread):
    """Injects until told to stop. `log` has a row for each: when, at how many parts, what, how long, what came of it."""

    def __init__(self, hall, plcs, stop, parts, can_fill):
        super().__init__(name="faults", daemon=True)
        self.hall, self.plcs, self.stop, self.parts = hall, plcs, stop, parts
        self.chance = random.Random(hall.seed)
        self.kinds = [
            self.broker_killed, self.broker_silent, self.plc_cut, self.strangers, self.camera_away,
            self.configuration_changed, self.configuration_broken, self.configuration_same, self.model_changed,
            self.model_broken, self.readers,
        ]
        if can_fill:
            self.kinds += [self.disk_full, self.disk_full_and_broker_silent]
        # What takes and gives back most memory comes oftenest.
        self.kinds += [self.configuration_changed, self.configuration_changed, self.model_changed]
        self.began = time.monotonic()
        self.log, self.now = [], ""
        self.reloads = []  # when the daemon started anew in its process, Unix seconds

    def run(self):
        while not self.stop.is_set():
            for kind in self.chance.sample(self.kinds, len(self.kinds)):
                if self.stop.wait(self.chance.uniform(*PAUSE_S)):
                    return
                self.inject(kind)

    def inject(self, kind):
        name = kind.__name__
        self.now = name
        row = {"time_s": round(time.monotonic() - self.began, 2), "parts": self.parts(), "fault": name, "outcome": "healed"}
        try:
            kind()
            began = time.monotonic()
            until(self.is_whole, HEALS_S, f"the line is whole again after {name}", pause_s=0.1)
            row["healed_s"] = round(time.monotonic() - began, 2)
        except Exception as error:  # the soak goes on and says so at the end
            row["outcome"] = f"{type(error).__name__}: {error}"
        row["took_s"] = round(time.monotonic() - self.began - row["time_s"], 2)
        self.log.append(row)
        self.now = ""

    def is_whole(self):
        if not self.hall.daemon.is_running():
            raise RuntimeError("inspectd ended")
        status = self.hall.status()
        if not status or not status["ready"] or status["phase"] != "running" or not status["mqtt"]:
            return False
        return status["mqtt"]["connected"] and status["mqtt"]["backlog"] < BACKLOG_IS_SERVED

    def wrong(self):
        """Faults that did not come to what they must come to."""
        return [f"{row['fault']} at {row['parts']} parts: {row['outcome']}" for row in self.log if row["outcome"] != "healed"]

    def lasts(self, least_s, most_s):
        self.stop.wait(self.chance.uniform(least_s, most_s))

    # ------------------------------------------------------------------ the broker

    def broker_killed(self):
        self.hall.broker.process.kill_9()
        self.lasts(1, 6)
        self.hall.start_broker()

    def broker_silent(self):
        """It takes connections and says nothing."""
        process = self.hall.broker.process
        process.send(signal.SIGSTOP)
        try:
            self.lasts(3, 12)
        finally:
            process.send(signal.SIGCONT)

    # ------------------------------------------------------------------ PLCs and who else comes to their port

    def plc_cut(self):
        """Each PLC's connection breaks between a trigger and its result."""
        for plc in self.plcs:
            plc.cut.set()
        for plc in self.plcs:
            until(lambda plc=plc: not plc.cut.is_set(), REFUSED_S, f"{plc.station} was cut off")

    def strangers(self):
        """Many that say nothing, half a request or nonsense, and leave with or without a word."""
        there = []
        try:
            for n in range(STRANGERS):
                stranger = socket.create_connection(("127.0.0.1", self.hall.port), timeout=2)
                there.append(stranger)
                with contextlib.suppress(OSError):
                    stranger.sendall(NONSENSE[n % len(NONSENSE)])
            self.lasts(0.5, 3)
        finally:
            for n, stranger in enumerate(there):
                if n % 2:
                    stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stranger.close()

    # ------------------------------------------------------------------ camera, disk

    def camera_away(self):
        """The folder that is a camera is gone for a while."""
        away = self.hall.pictures.with_suffix(".away")
        self.hall.pictures.rename(away)
        try:
            self.lasts(1, 5)
        finally:
            away.rename(self.hall.pictures)

    def disk_full(self):
        """The archive can write nothing; the journal finds room within its own file, whose oldest records go."""
        with self.filled():
            self.lasts(2, 6)

    def disk_full_and_broker_silent(self):
        """Nothing is delivered, so nothing may go: the journal has no room, and in the end each part is a fault."""
        process = self.hall.broker.process
        process.send(signal.SIGSTOP)
        try:
            with self.filled():
                self.lasts(5, 9)
        finally:
            process.send(signal.SIGCONT)

    @contextlib.contextmanager
    def filled(self):
        full = self.hall.disk / "full"
        try:
            with contextlib.suppress(OSError), open(full, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 16))
            yield
        finally:
            full.unlink()

    # ------------------------------------------------------------------ configuration, models

    def reloaded(self, taken):
        outcome = self.hall.reload()
        got = bool(outcome["taken"]), bool(outcome["refused"])
        assert got == (taken, not taken), outcome

    def configuration_changed(self):
        """A station with another camera and pace: the daemon starts anew in its process."""
        self.hall.variant = 1 - self.hall.variant
        self.hall.write_config()
        self.reloads.append(time.time())
        self.reloaded(taken=True)
        self.reloads.append(time.time())

    def configuration_broken(self):
        good = self.hall.text()
        bad = (good + "nonsense", good.replace("deadline_ms = 100", "deadline_ms = 0"), good.replace("light.onnx", "no.onnx"))
        self.hall.write_config(self.chance.choice(bad))
        try:
            self.reloaded(taken=False)
        finally:
            self.hall.write_config()

    def configuration_same(self):
        """SIGHUP without a reason."""
        before = (self.hall.status() or {}).get("last_reload")
        self.hall.daemon.send(signal.SIGHUP)
        until(lambda: (s := self.hall.status()) and s.get("last_reload") != before, REFUSED_S, "SIGHUP is answered")

    def put_model(self, path, data):
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.replace(path)

    def model_changed(self):
        """Another file that scores the same: swapped between two parts."""
        path = self.hall.models[self.chance.choice(sorted(self.hall.models))]
        data = path.read_bytes()
        at = data.index(b'"name":"') + len(b'"name":"')
        letter = b"x" if data[at : at + 1] != b"x" else b"y"
        self.put_model(path, data[:at] + letter + data[at + 1 :])
        self.reloaded(taken=True)

    def model_broken(self):
        """Half a file: refused, and the one before goes on."""
        path = self.hall.models[self.chance.choice(sorted(self.hall.models))]
        data = path.read_bytes()
        self.put_model(path, data[: len(data) // 2])
        try:
            self.reloaded(taken=False)
        finally:
            self.put_model(path, data)
        self.hall.reload()

    # ------------------------------------------------------------------ readers

    def readers(self):
        """Exports, tails, checks and status at once, and some who connect to the status socket and say nothing."""
        out = self.hall.work / "reader.parquet"
        place = ("--dir", self.hall.journal)
        asked = [
            ("journal", "export", *place, "--format", "parquet", "--out", out), ("journal", "tail", *place),
            ("status", "--socket", self.hall.run / "status.sock"), ("status", "--socket", self.hall.run / "status.sock", "--json"),
        ]
        silent = []
        try:
            for _ in range(SILENT):
                silent.append(socket.socket(socket.AF_UNIX))
                silent[-1].connect(str(self.hall.run / "status.sock"))
            with ThreadPoolExecutor(len(asked)) as pool:
                codes = [done.returncode for done in pool.map(lambda a: self.hall.command(*a), asked)]
        finally:
            for one in silent:
                one.close()
        # A station whose camera loses a frame just then is not ready: 3.
        assert all(code in (0, 3) for code in codes), codes
