"""The soak's PLCs: pymodbus clients that trigger parts as fast as they are answered, and forget nothing.

Never here: what the journal says of the same parts (ledger.py).
"""

import queue
import threading
import time

from demo_plc import ModbusEnd

TRIGGER_ID, RESULT_ACKNOWLEDGED = 0, 1
ARMED, FAULT, READY = 1 << 3, 1 << 2, 1 << 0
RESULT_VALID = 1 << 0  # of `handshake`
FAULT_VERDICT, PASS_VERDICT, GATE_PASS = 4, 1, 1
RESULT_S = 10
POLL_S = 0.002
IDLE_S = 0.01
PART_EVERY_S = 0.02


class SoakPlc(ModbusEnd):
    """One station's PLC. `results` and `open` are for the ledger, which takes out what the journal has.

    - `results`: part to (trigger_id, verdict, gate, fault code) as the registers had it.
    - `open`: trigger_id to the time of a trigger that was sent and whose result was not read; `left`: those whose id came
      again since.
    """

    def __init__(self, port, unit, symbols, stop, station, acknowledges):
        super().__init__(port, unit, symbols, queue.SimpleQueue(), stop)
        self.station, self.acknowledges = station, acknowledges
        self.next_id, self.sequence = 1, 0
        self.cut = threading.Event()
        self.lock = threading.Lock()
        self.results, self.open, self.left = {}, {}, []
        self.sent, self.read_results, self.cuts, self.wrong = 0, 0, 0, []

    def complain(self, text):
        """A connection that breaks is what a soak is for."""
        self.cuts += text != self.complaint
        self.complaint = text

    def write(self, address, *values):
        answer = self.client.write_registers(address, list(values), device_id=self.unit)
        if answer.isError():
            raise ConnectionError(f"not taken: {answer}")

    def line(self):
        due = time.monotonic()
        while not self.stop.is_set():
            words = self.read()
            state = words["state"]
            if not state & ARMED:
                self.write(TRIGGER_ID, 0)
            elif self.acknowledges and words["handshake"] & RESULT_VALID and words["result_sequence"] != self.sequence:
                # Of a part whose trigger came through before the connection broke.
                self.keep(words)
                self.write(RESULT_ACKNOWLEDGED, self.sequence)
            elif state & READY and not state & FAULT and time.monotonic() >= due:
                self.complaint = None
                due = max(due + PART_EVERY_S, time.monotonic())
                self.part()
                continue
            self.stop.wait(IDLE_S)

    def part(self):
        """One part: from its trigger to its result. Raises where the connection breaks."""
        trigger_id, self.next_id = self.next_id, self.next_id % 65535 + 1
        with self.lock:
            if trigger_id in self.open:
                self.left.append((trigger_id, self.open[trigger_id]))
            self.open[trigger_id] = time.time()
        self.write(TRIGGER_ID, trigger_id, self.sequence if self.acknowledges else 0)
        self.sent += 1
        if self.cut.is_set():
            self.cut.clear()
            raise ConnectionError("cut between trigger and result")
        end = time.monotonic() + RESULT_S
        while time.monotonic() < end:
            words = self.read()
            if words.is_whole and words["result_trigger_id"] == trigger_id:
                self.keep(words)
                return
            time.sleep(POLL_S)
        self.wrong.append(f"{self.station}: no result for trigger_id {trigger_id} within {RESULT_S} s")

    def keep(self, words):
        """A result that belongs to a part."""
        self.sequence = words["result_sequence"]
        trigger_id, verdict, gate = words["result_trigger_id"], words["verdict"], words["gate"]
        if gate == GATE_PASS and verdict != PASS_VERDICT:
            self.wrong.append(f"{self.station}: trigger_id {trigger_id} passes at the gate with verdict {verdict}")
        with self.lock:
            self.open.pop(trigger_id, None)
            self.results[words["part"]] = (trigger_id, verdict, gate, words["result_fault_code"])
        self.read_results += 1
