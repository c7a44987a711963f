"""The In-Sight profile, as a PLC program written for such a camera sees it: pymodbus plays it, mbpoll looks once.

The addresses are written down here a second time, from In-Sight's description; the first test compares them
with `inspectd registers --profile in-sight`. No test here ran against a program that drives a real camera.
"""

import csv
import io
import shutil
import struct
import subprocess
import time
from types import SimpleNamespace

import plc as peer
from line import READY_S, free_port, simulated, station
from modbus_tests import mbpoll
from mqtt_tests import published
from pymodbus.client import ModbusTcpClient

CONTROL = {"TriggerEnable": 0, "Trigger": 1, "BufferResultsEnable": 2, "InspectionResultsAck": 3, "ExecuteCommand": 4,
           "SetOffline": 7, "SetUserData": 16, "InitiateStringCmd": 17, "ClearError": 18, "ClearExposureComplete": 19,
           "SoftEvent0": 24}
STATUS = {"TriggerReady": 0, "TriggerAck": 1, "MissedAcq": 3, "OfflineReason": 4, "Online": 7, "SystemBusy": 8,
          "InspectionCompleted": 9, "BufferOverrun": 10, "ResultsValid": 11, "CmdExecuting": 12, "CmdCompleted": 13,
          "CmdFailed": 14, "Error": 15, "SetUserDataAck": 16, "StringCmdAck": 17, "StringCmdError": 18,
          "ExposureComplete": 19, "JobPass": 20, "SoftEventAck0": 24}
OUTPUT = {"CurrentJobID": 0, "ErrorCode": 1, "AcquisitionID": 2, "InspectionID": 3, "InspectionResultCode": 4,
          "ResultFaultCode": 5, "Score": 6, "Part": 8, "Recipe": 10}
COMMAND = 2000
WAIT_S = 20

CYCLE_PARTS = 300
PIPELINED_PARTS = 60


class Program:
    """A PLC program for an In-Sight camera. `by_registers`: it knows holding registers only, as some PLCs do."""

    def __init__(self, port, by_registers=False):
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=5, retries=0)
        self.by_registers, self.control = by_registers, 0
        assert self.client.connect(), "no Modbus connection"

    def close(self):
        self.client.close()

    def set(self, symbol, level=True):
        bit = CONTROL[symbol]
        self.control = self.control | 1 << bit if level else self.control & ~(1 << bit)
        if self.by_registers:  # the whole block, as a cyclic exchange writes it
            answer = self.client.write_registers(0, [self.control & 0xFFFF, self.control >> 16], device_id=1)
        else:
            answer = self.client.write_coil(bit, level, device_id=7)  # the unit identifier is not looked at
        assert not answer.isError(), answer

    def pulse(self, symbol):
        self.set(symbol)
        self.set(symbol, False)

    def status(self):
        if self.by_registers:
            answer = self.client.read_holding_registers(100, count=2, device_id=1)
            assert not answer.isError(), answer
            block = answer.registers[0] | answer.registers[1] << 16
        else:
            answer = self.client.read_discrete_inputs(0, count=32, device_id=7)
            assert not answer.isError(), answer
            block = sum(1 << n for n, bit in enumerate(answer.bits[:32]) if bit)
        found = {symbol: bool(block & 1 << bit) for symbol, bit in STATUS.items()}
        found["OfflineReason"] = block >> STATUS["OfflineReason"] & 7
        return found

    def output(self):
        if self.by_registers:
            answer = self.client.read_holding_registers(7000, count=11, device_id=1)
        else:
            answer = self.client.read_input_registers(2000, count=11, device_id=7)
        assert not answer.isError(), answer
        words = {symbol: answer.registers[at] for symbol, at in OUTPUT.items()}
        for symbol, code in (("Score", ">f"), ("Part", ">I")):
            at = OUTPUT[symbol]
            words[symbol] = struct.unpack(code, struct.pack(">HH", *answer.registers[at : at + 2]))[0]
        return words

    def when(self, what, **wanted):
        """Reads the status until it is as wanted, and returns it."""
        end = time.monotonic() + WAIT_S
        while True:
            status = self.status()
            if all(status[symbol] == level for symbol, level in wanted.items()):
                return status
            assert time.monotonic() < end, f"waited {WAIT_S} s in vain: {what}; {status}, {self.output()}"
            time.sleep(0.001)

    def enable(self):
        self.set("TriggerEnable")
        self.when("the camera is ready", TriggerReady=True)

    def trigger(self):
        """A trigger as In-Sight wants it, and the AcquisitionID that stood when TriggerAck came."""
        self.when("ready", TriggerReady=True)
        self.set("Trigger")
        self.when("TriggerAck", TriggerAck=True)
        acquisition = self.output()["AcquisitionID"]
        self.set("Trigger", False)
        assert not self.status()["TriggerAck"]
        return acquisition

    def result(self):
        """The result that stands, acknowledged as In-Sight wants it, with JobPass."""
        status = self.when("a result", ResultsValid=True)
        words = {**self.output(), "JobPass": status["JobPass"]}
        self.set("InspectionResultsAck")
        self.when("ResultsValid falls", ResultsValid=False)
        assert self.output()["InspectionID"] == 0 and not self.status()["JobPass"], "nothing stands that is acknowledged"
        self.set("InspectionResultsAck", False)
        return words

    def part(self):
        acquisition = self.trigger()
        words = self.result()
        assert words["InspectionID"] == acquisition, words
        return words

    def command(self, number):
        """Loads a job; returns whether that succeeded, and ErrorCode."""
        answer = self.client.write_registers(COMMAND, [number, 0], device_id=1)  # two words, as a DINT is written
        assert not answer.isError(), answer
        self.set("ExecuteCommand")
        end = time.monotonic() + READY_S
        while not ((status := self.status())["CmdCompleted"] or status["CmdFailed"]):
            assert time.monotonic() < end, f"job {number} never ends: {status}"
            time.sleep(0.005)
        code = self.output()["ErrorCode"]
        assert status["Error"] == (code != 0)
        self.set("ExecuteCommand", False)
        after = self.status()
        assert not after["CmdCompleted"] and not after["CmdFailed"], "they fall with ExecuteCommand"
        return status["CmdCompleted"], code


