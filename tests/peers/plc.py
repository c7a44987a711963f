"""A PLC on pymodbus, and the register map as its programmer has it in hand.

The addresses are written down here a second time on purpose: map version 1 is frozen, and a peer holds
its own copy. modbus_tests compares it with `inspectd registers`.
"""

import struct
import time

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

DISCRETE = {"reject": 0, "pass": 1, "ready": 2, "busy": 3, "fault": 4, "overrun": 5, "review": 6, "simulated": 7}
INPUT = {
    "map_version": (0, "UINT"), "alive": (1, "UINT"), "chain": (2, "UINT"), "state": (3, "UINT"),
    "fault_code": (4, "UINT"), "accepted_trigger_id": (5, "UINT"),
    "result_sequence": (16, "UINT"), "result_trigger_id": (17, "UINT"), "verdict": (18, "UINT"),
    "gate": (19, "UINT"), "result_fault_code": (20, "UINT"), "result_state": (21, "UINT"),
    "part": (22, "UDINT"), "score": (24, "REAL"), "review_limit": (26, "REAL"), "total_us": (28, "UDINT"),
    "model": (30, "UDINT"), "recipe": (32, "UINT"), "views": (33, "UINT"), "result_sequence_end": (34, "UINT"),
    "accepted": (48, "UDINT"), "passed": (50, "UDINT"), "reviewed": (52, "UDINT"), "rejected": (54, "UDINT"),
    "faulted": (56, "UDINT"), "late": (58, "UDINT"), "missed": (60, "UDINT"), "overruns": (62, "UDINT"),
    "not_journaled": (64, "UDINT"),
}
INPUT_SIZE = 66
TRIGGER_ID = 0
VERDICTS = {1: "pass", 2: "review", 3: "reject", 4: "fault"}
READY, BUSY, FAULT, ARMED, SIMULATED, MISSED, OVERRUN = (1 << bit for bit in (0, 1, 2, 3, 5, 9, 8))

RESULT_S = 10


class Words(dict):
    """All input registers of one read, by symbol."""

    def __init__(self, words, low_first=False):
        super().__init__()
        self.words = words
        for symbol, (address, kind) in INPUT.items():
            if kind == "UINT":
                self[symbol] = words[address]
                continue
            pair = words[address : address + 2]
            raw = struct.pack(">HH", *(reversed(pair) if low_first else pair))
            self[symbol] = struct.unpack(">f" if kind == "REAL" else ">I", raw)[0]

    @property
    def verdict(self):
        return VERDICTS.get(self["verdict"], "?")


class Plc:
    """Writes 0 once, then ids 1 to 65535 and 1 again; a result counts only with its id."""

    def __init__(self, port, unit=1, offset=0, low_first=False):
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=5, retries=0)
        self.unit, self.offset, self.low_first = unit, offset, low_first
        self.id = 0
        assert self.client.connect(), "no Modbus connection"

    def close(self):
        self.client.close()

    def read(self):
        answer = self.client.read_input_registers(self.offset, count=INPUT_SIZE, device_id=self.unit)
        assert not answer.isError(), answer
        return Words(answer.registers, self.low_first)

    def bits(self):
        answer = self.client.read_discrete_inputs(self.offset, count=8, device_id=self.unit)
        assert not answer.isError(), answer
        return {symbol: answer.bits[at] for symbol, at in DISCRETE.items()}

    def write(self, trigger_id):
        answer = self.client.write_register(self.offset + TRIGGER_ID, trigger_id, device_id=self.unit)
        assert not answer.isError(), answer

    def arm(self, limit_s):
        """Writes 0 and waits until the station is ready."""
        self.write(0)
        self.when(lambda words: words["state"] & READY, limit_s, "the station is ready")

    def when(self, condition, limit_s, what):
        """Reads until a read fulfils the condition, and returns it."""
        end = time.monotonic() + limit_s
        while True:
            words = self.read()
            if condition(words):
                return words
            assert time.monotonic() < end, f"waited {limit_s} s in vain: {what}; {dict(words)}"
            time.sleep(0.005)

    def trigger(self):
        """Writes the next id and returns it."""
        self.id = self.id % 65535 + 1
        self.write(self.id)
        return self.id

    def result(self, trigger_id, limit_s=RESULT_S, pause_s=0.001):
        """Waits for the result of this id."""
        end = time.monotonic() + limit_s
        while True:
            words = self.read()
            assert words["result_sequence"] == words["result_sequence_end"], "one read is never torn"
            if words["result_trigger_id"] == trigger_id:
                return words
            assert time.monotonic() < end, f"no result for {trigger_id}: {dict(words)}"
            time.sleep(pause_s)

    def part(self):
        return self.result(self.trigger())

    def says_reject(self):
        """Checks that no register lets a part pass; returns the read."""
        words, bits = self.read(), self.bits()
        assert words["gate"] == 2, dict(words)
        assert bits["reject"] and not bits["pass"], bits
        return words

    def says_reject_for_nobody(self):
        """Checks that the result block is no part's, as before the first inspection."""
        words = self.says_reject()
        assert words["verdict"] == 4 and words["result_trigger_id"] == 0 and words["part"] == 0, dict(words)
        return words

    def reads_until_the_end(self, limit_s=10):
        """Reads as fast as it can until the daemon closes the connection; the reads, equal ones once."""
        reads, end = [self.read()], time.monotonic() + limit_s
        while time.monotonic() < end:
            try:
                words = self.read()
            except (ModbusException, OSError):
                return reads
            if words.words[3:] != reads[-1].words[3:]:  # alive and chain aside
                reads.append(words)
        raise AssertionError(f"still connected after {limit_s} s")
