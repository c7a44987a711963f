"""A PLC on pymodbus, and the register map as its programmer has it in hand.

The addresses are written down here a second time on purpose: map version 2 is frozen, and a peer holds
its own copy. modbus_tests compares it with `inspectd registers`.
"""

import struct
import time

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

DISCRETE = {"reject": 0, "pass": 1, "ready": 2, "busy": 3, "fault": 4, "overrun": 5, "review": 6, "simulated": 7,
            "result_valid": 8, "command_busy": 9, "command_done": 10, "command_failed": 11, "is_offline": 12, "error": 13,
            "stop_request": 14, "is_bypassed": 15}
COILS = {"offline": 0, "bypass": 1, "clear_error": 8, "reset_counters": 9, "load_recipe": 10, "challenge": 11,
         "discard_results": 12}
HOLDING = {"trigger_id": (0, "UINT"), "result_acknowledged": (1, "UINT"), "control": (2, "UINT"),
           "recipe_request": (3, "UINT"), "product": (4, "UINT"), "encoder": (6, "UDINT"), "serial": (8, "STRING(32)")}
INPUT = {
    "map_version": (0, "UINT"), "alive": (1, "UINT"), "chain": (2, "UINT"), "state": (3, "UINT"),
    "fault_code": (4, "UINT"), "accepted_trigger_id": (5, "UINT"), "handshake": (6, "UINT"),
    "command_fault_code": (7, "UINT"), "error_code": (8, "UINT"), "results_waiting": (9, "UINT"),
    "recipe_active": (10, "UINT"),
    "result_sequence": (16, "UINT"), "result_trigger_id": (17, "UINT"), "verdict": (18, "UINT"),
    "gate": (19, "UINT"), "result_fault_code": (20, "UINT"), "result_state": (21, "UINT"),
    "part": (22, "UDINT"), "score": (24, "REAL"), "review_limit": (26, "REAL"), "total_us": (28, "UDINT"),
    "model": (30, "UDINT"), "recipe": (32, "UINT"), "views": (33, "UINT"), "result_sequence_end": (34, "UINT"),
    "result_encoder": (36, "UDINT"), "result_product": (38, "UINT"), "result_kind": (39, "UINT"),
    "accepted": (48, "UDINT"), "passed": (50, "UDINT"), "reviewed": (52, "UDINT"), "rejected": (54, "UDINT"),
    "faulted": (56, "UDINT"), "late": (58, "UDINT"), "missed": (60, "UDINT"), "overruns": (62, "UDINT"),
    "not_journaled": (64, "UDINT"), "wrong_acknowledgements": (66, "UDINT"), "challenges": (68, "UDINT"),
    "challenges_failed": (70, "UDINT"), "result_serial": (80, "STRING(32)"),
}
INPUT_SIZE = 96
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
            if kind.startswith("STRING"):
                text = struct.pack(">16H", *words[address : address + 16])
                self[symbol] = text.split(b"\0")[0].decode("ascii")
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
        answer = self.client.read_discrete_inputs(self.offset, count=16, device_id=self.unit)
        assert not answer.isError(), answer
        return {symbol: answer.bits[at] for symbol, at in DISCRETE.items()}

    def write(self, trigger_id):
        answer = self.client.write_register(self.offset + TRIGGER_ID, trigger_id, device_id=self.unit)
        assert not answer.isError(), answer

    def write_part(self, trigger_id, encoder=0, product=0, serial="", acknowledged=0):
        """Identity, acknowledgement and trigger in one request."""
        pair = [encoder >> 16, encoder & 0xFFFF]
        text = struct.unpack(">16H", serial.encode("ascii").ljust(32, b"\0"))
        words = [trigger_id, acknowledged, 0, 0, product, 0, *(reversed(pair) if self.low_first else pair), *text]
        answer = self.client.write_registers(self.offset, words, device_id=self.unit)
        assert not answer.isError(), answer

    def acknowledge(self, sequence):
        answer = self.client.write_register(self.offset + HOLDING["result_acknowledged"][0], sequence, device_id=self.unit)
        assert not answer.isError(), answer

    def coil(self, symbol, value):
        answer = self.client.write_coil(self.offset + COILS[symbol], value, device_id=self.unit)
        assert not answer.isError(), answer

    def command(self, symbol, limit_s=10):
        """A command from raise to drop; returns its fault code, 0 if it was carried out."""
        self.coil(symbol, True)
        self.when(lambda w: self.bits()["command_done"] or self.bits()["command_failed"], limit_s, f"{symbol} is answered")
        code = self.read()["command_fault_code"]
        self.coil(symbol, False)
        bits = self.bits()
        assert not bits["command_done"] and not bits["command_failed"], bits
        return code

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
