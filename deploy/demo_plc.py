"""The demo's PLC: what a real one has to do with the daemon's registers, on pymodbus. See Plc."""

import csv
import io
import struct
import subprocess
import threading
import time

from pymodbus.client import ModbusTcpClient

POLL_S = 0.002  # how often it reads while it waits for a result
IDLE_POLL_S = 0.02  # and while it waits for a part
PART_EVERY_S = 0.2  # parts come this often
CHAIN_STANDS_S = 1.0  # chain counts every 250 ms: after this long without, the line stops
RECONNECT_S = 0.2
NO_RESULT_S = 0.18  # the gate is reached: what has no result now is pushed out
TRIGGER_ID = 0  # address of the only holding register


class Words:
    """Input registers of one read, by the symbols that `inspectd registers` prints."""

    def __init__(self, words, symbols):
        self.words = words
        self.symbols = symbols

    def __getitem__(self, symbol):
        address, kind = self.symbols[symbol]
        if kind == "UINT":
            return self.words[address]
        raw = struct.pack(">HH", *self.words[address : address + 2])
        return struct.unpack(">f" if kind == "REAL" else ">I", raw)[0]

    @property
    def is_whole(self):
        """No result was published while this was read."""
        return self["result_sequence"] == self["result_sequence_end"]


def read_symbols(inspectd):
    """The register map as the daemon's own export has it: symbol to (address, type)."""
    text = subprocess.run(
        [inspectd, "registers", "--format", "csv"], check=True, capture_output=True, text=True, timeout=30
    ).stdout
    rows = csv.DictReader(io.StringIO(text))
    return {r["symbol"]: (int(r["address"]), r["type"]) for r in rows if r["type"] != "BOOL"}


class ModbusEnd(threading.Thread):
    """A connection to the daemon that is made anew whenever it breaks."""

    def __init__(self, port, unit, symbols, shown, stop):
        super().__init__(name=f"modbus-{unit}", daemon=True)
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=1, retries=0)
        self.unit, self.symbols, self.shown, self.stop = unit, symbols, shown, stop
        self.chain, self.chain_moved = None, None
        self.complaint = None

    def run(self):
        while not self.stop.is_set():
            try:
                if not self.client.connect():
                    raise ConnectionError("no connection")
                self.chain = None
                self.line()
            except Exception as error:  # whatever it is, a PLC tries again
                self.complain(f"Modbus: {error}")
                self.client.close()
                self.stop.wait(RECONNECT_S)
        self.client.close()

    def line(self):
        """Reads until told to stop. Raises whatever breaks the connection."""
        raise NotImplementedError

    def complain(self, text):
        """Shows a steady state once."""
        if text != self.complaint and not self.stop.is_set():
            self.shown.put(("note", self.unit, text))
        self.complaint = text

    def read(self):
        """All that is needed here in one request, and a look at chain."""
        answer = self.client.read_input_registers(0, count=66, device_id=self.unit)
        if answer.isError():
            raise ConnectionError(f"refused: {answer}")
        words = Words(answer.registers, self.symbols)
        if words["chain"] != self.chain:
            # The first look says nothing yet: only a step proves life.
            self.chain_moved = None if self.chain is None else time.monotonic()
            self.chain = words["chain"]
        return words

    def chain_moves(self):
        return self.chain_moved is not None and time.monotonic() - self.chain_moved < CHAIN_STANDS_S

    def show(self, words, seen_us=None):
        self.shown.put(("modbus", self.unit, words, seen_us))


class Plc(ModbusEnd):
    """Triggers each part by its id and lets it pass only on its own result.

    - After each start of the daemon (not armed) it writes 0, once.
    - Ids go from 1 to 65535 and begin again at 1: never 0, never the same twice.
    - It uses a result only if both its sequence words are equal and its trigger_id is the part's.
    - It stops the line while `chain` stands, and pushes out what has no result at the gate.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.next_id = 1
        self.unanswered = 0

    def write(self, value):
        answer = self.client.write_register(TRIGGER_ID, value, device_id=self.unit)
        if answer.isError():
            raise ConnectionError(f"trigger_id not taken: {answer}")

    def line(self):
        due = time.monotonic()
        while not self.stop.is_set():
            words = self.read()
            state = words["state"]
            if not state & 1 << 3:
                self.write(0)
            elif state & 1 << 2:
                self.complain(f"station in fault {words['fault_code']}: the line stops")
            elif not self.chain_moves():
                if self.chain_moved is not None:
                    self.complain("chain stands: the line stops, every part is pushed out")
            elif state & 1 and time.monotonic() >= due:
                if self.complaint is not None:
                    self.complain("the line runs")
                self.complaint = None
                due = max(due + PART_EVERY_S, time.monotonic())
                self.part()
            self.stop.wait(IDLE_POLL_S)

    def part(self):
        """One part: from its trigger to its result or the gate."""
        trigger_id, self.next_id = self.next_id, self.next_id % 65535 + 1
        asked = time.monotonic()
        self.write(trigger_id)
        while time.monotonic() - asked < NO_RESULT_S:
            words = self.read()
            if words.is_whole and words["result_trigger_id"] == trigger_id:
                self.show(words, round((time.monotonic() - asked) * 1e6))
                return
            time.sleep(POLL_S)
        self.unanswered += 1
        self.shown.put(("note", self.unit, f"no result for trigger_id {trigger_id} at the gate: pushed out"))


class Reader(ModbusEnd):
    """Reads the results of a station that is triggered by the daemon's own clock."""

    def line(self):
        last = None
        while not self.stop.is_set():
            words = self.read()
            if words["state"] & 1 << 2:
                self.complain(f"station in fault {words['fault_code']}")
            elif self.chain_moved is not None and not self.chain_moves():
                self.complain("chain stands")
            else:
                self.complaint = None
            if words.is_whole and words["result_sequence"] != last:
                last = words["result_sequence"]
                if words["part"]:
                    self.show(words)
            time.sleep(IDLE_POLL_S / 2)
