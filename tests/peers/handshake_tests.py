"""Acknowledged results, commands and identity, as pymodbus and mbpoll see them."""

import json
import shutil
import signal
import statistics
import subprocess
import threading
import time

import plc as peer
from line import READY_S, Process, simulated, station, until
from modbus_tests import mbpoll
from mqtt_tests import published

HANDSHAKEN_PARTS = 20_000
MBPOLL_EVERY = 25
ACKNOWLEDGED = 'results = { mode = "acknowledged", depth = 4 }'
FAST = {"width": 64, "height": 64}
# Of the word `handshake`: discrete inputs 10 and 11.
DONE, FAILED = 1 << 2, 1 << 3
# The session of a model that was loaded before is there already; what is left is two steps of the station's loop.
WARM_CHANGE_MS = 100


def serial(part):
    return f"P-{part:07d}"


class Reader(threading.Thread):
    """The second master: takes results in order and acknowledges each."""

    def __init__(self, line, parts):
        super().__init__(daemon=True)
        self.line, self.parts, self.results, self.error = line, parts, [], None

    def run(self):
        try:
            client, idle = peer.Plc(self.line.port), 0
            while len(self.results) < self.parts:
                words = client.read()
                if not words["handshake"] & 1:
                    idle += 1
                    assert idle < 200_000, f"no further result after {len(self.results)}"
                    continue
                idle = 0
                self.results.append(words)
                count = len(self.results)
                if count % MBPOLL_EVERY == 0:  # another program's acknowledgement is as good
                    code, _, text = mbpoll(self.line, "-t", "4", "-r", "2", values=[words["result_sequence"]])
                    assert code == 0, text
                else:
                    client.acknowledge(words["result_sequence"])
            client.close()
        except Exception as error:
            self.error = error


def test_twenty_thousand_parts_over_two_masters(line):
    line.configure(station("s1", camera=simulated(**FAST), more=ACKNOWLEDGED), mqtt=False)
    line.start()
    client = line.ready_plc()
    reader = Reader(line, HANDSHAKEN_PARTS)
    reader.start()
    began = time.monotonic()
    for part in range(1, HANDSHAKEN_PARTS + 1):
        # The writing master waits for ready and for room, as a PLC does.
        words = client.when(
            lambda w: w["state"] & peer.READY and w["results_waiting"] < 4 or reader.error, 30, "ready, and room"
        )
        assert reader.error is None, reader.error
        assert words["missed"] == 0, dict(words)
        trigger_id = (part - 1) % 65535 + 1
        if part % MBPOLL_EVERY == 1:
            code, _, text = mbpoll(line, "-t", "4", "-r", "1", values=[trigger_id])
            assert code == 0, text
        else:
            client.write_part(trigger_id, encoder=part * 1000, product=7, serial=serial(part))
    reader.join(60)
    assert reader.error is None and not reader.is_alive(), reader.error
    took = time.monotonic() - began
    ids = [r["result_trigger_id"] for r in reader.results]
    assert ids == [(part - 1) % 65535 + 1 for part in range(1, HANDSHAKEN_PARTS + 1)], "each once, in order"
    assert [r["part"] for r in reader.results] == list(range(1, HANDSHAKEN_PARTS + 1))
    for part, words in enumerate(reader.results, 1):
        if part % MBPOLL_EVERY != 1:  # mbpoll wrote the id alone
            assert (words["result_serial"], words["result_encoder"]) == (serial(part), part * 1000), dict(words)
        else:
            assert (words["result_serial"], words["result_encoder"]) == ("", 0), "no other part's identity"
    words = client.read()
    counts = ("accepted", "missed", "overruns", "wrong_acknowledgements", "not_journaled", "results_waiting")
    assert [words[c] for c in counts] == [HANDSHAKEN_PARTS, 0, 0, 0, 0, 0], dict(words)
    by_mbpoll = HANDSHAKEN_PARTS // MBPOLL_EVERY
    line.say(f"{HANDSHAKEN_PARTS} parts in {took:.0f} s; {by_mbpoll} triggers and {by_mbpoll} acknowledgements by mbpoll")


