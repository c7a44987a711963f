"""The register map and the handshake, as pymodbus, mbpoll and a bare socket see them."""

import csv
import io
import math
import multiprocessing
import re
import socket
import struct
import subprocess
import time

import plc as peer
from line import READY_S, simulated, station, until
from plc import INPUT, INPUT_SIZE, Words
from pymodbus.client import ModbusTcpClient

TORN_PARTS = 3000
LOSES_ALL = simulated(lose_every=1)  # every part takes its whole deadline


def test_the_map_in_hand_is_the_map_that_the_daemon_prints(line):
    text = subprocess.run(
        [line.inspectd, "registers", "--format", "csv"], check=True, capture_output=True, text=True
    ).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    printed = {r["symbol"]: (int(r["address"]), r["type"]) for r in rows if r["table"] == "input register"}
    assert printed == INPUT
    bits = {r["symbol"]: int(r["address"]) for r in rows if r["table"] == "discrete input"}
    assert bits == peer.DISCRETE
    holding = {r["symbol"]: (int(r["address"]), r["type"]) for r in rows if r["table"] == "holding register"}
    assert holding == peer.HOLDING
    coils = {r["symbol"]: int(r["address"]) for r in rows if r["table"] == "coil"}
    assert coils == peer.COILS
    assert {r["symbol"]: r["conventional"] for r in rows}["trigger_id"] == "40001"


def test_only_listed_clients_are_let_in_and_only_the_plc_writes(line):
    listed = 'clients = [{ address = "127.0.0.1", may = "write" }, { address = "127.0.0.0/29", may = "read" }]'
    line.configure(mqtt=False, modbus=listed)
    line.start()
    plc_ = line.ready_plc()
    panel = ModbusTcpClient("127.0.0.1", port=line.port, timeout=5, retries=0, source_address=("127.0.0.2", 0))
    assert panel.connect()
    line.clients.append(panel)
    assert panel.read_input_registers(0, count=INPUT_SIZE, device_id=1).registers[0] == 2
    for refused in (
        panel.write_register(0, 77, device_id=1),
        panel.write_registers(0, [77, 1], device_id=1),
        panel.write_coil(0, True, device_id=1),
        panel.write_coils(0, [True, True], device_id=1),
        panel.mask_write_register(address=0, and_mask=0, or_mask=77, device_id=1),
        panel.readwrite_registers(read_address=0, read_count=1, address=0, values=[77], device_id=1),
    ):
        assert refused.isError() and refused.exception_code == 1, refused
    assert plc_.part()["accepted"] == 1, "the panel triggered nothing"
    with socket.create_connection(("127.0.0.1", line.port), 5, ("127.0.0.9", 0)) as stranger:
        stranger.settimeout(5)
        assert stranger.recv(1) == b"", "who is not on the list is closed"
    until(lambda: "not on the list" in line.daemon.text(), 5, "the log says why")


def test_whole_map_at_every_unit_and_offset(line):
    line.configure(station("s1"), station("s2", camera=simulated(seed=2)), mqtt=False)
    line.start()
    first = line.ready_plc()
    second = line.ready_plc(unit=2)
    second.part()
    one, two = first.part(), second.part()
    assert (one["part"], two["part"]) == (1, 2)
    views = [(first, one, (1, 0)), (second, two, (2, 0))]
    for unit, offset, result in [(0, 0, one), (255, 0, one), (1, 1000, two), (0, 1000, two), (255, 1000, two)]:
        views.append((line.plc(unit=unit, offset=offset), result, (unit, offset)))
    block = slice(INPUT["result_sequence"][0], INPUT["result_sequence_end"][0] + 1)
    for client, result, place in views:
        words = client.read()
        assert words["map_version"] == 2, place
        assert words.words[block] == result.words[block], place
        for reserved in [*range(11, 16), 35, *range(40, 48), *range(72, 80)]:
            assert words.words[reserved] == 0, (place, reserved)
        assert words["state"] & peer.SIMULATED and client.bits()["simulated"], place
        answer = client.client.read_holding_registers(client.offset, count=1, device_id=client.unit)
        assert answer.registers == [result["result_trigger_id"]], place
        mirror = client.client.read_holding_registers(client.offset + 116, count=19, device_id=client.unit)
        assert mirror.registers == words.words[block], place
        bits = client.client.read_holding_registers(client.offset + 99, count=1, device_id=client.unit).registers[0]
        assert [bool(bits & 1 << n) for n in range(16)] == list(client.bits().values()), place
    # A trigger written at the offset is station 2's.
    by_offset = line.plc(offset=1000)
    by_offset.id = second.id
    assert by_offset.part()["part"] == 3 and first.read()["part"] == 1