def camera_at(line, results, camera=None, more="", model="model.onnx"):
    """Configures station s1 as an In-Sight camera and starts it; returns its port."""
    port = free_port()
    more = f'in_sight = {{ listen = "127.0.0.1:{port}" }}\n{results}\n{more}'
    line.configure(station("s1", camera=camera or simulated(), model=model, more=more), mqtt=line.broker is not None)
    line.start()
    return port


def program(line, port, **settings):
    found = Program(port, **settings)
    line.clients.append(found)
    return found


BUFFERED = 'results = { mode = "acknowledged", depth = 8 }'


def test_the_in_sight_map_in_hand_is_the_one_that_the_daemon_prints(line):
    command = [line.inspectd, "registers", "--profile", "in-sight", "--format"]
    text = subprocess.run([*command, "csv"], check=True, capture_output=True, text=True).stdout
    rows = list(csv.DictReader(io.StringIO(text)))

    def places(table, first=0):
        return {r["symbol"]: int(r["address"]) - first for r in rows if r["table"] == table}

    assert places("coil") == CONTROL
    assert places("discrete input") == STATUS
    output = places("input register", 2000)
    assert {symbol: at for symbol, at in output.items() if symbol in OUTPUT} == OUTPUT
    also = {r["symbol"]: r["also"] for r in rows}
    assert also["SoftEvent0"] == "holding register 1 bit 8" and also["JobPass"] == "holding register 101 bit 4"
    assert also["AcquisitionID"] == "holding register 7002" and places("holding register")["Command"] == COMMAND
    got = subprocess.run([*command, "handshake"], capture_output=True, text=True, check=False)
    assert got.returncode == 1 and "--format markdown" in got.stderr, got.stderr