def test_results_wait_frozen_and_one_too_many_is_told(line):
    line.configure(station("s1", camera=simulated(**FAST), more=ACKNOWLEDGED), mqtt=False)
    line.start()
    client = line.ready_plc()
    for trigger_id in range(1, 7):
        client.write(trigger_id)
        client.when(lambda w, n=trigger_id: w["accepted"] == n and not w["state"] & peer.BUSY, 10, "the part is done")
    words = client.read()
    assert (words["result_trigger_id"], words["results_waiting"], words["overruns"]) == (1, 4, 1), dict(words)
    assert words["error_code"] == 61 and client.bits()["error"] and client.bits()["overrun"]
    client.acknowledge(words["result_sequence"] + 7)
    assert client.read()["wrong_acknowledgements"] == 1 and client.read()["result_trigger_id"] == 1
    for expected in range(1, 6):
        words = client.read()
        assert words["result_trigger_id"] == expected, dict(words)
        client.acknowledge(words["result_sequence"])
        client.acknowledge(words["result_sequence"])
    words = client.says_reject_for_nobody()
    assert not client.bits()["result_valid"] and words["wrong_acknowledgements"] == 1, dict(words)
    assert client.command("clear_error") == 72, "no command before the bits were seen at 0"
    assert client.command("clear_error") == 0 and client.read()["error_code"] == 0
    assert client.command("reset_counters") == 0 and client.read()["accepted"] == 0


def test_offline_commands_and_masks(line):
    line.configure(station("s1", camera=simulated(**FAST), more=ACKNOWLEDGED), mqtt=False)
    line.start()
    client = line.ready_plc()
    client.coil("offline", True)
    client.when(lambda w: w["fault_code"] == 5, 5, "offline is shown")
    assert client.bits()["is_offline"] and not client.bits()["ready"]
    client.write(1)
    assert client.read()["missed"] == 1 and client.read()["accepted"] == 0
    # FC 22 changes one bit of control and leaves the others.
    answer = client.client.mask_write_register(address=2, and_mask=0xFFFC, or_mask=0x0002, device_id=1)
    assert not answer.isError(), answer
    client.when(lambda w: w["state"] & peer.READY, 5, "online again")
    assert client.bits()["is_bypassed"] and not client.bits()["is_offline"]
    # FC 23 writes the trigger and reads the mirror in one transaction.
    answer = client.client.readwrite_registers(
        read_address=105, read_count=1, write_address=0, values=[9], device_id=1
    )
    assert answer.registers == [9], "accepted_trigger_id, as this very request left it"
    assert client.result(9)["missed"] == 1
    client.client.write_coils(8, [True, True], device_id=1)
    assert client.read()["command_fault_code"] == 70 and client.bits()["command_failed"]
    client.client.write_coils(8, [False] * 8, device_id=1)
    assert client.read()["command_fault_code"] == 0
    assert client.command("discard_results") == 0
    client.says_reject_for_nobody()


