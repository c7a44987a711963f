"""What the broker carries, as mosquitto_sub sees it: every verdict, once or told as a double."""

import json
import time

from jsonschema import Draft202012Validator
from line import ROOT, once_each, agree, retained, simulated, station, until

PARTS_OVER_A_RESTART = 5000
ARRIVES_S = 60


def published(subscriber, parts, limit_s=ARRIVES_S, station_name="s1"):
    """All inspections, once as many parts as that are there."""

    def enough():
        records, doubles = once_each(subscriber.records())
        own = {r["part"] for r in records if r["station"] == station_name}
        return (records, doubles) if len(own) >= parts else None

    return until(enough, limit_s, f"{parts} inspections over MQTT", pause_s=0.2)


def validators():
    """One for each kind of message, by the last level of its topic."""
    found = {}
    for kind in ("inspection", "event", "state", "status"):
        schema = json.loads((ROOT / "deploy" / "schema" / f"{kind}.schema.json").read_text())
        Draft202012Validator.check_schema(schema)
        found[kind] = Draft202012Validator(schema)
    return found


def test_every_verdict_is_published_and_is_the_one_that_modbus_gave(line):
    line.start_broker()
    subscriber = line.subscribe()
    clock = station("by-clock", trigger='{ source = "clock", period_ms = 500 }', camera=simulated(seed=3), deadline_ms=500)
    lossy = station("lossy", camera=simulated(seed=4, lose_every=3), deadline_ms=250)
    camera = simulated(width=256, height=256, defect_rate=0.4)
    line.configure(station("s1", camera=camera), clock, lossy)
    line.start()
    client, faulty = line.ready_plc(), line.ready_plc(unit=3)
    results = [client.part() for _ in range(100)]
    faults = [faulty.part() for _ in range(12)]
    records, _ = published(subscriber, 100)
    records, doubles = published(subscriber, 12, station_name="lossy")
    verdicts = agree(results, records)
    agree(faults, records, "lossy")
    faults = {r["fault"] for r in records if r["station"] == "lossy" and r["verdict"] == "fault"}
    # On a machine that stands still for a moment a lost frame is told too late.
    assert "no_frame" in faults and faults <= {"no_frame", "late"}, faults
    assert any(r["station"] == "by-clock" and "trigger_id" not in r["trigger"] for r in records)
    assert all(r["truth"] for r in records if r["station"] == "s1") and all(r["simulated"] for r in records)
    assert doubles == 0, doubles
    assert verdicts["pass"] and verdicts["reject"] and verdicts["fault"], f"all kinds are wanted here: {verdicts}"
    for (at, result), record in zip(enumerate(results, 1), [r for r in records if r["station"] == "s1"]):
        assert record["part"] == at
        relative = record["views"][0]["relative_score"]
        assert abs(relative - result["score"]) <= 1e-6 * abs(relative), (record, dict(result))
        assert record["views"][0]["model_sha256"].startswith(f"{result['model']:08x}")
    line.stop()
    checks, kinds = validators(), {}
    for topic, _, payload in subscriber.messages():
        kind = topic.rsplit("/", 1)[-1]
        checks[kind].validate(payload)
        kinds[kind] = kinds.get(kind, 0) + 1
    assert set(kinds) == set(checks), kinds
    times = [r["trigger"]["accepted"] for r in records]
    assert all(t.endswith("Z") for t in times), times[:3]
    line.say(f"verdicts {dict(verdicts)}; messages valid by their schemas: {kinds}")


def test_status_and_state_are_retained(line):
    line.start_broker()
    line.configure()
    line.start()
    client = line.ready_plc()
    client.part()
    until(lambda: retained(line.broker, "s1/state")["ready"], 10, "state says ready")
    state = until(
        lambda: (s := retained(line.broker, "s1/state"))["counters"]["accepted"] == 1 and s, 10, "state counts the part"
    )
    assert state["station"] == "s1" and state["simulated"] and "fault" not in state, state
    online = retained(line.broker, "status")
    assert online["status"] == "online", online
    line.daemon.kill_9()
    lost = until(lambda: (s := retained(line.broker, "status"))["status"] == "offline" and s, 30, "the last will")
    assert lost["reason"] == "lost" and lost["connected"] == online["connected"], lost
    line.start()
    line.ready_plc().part()
    until(lambda: retained(line.broker, "status")["status"] == "online", 30, "online again")
    until(lambda: retained(line.broker, "s1/state")["ready"], 10, "ready again")
    line.stop()
    stopped = retained(line.broker, "status")
    assert (stopped["status"], stopped["reason"]) == ("offline", "stopped"), stopped
    state = retained(line.broker, "s1/state")
    assert not state["ready"] and state["fault"] == "stopping", state


def test_nothing_is_lost_over_a_restart_of_the_broker(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.configure()
    line.start()
    client = line.ready_plc()
    began = time.monotonic()
    results = [client.part() for _ in range(PARTS_OVER_A_RESTART // 2)]
    line.broker.stop()
    results += [client.part() for _ in range(200)]  # the line does not wait for a broker
    line.broker.start()
    results += [client.part() for _ in range(PARTS_OVER_A_RESTART - len(results))]
    took = time.monotonic() - began
    records, doubles = published(subscriber, PARTS_OVER_A_RESTART)
    assert [r["part"] for r in records] == list(range(1, PARTS_OVER_A_RESTART + 1)), "each once, in order"
    assert len({r["journal"] for r in records}) == 1
    agree(results, records)
    words = client.read()
    assert words["not_journaled"] == 0 and words["faulted"] == 0, dict(words)
    line.say(f"{PARTS_OVER_A_RESTART} parts in {took:.0f} s, {doubles} doubles")


def test_a_broker_away_at_the_start_gets_everything_later(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.broker.stop()
    line.configure()
    line.start()
    client = line.ready_plc()
    results = [client.part() for _ in range(50)]
    line.broker.start()
    records, _ = published(subscriber, 50)
    agree(results, records)
    events = [e["event"] for e in subscriber.records("event")]
    assert "station_ready" in events, events
    line.stop()


def test_a_backlog_outlives_a_restart_of_inspectd(line):
    line.start_broker()
    subscriber = line.subscribe()
    line.broker.stop()
    line.configure()
    line.start()
    results = [line.ready_plc().part() for _ in range(1)]
    line.stop()
    line.start()
    client = line.ready_plc()
    results.append(client.part())
    line.broker.start()
    records, _ = published(subscriber, 2)
    agree(results, records)
    line.stop()


TESTS = [value for name, value in list(globals().items()) if name.startswith("test_")]
