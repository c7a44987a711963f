"""What goes wrong on a line: stopping, kill -9, models, cameras and journals that are broken."""

import os
import random
import shutil
import signal
import subprocess
import time

from line import READY_S, agree, once_each, retained, simulated, station, until
from mqtt_tests import published

MODEL_RETRY_S = 5
HEALS_S = 3 * MODEL_RETRY_S
MODEL_AWAY, CAMERA_AWAY, STOPPING = 20, 10, 3
GOOD = {"width": 256, "height": 256, "defect_rate": 0.0}


def test_sigterm_finishes_the_part_in_hand_and_says_reject_until_it_was_read(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.configure(station("s1", camera=simulated(**GOOD, rate_hz=1.0)))  # a part takes up to 1 s
    line.start()
    client = line.ready_plc()
    results = [client.part(), client.part()]
    last = client.trigger()
    time.sleep(0.3)
    line.daemon.send(signal.SIGTERM)
    reads = client.reads_until_the_end()
    assert line.daemon.ended() == 0
    own = [r for r in reads if r["result_trigger_id"] == last]
    assert own and own[0].verdict != "fault", f"the part in hand has no result: {reads[-1]}"
    assert reads[-1]["gate"] == 2, dict(reads[-1])
    assert reads[-1]["fault_code"] == STOPPING or own[0]["gate"] == 2, dict(reads[-1])
    records, _ = published(subscriber, 3)
    agree(results, records)
    assert records[-1]["trigger"]["trigger_id"] == last and records[-1]["verdict"] == own[0].verdict, records[-1]
    assert retained(line.broker, "status")["reason"] == "stopped"


def test_a_start_and_a_stop_are_events(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.configure()
    line.start()
    line.ready_plc()
    line.stop()
    events = until(lambda: [e["event"] for e in subscriber.records("event")], 10, "events")
    assert events[0] == "started" and events[-1] == "stopped" and "unclean_stop" not in events, events


def test_sigterm_waits_for_a_client_that_does_not_read_but_not_for_ever(line):
    line.configure(station("s1", camera=simulated(**GOOD)), mqtt=False)
    line.start()
    client = line.ready_plc()
    until(lambda: client.part().verdict == "pass", 10, "a pass")
    began = time.monotonic()
    line.stop()  # the PLC is connected and does not read again
    took = time.monotonic() - began
    assert 0.9 <= took <= 5, f"stopped after {took:.2f} s"
    client.close()
    line.start()
    client = line.ready_plc()
    client.part()
    client.close()
    began = time.monotonic()
    line.stop()
    alone = time.monotonic() - began
    assert alone < 0.9, f"without a client it stopped after {alone:.2f} s"
    line.say(f"stopped in {took:.2f} s with a client that does not read, in {alone:.2f} s without one")


def test_kill_9_in_the_middle_of_parts_loses_none(line):
    """KILLS says how often; a few without it."""
    kills = int(os.environ.get("KILLS", "3"))
    chance = random.Random(kills)
    line.start_broker()
    subscriber = line.subscribe()
    line.configure()
    results, in_hand, ready_s, last = [], [], [], 0
    for _ in range(kills):
        line.start()
        began = time.monotonic()
        client = line.plc()
        client.id = (len(results) + len(in_hand)) % 60_000
        client.says_reject_for_nobody()
        client.arm(READY_S)
        ready_s.append(time.monotonic() - began)
        client.says_reject_for_nobody()
        first = client.part()
        assert first["part"] > last, f"part number {first['part']} was used before {last}"
        results.append(first)
        results += [client.part() for _ in range(chance.randrange(20))]
        client.trigger()  # in hand
        in_hand.append(client.id)
        time.sleep(chance.uniform(0, 0.01))
        line.daemon.kill_9()
        last = results[-1]["part"]
    line.start()
    line.ready_plc()
    found = until(
        lambda: (e := subscriber.records("event")) and sum(x["event"] == "unclean_stop" for x in e) >= kills and e,
        60 + kills, "each unclean stop is recorded",
    )
    events, _ = once_each(found)
    assert sum(e["event"] == "unclean_stop" for e in events) == kills, events
    assert not [e for e in events if e["event"] == "inspections_lost"], events
    records, doubles = once_each(subscriber.records())
    parts = [r["part"] for r in records]
    assert len(set(parts)) == len(parts), "a part number was used twice"
    missing = [r for r in results if r["part"] not in set(parts)]
    assert not missing, missing
    told = {r["part"] for r in results}
    agree(results, [r for r in records if r["part"] in told])
    # The parts that were in hand: judged, and nobody came to read it, or a fault that says why.
    others = [r for r in records if r["part"] not in told]
    assert [r["trigger"]["trigger_id"] for r in others] == in_hand, others
    restarted = sum(r.get("fault") == "restarted" for r in others)
    line.stop()
    ready_s.sort()
    line.say(
        f"{kills} kills: {len(results)} parts reported, 0 lost; {len(others)} in hand, of which {restarted} never judged; "
        f"{doubles} doubles; ready again after {ready_s[len(ready_s) // 2]:.1f} s, at most {ready_s[-1]:.1f} s"
    )


def with_other_golden_score(model, wrong):
    """A copy of a model whose card is in order, but promises another score for its first golden image."""
    data = model.read_bytes()
    at = data.index(b'"score":', data.index(b'"golden":')) + len(b'"score":')
    while not data[at : at + 1] in b"123456789":
        at += 1
    digit = b"1" if data[at : at + 1] != b"1" else b"9"
    wrong.write_bytes(data[:at] + digit + data[at + 1 :])


def test_a_model_that_fails_its_golden_images_or_is_cut_short_heals_when_put_right(line):
    model = line.folder / "model.onnx"
    with_other_golden_score(line.model, model)
    line.start_broker()
    line.configure()
    line.start()
    client = line.plc()
    client.write(0)
    client.when(lambda w: w["fault_code"] == MODEL_AWAY, READY_S, "fault 20")
    words = client.says_reject_for_nobody()
    assert words["result_fault_code"] == MODEL_AWAY and not words["state"] & 1, dict(words)
    chain = client.read()["chain"]
    state = until(lambda: (s := retained(line.broker, "s1/state")).get("fault") == "model_away" and s, 10, "state")
    assert "golden" in state["detail"], state
    # A part that comes all the same is a fault, not a pass.
    result = client.part()
    assert (result.verdict, result["gate"], result["result_fault_code"]) == ("fault", 2, MODEL_AWAY), dict(result)
    shutil.copyfile(line.model, line.folder / "cut")
    with open(line.folder / "cut", "r+b") as cut:
        cut.truncate(line.model.stat().st_size // 2)
    (line.folder / "cut").replace(model)
    until(lambda: "truncated" in line.daemon.text(), HEALS_S, "the log says that the model is cut short")
    assert client.read()["chain"] == chain, "chain stands while there is no model"
    shutil.copyfile(line.model, line.folder / "right")
    (line.folder / "right").replace(model)
    client.when(lambda w: w["state"] & 1, HEALS_S, "ready again")
    client.says_reject()
    assert client.part().verdict in ("pass", "review", "reject")
    line.stop()


def test_a_model_that_is_cut_short_at_the_start_is_named_and_heals(line):
    model = line.folder / "model.onnx"
    line.configure(mqtt=False)
    with open(model, "r+b") as cut:
        cut.truncate(model.stat().st_size // 2)
    got = subprocess.run([line.inspectd, "check", line.config], capture_output=True, text=True, timeout=20, check=False)
    assert got.returncode == 1, got
    assert "station[0].view[0].model" in got.stderr and str(model) in got.stderr, got.stderr
    assert "truncated" in got.stderr, got.stderr
    # The daemon comes up all the same, and answers.
    line.start()
    client = line.plc()
    client.write(0)
    client.when(lambda w: w["fault_code"] == MODEL_AWAY, READY_S, "fault 20")
    client.says_reject_for_nobody()
    assert "station[0].view[0].model" in line.daemon.text()
    shutil.copyfile(line.model, line.folder / "right")
    (line.folder / "right").replace(model)
    client.when(lambda w: w["state"] & 1, HEALS_S, "ready")
    assert client.part().verdict in ("pass", "review", "reject")
    line.stop()


def test_a_camera_that_goes_and_comes_back(line):
    pictures = line.folder / "pictures"
    capture = [line.inspectd, "capture", "--count", "12", "--out", pictures]
    line.configure(station("s1", camera=simulated(width=128, height=128)), mqtt=False)
    subprocess.run([*capture, "--config", line.config], check=True, capture_output=True, timeout=60)
    line.start_broker()
    line.configure(station("s1", camera=f'{{ kind = "folder", path = "{pictures}" }}'))
    line.start()
    client = line.ready_plc()
    for _ in range(20):  # more than there are: it begins again
        assert client.part().verdict in ("pass", "review", "reject")
    away = line.folder / "away"
    pictures.rename(away)
    results = []
    until(lambda: results.append(client.part()) or results[-1].verdict == "fault", 30, "a fault")
    assert all(r["gate"] == 2 for r in results if r.verdict == "fault")
    client.when(lambda w: w["fault_code"] == CAMERA_AWAY, 10, "fault 10")
    assert "camera=s1/" in line.daemon.text(), "which station's, for views of one name"
    chain = client.read()["chain"]
    time.sleep(2.5)
    assert client.says_reject()["chain"] - chain <= 9, "chain runs out within 2 s"
    chain = client.read()["chain"]
    time.sleep(1)
    assert client.read()["chain"] == chain, "chain stands while the camera is away"
    away.rename(pictures)
    client.when(lambda w: w["state"] & 1, 60, "ready again")
    client.says_reject()
    assert client.part().verdict in ("pass", "review", "reject")
    line.stop()


def test_a_damaged_journal_is_put_aside_and_told(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.configure()
    line.start()
    client = line.ready_plc()
    before = [client.part() for _ in range(20)]
    records, _ = published(subscriber, 20)
    line.stop()
    journal = line.folder / "journal"
    for name in ("journal.db-wal", "journal.db-shm"):
        (journal / name).unlink(missing_ok=True)
    (journal / "journal.db").write_bytes(b"this is no database " * 1000)
    line.start()
    client = line.ready_plc()
    after = client.part()
    assert after["part"] > before[-1]["part"], "a part number was used twice"
    events = until(
        lambda: [e for e in subscriber.records("event") if e["event"] == "journal_quarantined"], 30, "told over MQTT"
    )
    assert "put aside" in events[0]["message"] and list(journal.glob("journal.quarantined-*")), events
    newer, _ = published(subscriber, 21)
    assert newer[-1]["journal"] != records[0]["journal"], "a new journal has another UUID"
    line.stop()


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]