def test_a_challenge_part_counts_apart_and_stops_the_line_when_it_passes(line):
    guard = "guard = { rejects_in_a_row = 3, challenge_every_min = 60 }"
    line.start_broker()
    subscriber = line.subscribe()
    good, bad = simulated(width=256, height=256, defect_rate=0, seed=5), simulated(width=256, height=256, defect_rate=1.0, seed=5)
    line.configure(station("good", camera=good, more=guard), station("bad", camera=bad, more=guard))
    line.start()
    client, other = line.ready_plc(), line.ready_plc(unit=2)
    for plc in (client, other):
        assert plc.read()["handshake"] & 1 << 9, "a challenge is due"
        plc.command("clear_error")
        assert plc.command("challenge") == 0 and plc.read()["handshake"] & 1 << 8
    words = client.part()
    assert (words["result_kind"], words["gate"], words["challenges_failed"]) == (2, 2, 1), dict(words)
    assert words["passed"] == words["rejected"] == 0 and words["challenges"] == 1, dict(words)
    client.when(lambda w: client.bits()["stop_request"] and w["error_code"] == 64, 5, "the line is asked to stop")
    words = client.part()
    assert words["result_kind"] == 1 and words["challenges"] == 1, dict(words)
    assert client.command("clear_error") == 0 and not client.bits()["stop_request"]
    # The other station sees nothing but defects: the challenge is rejected, and three parts are enough.
    words = other.part()
    assert (words["result_kind"], words.verdict, words["challenges_failed"]) == (2, "reject", 0), dict(words)
    other.when(lambda w: not w["handshake"] & 1 << 9, 5, "no challenge is due any more")
    assert not other.bits()["stop_request"]
    rejected = [other.part() for _ in range(3)]
    assert all(r["gate"] == 2 for r in rejected), [dict(r) for r in rejected]
    other.when(lambda w: other.bits()["stop_request"] and w["error_code"] == 63, 5, "three rejects in a row")
    records, _ = published(subscriber, 4, station_name="bad")
    challenges = [r for r in records if r["trigger"]["challenge"]]
    assert {r["station"] for r in challenges} == {"good", "bad"} and len(challenges) == 2
    wanted = {("good", "challenge"), ("good", "stop_requested"), ("bad", "challenge"), ("bad", "stop_requested")}

    def told_all():
        events = [e for e in subscriber.records("event") if "station" in e]
        return events if wanted <= {(e["station"], e["event"]) for e in events} else None

    events = until(told_all, 10, "the events of both challenges over MQTT", pause_s=0.2)
    told = {(e["station"], e["of_part"]["part"], e["of_part"]["trigger"]["trigger_id"]) for e in events if e["event"] == "challenge"}
    assert told == {(r["station"], r["part"], r["trigger"]["trigger_id"]) for r in challenges}, told