def test_word_order_both_ways(line):
    for order, low_first in [("high_first", False), ("low_first", True)]:
        line.configure(mqtt=False, word_order=order)
        line.start()
        client = line.ready_plc(low_first=low_first)
        result = client.part()
        assert 0 < result["total_us"] < 60_000_000, dict(result)
        assert 0 < result["score"] < 1000 and 0 < result["review_limit"] <= 1, dict(result)
        # The other way round it is another number: the check would tell.
        assert Words(result.words, not low_first)["total_us"] != result["total_us"]
        assert result["part"] == (1 if order == "high_first" else 2)
        line.stop()


def raw(port, unit, pdu, expect_answer=True):
    """Sends a PDU as it is; returns the answer's PDU, or None if the connection was closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(struct.pack(">HHHB", 7, 0, len(pdu) + 1, unit) + pdu)
        header = connection.recv(7, socket.MSG_WAITALL)
        if len(header) < 7:
            assert not expect_answer, "closed without an answer"
            return None
        number, protocol, length, answered = struct.unpack(">HHHB", header)
        assert (number, protocol, answered) == (7, 0, unit)
        return connection.recv(length - 1, socket.MSG_WAITALL)


def test_exceptions(line):
    line.configure(station("s1"), station("clock", trigger='{ source = "clock", period_ms = 5000 }'), mqtt=False)
    line.start()
    refusals = [
        # PDU, unit, exception
        (b"\x2b\x0e\x01\x00", 1, 1),
        (b"\x41", 1, 1),
        (b"\x04\x00\x60\x00\x01", 1, 2),  # 96: behind the end
        (b"\x04\x00\x5f\x00\x02", 1, 2),  # across the end
        (b"\x04\x27\x10\x00\x01", 1, 2),  # offset of a station that is not there
        (b"\x04\xff\xff\x00\x02", 1, 2),
        (b"\x02\x00\x0f\x00\x02", 1, 2),
        (b"\x01\x00\x0f\x00\x02", 1, 2),
        (b"\x05\x00\x10\xff\x00", 1, 2),
        (b"\x0f\x00\x0f\x00\x02\x01\x03", 1, 2),
        (b"\x03\x00\x17\x00\x02", 1, 2),
        (b"\x06\x00\x18\x00\x05", 1, 2),
        (b"\x06\x00\x74\x00\x05", 1, 2),  # the mirror
        (b"\x10\x00\x17\x00\x02\x04\x00\x05\x00\x06", 1, 2),
        (b"\x17\x00\x00\x00\x01\x00\x18\x00\x01\x02\x00\x05", 1, 2),
        (b"\x06\x00\x00\x00\x05", 2, 2),  # station 2 has a clock
        (b"\x04\x00\x00\x00\x00", 1, 3),  # no register
        (b"\x04\x00\x00\x00\x7e", 1, 3),  # 126
        (b"\x03\x00\x00\x00\x7e", 1, 3),
        (b"\x02\x00\x00\x00\x00", 1, 3),
        (b"\x02\x00\x00\x07\xd1", 1, 3),  # 2001
        (b"\x04\x00\x00\x00\x01", 3, 11),  # no such station
        (b"\x06\x00\x00\x00\x05", 247, 11),
    ]
    wrong = []
    for pdu, unit, code in refusals:
        answer = raw(line.port, unit, pdu)
        if answer != bytes([pdu[0] | 0x80, code]):
            wrong.append(f"{pdu.hex()} at unit {unit}: expected exception {code}, got {answer.hex()}")
    assert not wrong, "\n".join(wrong)
    # What contradicts itself gets no answer, or exception 3, and triggers nothing.
    lying = raw(line.port, 1, b"\x10\x00\x00\x00\x01\x04\x00\x05", expect_answer=False)
    assert lying in (None, b"\x90\x03"), lying
    words = line.plc().read()
    assert words["accepted"] == 0 and words["missed"] == 0, dict(words)


def test_handshake(line):
    line.configure(station("s1", camera=LOSES_ALL, deadline_ms=400), mqtt=False)
    line.start()
    client = line.plc()
    client.write(9)
    client.when(lambda w: w["fault_code"] == 2, READY_S, "only the 0 is wanting: fault code 2")
    words = client.says_reject_for_nobody()
    assert not words["state"] & (peer.ARMED | peer.READY), "not armed before 0"
    assert (words["accepted"], words["missed"]) == (0, 1), dict(words)
    client.arm(READY_S)
    client.write(9)
    busy = client.when(lambda w: w["state"] & peer.BUSY, 5, "busy with part 9")
    assert busy["accepted_trigger_id"] == 9 and busy["result_trigger_id"] == 0
    client.write(10)
    result = client.result(9)
    assert (result.verdict, result["result_fault_code"], result["gate"]) == ("fault", 11, 2), dict(result)
    assert math.isnan(result["score"]), dict(result)
    assert result["missed"] == 2 and result["state"] & peer.MISSED, "10 came while 9 was in hand"
    sequence = result["result_sequence"]
    client.write(10)
    client.write(10)
    time.sleep(0.6)
    words = client.read()
    assert (words["accepted"], words["result_sequence"]) == (1, sequence), "the id that stands there is no trigger"
    client.write(11)
    assert client.result(11)["accepted"] == 2
    client.write(0)
    client.write(11)
    assert client.when(lambda w: w["accepted"] == 3, 5, "after a 0 the same id is a change") is not None
    # FC 16 is a write as well.
    client.when(lambda w: not w["state"] & peer.BUSY, 5, "idle")
    client.client.write_registers(0, [65535], device_id=1)
    assert client.result(65535)["accepted"] == 4


def test_alive_and_chain_move_while_idle(line):
    line.configure(mqtt=False)
    line.start()
    client = line.ready_plc()
    before, began = client.read(), time.monotonic()
    time.sleep(5)
    after, steps = client.read(), (time.monotonic() - began) / 0.25
    for name in ("alive", "chain"):
        moved = (after[name] - before[name]) % 65536
        assert abs(moved - steps) <= 4, f"{name} moved {moved} steps of about {steps:.0f}"


def poll(port, until, answer):
    """Another client that reads everything 1,000 times a second."""
    client = peer.Plc(port)
    reads, torn, slow, blocks = 0, [], 0, {}
    answer.send("ready")
    due = time.monotonic()
    while not until.is_set():
        words = client.read()
        reads += 1
        judged = sum(words[k] for k in ("passed", "reviewed", "rejected", "faulted"))
        in_hand = 1 if words["state"] & peer.BUSY else 0
        block = tuple(words.words[16:35])
        if block[0] != block[-1] or words["accepted"] != judged + in_hand:
            torn.append(dict(words))
        if blocks.setdefault(block[0], block) != block:
            torn.append((blocks[block[0]], block))
        due += 0.001
        left = due - time.monotonic()
        if left < 0:
            slow, due = slow + 1, due - left
        else:
            time.sleep(left)
    client.close()
    answer.send((reads, torn[:3], slow, blocks))


def test_no_read_is_torn_at_1_khz_while_parts_run(line):
    line.configure(mqtt=False)
    line.start()
    client = line.ready_plc()
    context = multiprocessing.get_context("spawn")
    over = context.Event()
    here, there = context.Pipe()
    poller = context.Process(target=poll, args=(line.port, over, there), daemon=True)
    poller.start()
    assert here.poll(30) and here.recv() == "ready"
    try:
        began = time.monotonic()
        results = [client.part() for _ in range(TORN_PARTS)]
        took = time.monotonic() - began
    finally:
        over.set()
    assert here.poll(30), "the poller does not answer"
    reads, torn, slow, blocks = here.recv()
    poller.join(10)
    assert not torn, torn
    assert [r["part"] for r in results] == list(range(1, TORN_PARTS + 1))
    seen_by_both = 0
    for result in results:
        other = blocks.get(result["result_sequence"])
        seen_by_both += other is not None
        assert other is None or other == tuple(result.words[16:35]), (other, dict(result))
    assert seen_by_both > TORN_PARTS / 10, f"the poller saw {seen_by_both} results only"
    line.say(f"{TORN_PARTS} parts in {took:.1f} s, {reads} reads beside ({slow} behind 1 kHz), {seen_by_both} seen by both")


def mbpoll(line, *arguments, values=()):
    """Runs mbpoll once; returns its exit code and the values that it printed, by address counted from 1."""
    command = ["mbpoll", "-m", "tcp", "-p", str(line.port), "-1", *arguments, "127.0.0.1", *map(str, values)]
    got = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    found = re.findall(r"^\[(\d+)\]:\s+(\S+)", got.stdout, re.MULTILINE)
    return got.returncode, {int(at): value for at, value in found}, got.stdout + got.stderr


def test_mbpoll_reads_the_map_and_triggers_parts(line):
    line.configure(mqtt=False)
    line.start()
    line.ready_plc()
    for trigger_id in (1, 2, 65535):
        code, _, text = mbpoll(line, "-t", "4", "-r", "1", values=[trigger_id])
        assert code == 0 and "Written 1 references" in text, text
        end = time.monotonic() + 10
        while True:
            code, words, text = mbpoll(line, "-t", "3", "-r", "1", "-c", "96")
            assert code == 0 and len(words) == INPUT_SIZE, text
            if int(words[18]) == trigger_id:
                break
            assert time.monotonic() < end, f"no result for {trigger_id}: {text}"
        assert words[1] == "2" and words[17] == words[35] and words[19] in "123", text
    _, floats, text = mbpoll(line, "-t", "3:float", "-B", "-r", "25")
    assert 0 < float(floats[25]) < 1000, text
    _, parts, text = mbpoll(line, "-t", "3:int", "-B", "-r", "23")
    assert parts[23] == "3", text
    _, bits, text = mbpoll(line, "-t", "1", "-r", "1", "-c", "8")
    assert len(bits) == 8 and bits[1] != bits[2] and bits[3] == "1" and bits[8] == "1", text
    _, ids, text = mbpoll(line, "-t", "4", "-r", "1")
    assert ids[1].split()[0] == "65535", text
    code, _, text = mbpoll(line, "-t", "0", "-r", "2", values=[1])
    assert code == 0, text
    _, coils, text = mbpoll(line, "-t", "0", "-r", "1", "-c", "16")
    assert [coils[n] for n in (1, 2, 3)] == ["0", "1", "0"], text
    _, bits, text = mbpoll(line, "-t", "1", "-r", "1", "-c", "16")
    assert bits[16] == "1", text
    code, _, text = mbpoll(line, "-t", "3", "-r", "97")
    assert "Illegal data address" in text, text
    code, _, text = mbpoll(line, "-a", "9", "-t", "3", "-r", "1")
    assert "arget device failed to respond" in text, text


def test_a_client_that_goes_in_the_middle_of_a_frame_stops_nothing(line):
    line.configure(mqtt=False)
    line.start()
    client = line.ready_plc()
    client.part()
    # Half a header; a header without its PDU; a whole request whose answer nobody takes; nonsense.
    write = struct.pack(">HHHB", 1, 0, 6, 1) + b"\x06\x00\x00\x00\x63"
    for piece in (b"\x00\x01\x00", write[:7], write[:10], b"\xff" * 300, b"GET / HTTP/1.0\r\n\r\n"):
        for reset in (False, True):
            gone = socket.create_connection(("127.0.0.1", line.port), timeout=5)
            gone.sendall(piece)
            if reset:  # closed the hard way
                gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.close()
            client.part()
    # A client that triggers and is gone before the result: another one reads it.
    gone = socket.create_connection(("127.0.0.1", line.port), timeout=5)
    gone.sendall(struct.pack(">HHHB", 1, 0, 6, 1) + b"\x06\x00\x00\x30\x39")
    gone.close()
    assert client.result(12345)["result_trigger_id"] == 12345
    # One that stays silent holds nobody up.
    with socket.create_connection(("127.0.0.1", line.port), timeout=5) as silent:
        silent.sendall(write[:7])
        for _ in range(20):
            client.part()
    words = client.read()
    assert words["accepted"] == 1 + 10 + 1 + 20 and words["missed"] == 0, dict(words)


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]