def test_an_in_sight_program_gets_one_result_for_each_trigger(line):
    line.start_broker()
    subscriber = line.subscribe()
    port = camera_at(line, BUFFERED, simulated(width=256, height=256, defect_rate=0.3))
    programs = [program(line, port), program(line, port, by_registers=True)]
    results = []
    for one in programs:
        one.set("BufferResultsEnable")
    programs[0].enable()
    # A second program on the same bits: the block is one. It takes over in the middle of the line.
    programs[1].control = 1 << CONTROL["TriggerEnable"] | 1 << CONTROL["BufferResultsEnable"]
    for part in range(CYCLE_PARTS):
        one = programs[part >= CYCLE_PARTS // 2]
        completed = one.status()["InspectionCompleted"]
        results.append(one.part())
        assert one.status()["InspectionCompleted"] != completed
    # Pipelined: up to eight triggers before the first result is taken.
    while len(results) < CYCLE_PARTS + PIPELINED_PARTS:
        acquisitions = [programs[1].trigger() for _ in range(min(8, CYCLE_PARTS + PIPELINED_PARTS - len(results)))]
        taken = [programs[1].result() for _ in acquisitions]
        assert [r["InspectionID"] for r in taken] == acquisitions, "each once, in order"
        results += taken
    parts = len(results)
    assert [r["InspectionID"] for r in results] == [r["Part"] for r in results] == list(range(1, parts + 1))
    records, _ = published(subscriber, parts)
    by_part = {r["part"]: r for r in records}
    codes = {"pass": 1, "review": 2, "reject": 3, "fault": 4}
    for result in results:
        record = by_part[result["Part"]]
        assert record["trigger"]["trigger_id"] == result["InspectionID"], (record, result)
        assert result["JobPass"] == (record["gate"] == "pass"), (record, result)
        assert result["InspectionResultCode"] == codes[record["verdict"]], (record, result)
    passed = sum(r["JobPass"] for r in results)
    assert parts // 4 < passed < parts, "good parts and bad ones"
    # The native map shows the same parts, and nothing was missed.
    words = line.plc().read()
    counts = ("accepted", "missed", "overruns", "wrong_acknowledgements", "results_waiting", "error_code")
    assert [words[c] for c in counts[:-1]] == [parts, 0, 0, 0, 0], dict(words)
    # mbpoll sees the status block as it is.
    code, values, text = mbpoll(SimpleNamespace(port=port), "-a", "1", "-t", "1", "-r", "1", "-c", "32")
    assert code == 0, text
    high = {at - 1 for at, value in values.items() if value == "1"}
    expected = {STATUS["TriggerReady"], STATUS["Online"]} | ({STATUS["InspectionCompleted"]} if parts % 2 else set())
    assert high - {STATUS["Error"]} == expected, text
    line.say(f"{parts} parts, {passed} with JobPass")
    line.stop()


def test_an_in_sight_program_without_buffering_reads_on_the_toggle(line):
    """It never acknowledges: it waits for InspectionCompleted to change, and reads."""
    port = camera_at(line, "", simulated(width=256, height=256, defect_rate=0))
    one = program(line, port)
    one.enable()
    for part in range(1, 51):
        completed = one.status()["InspectionCompleted"]
        acquisition = one.trigger()
        status = one.when("InspectionCompleted changes", InspectionCompleted=not completed)
        words = one.output()
        assert status["JobPass"] and status["ResultsValid"], status
        assert words["InspectionID"] == acquisition == part and words["InspectionResultCode"] == 1, words
    assert not one.status()["BufferOverrun"] and one.output()["ErrorCode"] == 0
    # The next trigger takes JobPass away at once: no old pass for the part in hand.
    one.set("Trigger")
    status = one.status()
    assert status["TriggerAck"] and (not status["JobPass"] or one.output()["InspectionID"] == 51), status


def test_in_sight_jobs_offline_and_errors(line):
    recipes = line.folder / "recipes"
    recipes.mkdir()
    for number in (1, 2):
        shutil.copyfile(line.model, recipes / f"{number}.onnx")
        (recipes / f"{number}.toml").write_text(
            f'number = {number}\nname = "job-{number}"\n[[view]]\nname = "s1-top"\nmodel = "{number}.onnx"\n'
            + ("thresholds = { reject = 0.001, review = 0.001 }\n" if number == 2 else "")
        )
    (recipes / "3.toml").write_text('number = 3\nname = "broken"\n[[view]]\nname = "s1-top"\nmodel = "none.onnx"\n')
    camera = simulated(width=256, height=256, defect_rate=0)
    port = camera_at(line, BUFFERED, camera, more='recipes = "recipes"', model=None)
    one = program(line, port)
    status = one.status()
    assert not status["Online"] and not status["TriggerReady"] and status["OfflineReason"] == 7, "no job is loaded"
    assert not status["JobPass"] and one.output()["InspectionResultCode"] == 4
    one.set("BufferResultsEnable")
    native = line.plc()
    native.when(lambda w: w["fault_code"] == 6, READY_S, "no recipe is in service")
    # As an In-Sight program changes jobs: offline, load, online.
    one.set("SetOffline")
    assert one.when("offline", Online=False, OfflineReason=3)
    assert one.command(9) == (False, 0x402), "there is no job 9"
    assert one.command(1) == (True, 0) and one.output()["CurrentJobID"] == 1
    one.set("Trigger")
    one.set("Trigger", False)
    assert one.status()["MissedAcq"] and one.output()["ErrorCode"] == 0x100, "TriggerEnable is 0"
    one.set("TriggerEnable")
    assert not one.status()["MissedAcq"], "toggling TriggerEnable clears it"
    one.pulse("ClearError")
    one.pulse("Trigger")
    assert one.status()["MissedAcq"] and one.output()["ErrorCode"] == 0x101, "offline"
    one.set("SetOffline", False)
    one.when("online", Online=True, TriggerReady=True)
    first = one.part()
    assert first["JobPass"] and first["Recipe"] == 1 and one.output()["ErrorCode"] == 0x101, "an error stands"
    assert not one.status()["MissedAcq"], "the next good acquisition clears it"
    one.pulse("ClearError")
    assert one.output()["ErrorCode"] == 0 and not one.status()["Error"]
    # Online, between two parts: a job that cannot be used leaves the one before.
    assert one.command(3) == (False, 74) and one.part()["Recipe"] == 1
    assert one.command(2) == (True, 0)
    second = one.part()
    assert (second["Recipe"], second["JobPass"], second["InspectionResultCode"]) == (2, False, 3), second
    assert one.command(1) == (True, 0) and one.part()["JobPass"]
    # What inspectd does not have: harmless, and 0.
    for symbol in ("SetUserData", "ClearExposureComplete", "SoftEvent0"):
        one.set(symbol)
    status = one.status()
    assert not status["SetUserDataAck"] and not status["ExposureComplete"] and not status["SoftEventAck0"], status
    one.set("InitiateStringCmd")
    assert one.status()["StringCmdAck"] and one.status()["StringCmdError"], "a program that waits for it goes on"
    for address, count in [(1000, 3), (2001, 100), (3999, 2)]:
        assert not one.client.write_registers(address, [77] * count, device_id=1).isError(), address
    for address in (2, 100, 6000, 7000):
        assert one.client.write_register(address, 1, device_id=1).isError(), "there is nothing to write"
    assert one.part()["JobPass"]
    words = native.read()
    assert (words["accepted"], words["missed"], words["wrong_acknowledgements"]) == (5, 2, 0), dict(words)
    # After a restart nothing stands: the program has to begin anew, as with a camera that lost power.
    one.trigger()
    one.when("a result", ResultsValid=True)
    line.stop()
    line.start()
    again = program(line, port)
    status = again.status()
    assert not any(status[s] for s in ("TriggerReady", "TriggerAck", "ResultsValid", "JobPass", "Online")), status
    assert again.output()["InspectionID"] == 0


def test_an_in_sight_program_that_starts_anew_gets_only_its_own_results(line):
    port = camera_at(line, BUFFERED, simulated(lose_every=1))  # every part takes its whole deadline
    one = program(line, port)
    one.set("BufferResultsEnable")
    one.enable()
    first = one.trigger()
    one.set("TriggerEnable", False)  # the program stops with the part in hand
    one.close()
    line.clients.remove(one)
    two = program(line, port, by_registers=True)
    two.set("BufferResultsEnable")
    two.set("TriggerEnable")
    assert not two.status()["ResultsValid"]
    words = two.part()  # waits until the first part is done
    assert words["InspectionID"] == first + 1, words
    assert words["InspectionResultCode"] == 4 and words["ResultFaultCode"] == 11 and not words["JobPass"], words
    native = line.plc().read()
    assert (native["accepted"], native["faulted"], native["missed"]) == (2, 2, 0), dict(native)


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]