def test_identity_goes_through_record_and_topic(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.configure(station("s1", camera=simulated(**FAST)), word_order="low_first")
    line.start()
    client = line.plc(low_first=True)
    client.arm(READY_S)
    client.write_part(1, encoder=70_000, product=42, serial="A-0815")
    words = client.result(1)
    assert (words["result_encoder"], words["result_product"], words["result_serial"]) == (70_000, 42, "A-0815")
    client.coil("bypass", True)
    client.write(2)
    words = client.result(2)
    assert (words["result_encoder"], words["result_product"], words["result_serial"]) == (0, 42, "")
    records, _ = published(subscriber, 2)
    one, two = (r["trigger"] for r in sorted(records, key=lambda r: r["part"]))
    assert (one["encoder"], one["product"], one["serial"], one["bypass"]) == (70_000, 42, "A-0815", False)
    assert "encoder" not in two and "serial" not in two and two["bypass"], two


def test_recipes_change_between_two_parts(line):
    recipes = line.folder / "recipes"
    recipes.mkdir()
    for number, name in [(1, "left"), (2, "right")]:
        shutil.copyfile(line.model, recipes / f"{name}.onnx")
        (recipes / f"{name}.toml").write_text(
            f'number = {number}\nname = "{name}"\n[[view]]\nname = "s1-top"\nmodel = "{name}.onnx"\n'
            + ("thresholds = { reject = 0.001, review = 0.001 }\n" if number == 2 else "")
        )
    (recipes / "dark.toml").write_text(
        'number = 4\nname = "dark"\n[[view]]\nname = "s1-top"\nmodel = "left.onnx"\nexposure_us = 100\n'
    )
    (recipes / "broken.toml").write_text('number = 3\nname = "broken"\n[[view]]\nname = "s1-top"\nmodel = "none.onnx"\n')
    line.start_broker()
    subscriber = line.subscribe()
    camera = simulated(width=256, height=256, defect_rate=0)
    line.configure(station("s1", camera=camera, model=None, more='recipes = "recipes"'))
    line.start()
    client = line.plc()
    client.write(0)
    client.when(lambda w: w["fault_code"] == 6, READY_S, "no recipe is in service")
    words = client.part()
    assert (words.verdict, words["gate"], words["result_fault_code"], words["recipe"]) == ("fault", 2, 6, 0), dict(words)
    assert client.command("clear_error") == 72 and client.command("clear_error") == 0

    def load(number):
        client.client.write_register(peer.HOLDING["recipe_request"][0], number, device_id=1)
        began = time.monotonic()
        client.coil("load_recipe", True)
        busy = client.bits()["command_busy"]
        words = client.when(lambda w: w["handshake"] & (DONE | FAILED), READY_S, "load_recipe is answered")
        took_ms = (time.monotonic() - began) * 1e3
        client.coil("load_recipe", False)
        return words["command_fault_code"], took_ms, busy

    assert load(9)[0] == 73, "there is no recipe 9"
    code, cold_ms, busy = load(1)
    assert code == 0 and client.read()["recipe_active"] == 1
    assert busy, "command_busy stands while the model loads"
    first = client.part()
    assert (first["recipe"], first.verdict) == (1, "pass"), dict(first)
    assert load(3)[0] == 74 and client.read()["recipe_active"] == 1, "the one before stays"
    assert client.part()["recipe"] == 1
    # Recipe 2 is tighter than any part: what it judges, it rejects. Parts go on while it loads.
    client.client.write_register(peer.HOLDING["recipe_request"][0], 2, device_id=1)
    client.coil("load_recipe", True)
    seen = []
    end = time.monotonic() + READY_S
    while not seen or seen[-1]["recipe"] == 1:
        assert time.monotonic() < end, "recipe 2 never comes"
        seen.append(client.part())
    assert all(w.verdict == "pass" for w in seen[:-1]), "no part fell between the recipes"
    assert (seen[-1]["recipe"], seen[-1].verdict) == (2, "reject"), dict(seen[-1])
    client.coil("load_recipe", False)
    warm_ms = []
    for number in [1, 2] * 5:
        code, took_ms, _ = load(number)
        words = client.part()
        assert code == 0 and words["recipe"] == number and words.verdict == ("pass", "reject")[number - 1]
        warm_ms.append(took_ms)
    assert statistics.median(warm_ms) <= WARM_CHANGE_MS, warm_ms
    assert load(1)[0] == 0 and client.part().verdict == "pass"
    assert load(4)[0] == 0 and client.part().verdict == "reject", "hardly any light"
    assert load(1)[0] == 0 and client.part().verdict == "pass", "the exposure is the usual one again"
    words = client.part()
    line.say(f"change-over as the PLC saw it: cold {cold_ms:.0f} ms, {len(seen) - 1} parts meanwhile; warm {statistics.median(warm_ms):.0f} ms, {max(warm_ms):.0f} ms at most")
    parts = words["part"]
    records, _ = published(subscriber, parts)
    numbers = {(r["recipe"]["number"], r["recipe"]["name"]) for r in records if "recipe" in r}
    assert numbers == {(1, "left"), (2, "right"), (4, "dark")}, numbers
    assert {e["event"] for e in subscriber.records("event")} >= {"recipe_changed", "recipe_refused"}
    assert client.read()["missed"] == 0 and client.read()["overruns"] == 0


def test_recipes_of_stations_that_no_plc_triggers(line):
    recipes = line.folder / "recipes"
    recipes.mkdir()
    text = 'number = 1\nname = "only"\n[[view]]\nname = "NAME-top"\nmodel = "../model.onnx"\n'
    stations = []
    for name, trigger, rate in [("clock", '{ source = "clock", period_ms = 1000 }', {}), ("free", '{ source = "free_run" }', {"rate_hz": 5})]:
        (recipes / name).mkdir()
        (recipes / name / "1.toml").write_text(text.replace("NAME", name).replace("../", "../../"))
        camera = simulated(**FAST, **rate)
        stations.append(station(name, trigger=trigger, camera=camera, deadline_ms=1000, model=None, more=f'recipes = "recipes/{name}"'))
    line.configure(*stations, mqtt=False)
    line.start()
    for unit in (1, 2):
        client = line.plc(unit=unit)
        client.when(lambda w: w["fault_code"] == 6, READY_S, "no recipe is in service")
        alive = client.read()["alive"]
        client.when(lambda w: w["alive"] != alive, 5, "the output loop runs while the station waits for a recipe")
        assert client.command("clear_error") == 72
        client.client.write_register(peer.HOLDING["recipe_request"][0], 1, device_id=unit)
        assert client.command("load_recipe", limit_s=READY_S) == 0
        client.when(lambda w: w["recipe"] == 1 and w["result_fault_code"] == 0, READY_S, "a part by the recipe")


def test_a_plc_restarts_in_the_middle_of_a_part(line):
    # Every second frame is lost, and its part in hand for its whole deadline.
    camera = simulated(**FAST, lose_every=2)
    line.configure(station("s1", camera=camera, deadline_ms=1500, more=ACKNOWLEDGED), mqtt=False)
    line.start()
    client = line.ready_plc()
    client.write(1)
    client.when(lambda w: w["result_trigger_id"] == 1, 10, "the first has its result, which nobody acknowledges")
    client.write(2)
    assert client.read()["state"] & peer.BUSY, "the second is in hand"
    client.close()
    # What a PLC without memory does: it knows of no part, and wants no result of the time before.
    again = line.plc()
    words = again.read()
    assert words["state"] & peer.BUSY and words["result_trigger_id"] == 1, "both are as they were"
    again.client.write_register(peer.HOLDING["control"][0], 0, device_id=1)
    again.write(0)
    again.when(lambda w: w["state"] & peer.READY, 10, "the part in hand has its result")
    words = again.read()
    assert (words["result_trigger_id"], words["results_waiting"]) == (1, 1), dict(words)
    assert again.command("discard_results") == 0
    words = again.says_reject_for_nobody()
    assert words["results_waiting"] == 0 and not again.bits()["result_valid"], dict(words)
    words = again.part()
    assert (words["result_trigger_id"], words["part"]) == (1, 3), "its own part's, not that of the same id before"
    assert words["result_fault_code"] == 0 and words["accepted"] == 3, dict(words)
    assert (words["missed"], words["overruns"], words["wrong_acknowledgements"]) == (0, 0, 0), dict(words)


def test_too_many_rejects_of_the_latest_parts_stop_the_line(line):
    line.start_broker()
    subscriber = line.subscribe()
    camera = simulated(width=256, height=256, defect_rate=1.0, seed=5)
    more = "guard = { reject_rate = { limit = 0.5, window = 4 } }"
    line.configure(station("s1", camera=camera, more=more))
    line.start()
    client = line.ready_plc()
    assert client.command("clear_error") == 72, "no command before the bits were seen at 0"
    for _ in range(2):  # the second time, because all is counted anew
        rejected = [client.part() for _ in range(3)]
        assert all(r["gate"] == 2 for r in rejected), [dict(r) for r in rejected]
        assert not client.bits()["stop_request"], "three parts are no window of four"
        client.part()
        client.when(lambda w: client.bits()["stop_request"] and w["error_code"] == 63, 5, "four of four are rejected")
        assert client.read()["state"] & peer.READY, "the PLC is asked to stop the line; nothing else stops"
        assert client.command("clear_error") == 0
        assert not client.bits()["stop_request"] and client.read()["error_code"] == 0

    def alarms():
        return [e["message"] for e in subscriber.records("event") if e["event"] == "stop_requested"]

    until(lambda: len(alarms()) >= 2, 10, "both alarms over MQTT")
    assert len(alarms()) == 2 and all("4 of the last 4 parts rejected" in m for m in alarms()), alarms()


def plc_sim_command(line, *arguments):
    return [line.inspectd, "plc-sim", "--address", f"127.0.0.1:{line.port}", "--json", *arguments]


def plc_sim(line, *arguments):
    return subprocess.run(plc_sim_command(line, *arguments), capture_output=True, text=True, timeout=120, check=False)


def bad_steps(got):
    """What plc-sim found wrong, by step; its exit code and its verdict must say so, too."""
    assert got.returncode == 1, got.stdout + got.stderr
    report = json.loads(got.stdout)
    assert report["good"] is False, report
    return {s["what"]: s["told"] for s in report["steps"] if not s["good"]}


def test_plc_sim_finds_good_wiring_good(line):
    line.configure(station("s1", camera=simulated(**FAST), more=ACKNOWLEDGED), station("s2", camera=simulated(**FAST, seed=2)), mqtt=False)
    line.start()
    for unit in (1, 2):
        client = line.ready_plc(unit=unit)
        client.coil("bypass", True)
        got = plc_sim(line, "--unit", str(unit), "--parts", "50", "--misuse")
        assert got.returncode == 0, got.stdout + got.stderr
        report = json.loads(got.stdout)
        assert report["good"] and len(report["results_us"]) == 50 and len(report["steps"]) == 14, report
        assert any(e["what"].startswith("result_trigger_id") for e in report["edges"][-2:]), report["edges"]
        assert client.bits()["is_bypassed"] and not client.bits()["is_offline"], "levels are as they were"
        told = {s["what"]: s["told"] for s in report["steps"]}
        assert "overruns +1" in told["results that nobody takes: one too many is lost, and told"], told
    got = plc_sim(line, "--unit", "3")
    assert got.returncode == 1 and "input registers" in got.stderr, "there is no third station: " + got.stderr
    line.stop()
    got = plc_sim(line)
    assert got.returncode == 1 and "is inspectd running" in got.stderr, got.stderr


def test_plc_sim_finds_a_station_in_fault_bad(line):
    (line.folder / "recipes").mkdir()
    shutil.copyfile(line.model, line.folder / "recipes" / "only.onnx")
    (line.folder / "recipes" / "1.toml").write_text(
        'number = 1\nname = "only"\n[[view]]\nname = "s1-top"\nmodel = "only.onnx"\n'
    )
    line.configure(station("s1", camera=simulated(**FAST), model=None, more='recipes = "recipes"'), mqtt=False)
    line.start()
    client = line.plc()
    client.when(lambda w: w["fault_code"] == 6, READY_S, "no recipe is in service")
    bad = bad_steps(plc_sim(line, "--misuse"))
    assert "chain by 0" in bad["alive and chain count"] and "fault_code 6" in bad["alive and chain count"], bad
    assert "fault_code 6; expected ready 1" in bad["ready after trigger_id 0"], bad
    assert client.read()["accepted"] == 0, "no part was triggered"


class Meddler(threading.Thread):
    """A PLC that was not stopped: writes ids of its own as fast as they are taken."""

    def __init__(self, line):
        super().__init__(daemon=True)
        self.client, self.ends, self.error = line.ready_plc(), threading.Event(), None

    def run(self):
        try:
            while not self.ends.is_set():
                self.client.id = max(self.client.id, 40_000)
                self.client.trigger()
        except Exception as error:
            self.error = error


def test_plc_sim_finds_another_plc_that_writes(line):
    line.configure(station("s1", camera=simulated(**FAST)), mqtt=False)
    line.start()
    meddler = Meddler(line)
    meddler.start()
    try:
        bad = bad_steps(plc_sim(line, "--parts", "1000"))
    finally:
        meddler.ends.set()
        meddler.join(30)
    assert meddler.error is None, meddler.error
    assert any("another PLC" in told or "ready 1" in told for told in bad.values()), bad


def test_plc_sim_that_is_broken_off_leaves_nothing_raised(line):
    # Each part is in hand for its whole deadline: time to break off while offline is raised.
    line.configure(station("s1", camera=simulated(**FAST, lose_every=1), deadline_ms=800, more=ACKNOWLEDGED), mqtt=False)
    line.start()
    client = line.ready_plc()
    played = Process(plc_sim_command(line, "--parts", "1", "--misuse"), line.folder / "plc-sim.log")
    try:
        client.when(
            lambda _: client.client.read_coils(peer.COILS["offline"], count=1, device_id=1).bits[0], 60, "offline is raised"
        )
        played.send(signal.SIGINT)
        assert played.ended() == 1, played.text()
    finally:
        if played.is_running():
            played.kill_9()
    steps = json.loads(played.text())["steps"]
    assert not steps[-1]["good"] and steps[-1]["told"] == "stopped before its end", steps
    coils = client.client.read_coils(0, count=16, device_id=1).bits
    assert not any(coils), f"what it raised stands: {coils}"
    client.when(lambda w: w["state"] & peer.READY, 10, "the station is online")


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]
