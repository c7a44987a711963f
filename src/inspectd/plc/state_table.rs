//! The manual's state table: each row is played on a real handshake, and shows what it then says.
//!
//! Never here: a row that is written down instead of played.

use std::fmt::Write as _;
use std::time::Instant;

use inspect_core::verdict::{FaultCode, Verdict};

use super::handshake::{Handshake, Marks};
use super::map::{coil, discrete, holding, input};
use super::result::ResultBlock;
use super::server;
use super::settings::{Results, Settings};
use super::word_order::WordOrder;
use super::words::{Life, discrete_inputs, input_registers};
use crate::record::Gate;

/// A PLC and a station on one handshake.
struct Play {
    h: Handshake,
    part: u32,
}

type Row = (&'static str, fn(&mut Play));

impl Play {
    fn new(results: Results) -> Self {
        let settings = Settings {
            by_plc: true,
            simulated: false,
            review_at_gate: Gate::Reject,
            results,
            order: WordOrder::HighFirst,
        };
        Self { h: Handshake::new(settings), part: 0 }
    }

    fn write(&mut self, at: u16, value: u16) {
        self.h.write(at, &[value], Instant::now());
    }

    fn id(&mut self, id: u16) {
        self.write(holding::TRIGGER_ID, id);
    }

    fn coil(&mut self, bit: u16, set: bool) {
        self.h.write_coils(bit, &[set], Instant::now());
    }

    /// A command from raise to drop.
    fn command(&mut self, bit: u16) {
        self.coil(bit, true);
        self.coil(bit, false);
    }

    fn acknowledge(&mut self) {
        self.write(holding::RESULT_ACKNOWLEDGED, self.h.sequence);
    }

    /// The station's verdict on the part in hand.
    fn verdict(&mut self, verdict: Verdict) {
        let Some(accepted) = self.h.in_hand else { return };
        self.part += 1;
        let block = ResultBlock {
            trigger_id: accepted.trigger_id,
            verdict,
            part: self.part,
            kind: accepted.kind,
            identity: accepted.identity,
            ..ResultBlock::reject(FaultCode::Internal)
        };
        self.h.publish(block, true);
    }

    fn mark(&mut self, fault: Option<FaultCode>) {
        self.h.mark(Marks { fault, ..Marks::default() });
    }

    /// What a PLC reads now, as the cells of a row.
    fn cells(&self) -> String {
        let words = input_registers(&self.h, Life::default());
        let word = |at: u16| words[usize::from(at)];
        let bits = discrete_inputs(&self.h);
        let bit = |at: u16| u16::from(bits & (1 << at) != 0);
        let named = |of: &[(u16, &'static str)]| {
            let stand = of.iter().filter(|(at, _)| bit(*at) == 1).map(|(_, name)| *name);
            Some(stand.collect::<Vec<_>>().join(", ")).filter(|names| !names.is_empty())
        };
        let command = named(&COMMAND_STATES).unwrap_or("–".into());
        let besides = named(&BESIDES).unwrap_or("–".into());
        format!(
            "{} | {} | {} | {} | {} | {} | {} | {} | {command} | {} | {besides}",
            bit(discrete::READY),
            bit(discrete::BUSY),
            bit(discrete::RESULT_VALID),
            word(input::RESULT_TRIGGER_ID),
            word(input::GATE),
            word(input::RESULTS_WAITING),
            word(input::FAULT_CODE),
            word(input::ERROR_CODE),
            word(input::COMMAND_FAULT_CODE),
        )
    }
}

/// Of these, at most one stands.
const COMMAND_STATES: [(u16, &str); 3] = [
    (discrete::COMMAND_BUSY, "busy"),
    (discrete::COMMAND_DONE, "done"),
    (discrete::COMMAND_FAILED, "failed"),
];
/// Bits that stand seldom.
const BESIDES: [(u16, &str); 3] = [
    (discrete::OFFLINE, "is_offline"),
    (discrete::STOP_REQUEST, "stop_request"),
    (discrete::BYPASS, "is_bypassed"),
];

const ACKNOWLEDGED: &[Row] = &[
    ("the daemon starts", |_| {}),
    ("the PLC writes id 7 before it wrote 0: missed", |p| p.id(7)),
    ("camera and model are there", |p| p.mark(None)),
    ("the PLC writes id 0: armed", |p| p.id(0)),
    ("it raises and drops clear_error (the command bits were never 0 before: not carried out)", |p| {
        p.command(coil::CLEAR_ERROR);
    }),
    ("it raises and drops clear_error again", |p| p.command(coil::CLEAR_ERROR)),
    ("it writes id 7: accepted", |p| p.id(7)),
    ("it writes id 7 once more: nothing", |p| p.id(7)),
    ("it, or a second PLC, writes id 8 while busy: missed", |p| p.id(8)),
    ("it acknowledges while there is no result: wrong acknowledgement (the first error stands)", |p| {
        p.write(holding::RESULT_ACKNOWLEDGED, 999);
    }),
    ("the result of 7: pass", |p| p.verdict(Verdict::Pass)),
    ("clear_error", |p| p.command(coil::CLEAR_ERROR)),
    ("id 9 before 7 is acknowledged: accepted", |p| p.id(9)),
    ("the result of 9, a pass, waits; 7 stands frozen", |p| p.verdict(Verdict::Pass)),
    ("id 10, and its result, for which there is no room: lost to the PLC, overrun", |p| {
        p.id(10);
        p.verdict(Verdict::Pass);
    }),
    ("the PLC acknowledges the sequence that it reads: the result of 9 comes", |p| p.acknowledge()),
    ("it writes the same acknowledgement again: nothing", |p| {
        let sequence = p.h.written[usize::from(holding::RESULT_ACKNOWLEDGED)];
        p.write(holding::RESULT_ACKNOWLEDGED, sequence);
    }),
    ("it (or a second PLC, which takes it from the first) acknowledges that: the block is no part's", |p| {
        p.acknowledge();
    }),
    ("clear_error", |p| p.command(coil::CLEAR_ERROR)),
    ("id 11, and offline is raised while 11 is in hand", |p| {
        p.id(11);
        p.coil(coil::OFFLINE, true);
    }),
    ("the result of 11 comes all the same; now the station is offline", |p| p.verdict(Verdict::Pass)),
    ("id 12 while offline: missed", |p| p.id(12)),
    ("offline is dropped; id 12 stands already, so that nothing happens", |p| p.coil(coil::OFFLINE, false)),
    ("11 is acknowledged; id 13: accepted", |p| {
        p.acknowledge();
        p.id(13);
    }),
    ("the PLC restarts with 13 in hand and writes id 0", |p| p.id(0)),
    ("the result of 13 comes, whom nobody asks for any more", |p| p.verdict(Verdict::Reject)),
    ("the PLC raises and drops discard_results", |p| p.command(coil::DISCARD_RESULTS)),
    ("clear_error; id 14, pass", |p| {
        p.command(coil::CLEAR_ERROR);
        p.id(14);
        p.verdict(Verdict::Pass);
    }),
    ("the camera is lost before the PLC acted on it: the gate closes", |p| {
        p.mark(Some(FaultCode::CameraAway));
    }),
    ("id 15 in fault: accepted, its result is a fault", |p| {
        p.id(15);
        p.verdict(Verdict::Fault(FaultCode::CameraAway));
    }),
    ("the camera is back: the gate of 14 stays closed", |p| p.mark(None)),
    ("two command bits at once: neither", |p| p.write(holding::CONTROL, 0x0300)),
    ("a bit without a command, after all were dropped", |p| {
        p.write(holding::CONTROL, 0);
        p.write(holding::CONTROL, 0x8000);
    }),
    ("all bits are dropped; results discarded, error cleared", |p| {
        p.write(holding::CONTROL, 0);
        p.command(coil::DISCARD_RESULTS);
        p.command(coil::CLEAR_ERROR);
    }),
    ("challenge is raised and dropped; id 16 is found good: the gate stays closed, stop_request", |p| {
        p.command(coil::CHALLENGE);
        p.id(16);
        p.verdict(Verdict::Pass);
        p.h.request_stop(FaultCode::ChallengeFailed);
    }),
    ("clear_error: the line may run again", |p| p.command(coil::CLEAR_ERROR)),
];

const LATEST: &[Row] = &[
    ("the daemon runs, the PLC writes id 0 and id 1; pass", |p| {
        p.mark(None);
        p.id(0);
        p.id(1);
        p.verdict(Verdict::Pass);
    }),
    ("id 2, pass, and nobody has read the result of 1: overrun", |p| {
        p.id(2);
        p.verdict(Verdict::Pass);
    }),
    ("the PLC reads it; id 2 again for another part: nothing, an id must change", |p| {
        p.h.was_read();
        p.id(2);
    }),
    ("id 0, then id 2 for another part: the earlier result is wiped at once", |p| {
        p.id(0);
        p.id(2);
    }),
    ("its result", |p| p.verdict(Verdict::Reject)),
    ("the PLC acknowledges it: nothing, also where it is another sequence", |p| {
        p.acknowledge();
        p.write(holding::RESULT_ACKNOWLEDGED, 999);
    }),
];

const COMMANDS: &[Row] = &[
    ("the daemon runs, the PLC writes id 0 and control 0; id 1, pass", |p| {
        p.mark(None);
        p.write(holding::CONTROL, 0);
        p.id(0);
        p.id(1);
        p.verdict(Verdict::Pass);
    }),
    ("bypass is raised: shown and recorded, nothing else", |p| p.coil(coil::BYPASS, true)),
    ("bypass is dropped", |p| p.coil(coil::BYPASS, false)),
    ("offline is raised: no part is in hand, so that the station is offline at once", |p| {
        p.coil(coil::OFFLINE, true);
    }),
    ("offline is dropped", |p| p.coil(coil::OFFLINE, false)),
    ("reset_counters is raised: the counters are 0; result and error stay", |p| {
        p.coil(coil::RESET_COUNTERS, true);
    }),
    ("load_recipe is raised before reset_counters is dropped: nothing", |p| p.coil(coil::LOAD_RECIPE, true)),
    ("both are dropped", |p| p.write(holding::CONTROL, 0)),
    ("recipe_request, and load_recipe is raised; parts go on by the recipe before", |p| {
        p.write(holding::RECIPE_REQUEST, 3);
        p.coil(coil::LOAD_RECIPE, true);
    }),
    ("the recipe is in service", |p| p.h.end_command(Ok(()))),
    ("load_recipe is dropped", |p| p.coil(coil::LOAD_RECIPE, false)),
    ("load_recipe is raised, and dropped while busy: it goes on", |p| p.command(coil::LOAD_RECIPE)),
    ("clear_error is raised meanwhile: nothing", |p| {
        p.coil(coil::CLEAR_ERROR, true);
    }),
    ("the recipe is in service; the bit that stands is another: failed", |p| p.h.end_command(Ok(()))),
    ("clear_error is dropped", |p| p.coil(coil::CLEAR_ERROR, false)),
    ("load_recipe is raised, dropped while busy, and the recipe is in service: see recipe_active", |p| {
        p.command(coil::LOAD_RECIPE);
        p.h.end_command(Ok(()));
    }),
    ("load_recipe of a number that no recipe has: the one before stays", |p| {
        p.write(holding::RECIPE_REQUEST, 9);
        p.coil(coil::LOAD_RECIPE, true);
        p.h.end_command(Err(FaultCode::NoSuchRecipe));
    }),
    ("load_recipe is dropped", |p| p.coil(coil::LOAD_RECIPE, false)),
];

/// What stands before the tables.
const HEAD: &str = "# Handshake, version 2

Made by `inspectd registers --format handshake`; do not edit. Addresses: [registers.md](registers.md).

## A part

```text
trigger_id      ==< 7 >=================================< 8 >==========
busy            ______/~~~~~~~~~~~~~~~~\\_________________/~~~~~~~~~~~~~
ready           ~~~~~~\\________________/~~~~~~~~~~~~~~~~~\\_____________
result block    ==< of no part, gate 2 >< 7: verdict, gate >============
result_valid    _______________________/~~~~~~~~~~~~~~~~\\_____________
acknowledged    ________________________________________< its sequence >
```

1. Once after the daemon's start write `trigger_id` 0 and `control` 0; `ready` follows when camera and model are there,
   and where the station has recipes, when one is in service ([recipes.md](recipes.md)).
2. For each part write another id, 1 to 65535, with its `encoder`, `product` and `serial` before it or in the same
   request. The change is the trigger. `busy` follows within the same request.
3. Read input registers 16 to 39 in one request, until `result_trigger_id` is the part's id. `result_sequence` equals
   `result_sequence_end`, else read again (PLCs that split a request). What stands behind `result_sequence_end`
   (`result_encoder`, `result_product`, `result_kind`, `result_serial`) is not between the two: read it in one request
   with the block (16 to 95 are 80 registers), or read the block, the rest, and the block again; the rest is that
   part's if `result_sequence` is the same in both.
4. Where the station has `results = { mode = \"acknowledged\", depth = n }`: write `result_sequence` to
   `result_acknowledged`. Until then the result stands frozen; up to n more wait behind it in order. Else each result
   takes the place of the one before.
5. Let the part pass only if all of this holds at the moment when it reaches the gate, else push it out:

```text
|  chain moved    result_sequence =     result_trigger_id =    gate = 1       let the      |
|  within 2 s     result_sequence_end   id of this part                       part pass    |
|----] [---------------] [--------------------] [-----------------] [-------------( )------|

|  result_trigger_id =   result_valid    move result_sequence                             |
|  id of this part                       to result_acknowledged     (where acknowledged)  |
|----] [-------------------] [----------------( MOVE )-------------------------------------|
```

A server cannot know that it was read: that is why the PLC must push out by default.

## Levels and commands

`offline` and `bypass` are levels: they hold as long as they stand. The coils from 8 on are commands: raise one, wait
for `command_done` or `command_failed` (why: `command_fault_code`), drop it. A bit that stands when the daemon starts
is not carried out. `error_code` holds the first thing that went wrong until `clear_error`; it stops nothing.

CONNECTIONS
## What happens when

Each row goes on from the one before. The columns are what a PLC reads after it; *command* is which of `command_busy`,
`command_done` and `command_failed` stands, *besides* which of `is_offline`, `stop_request` and `is_bypassed`.
";

/// What a PLC may do with its connection.
fn connections() -> String {
    let (request_s, answer_s) = (server::REQUEST_WITHIN.as_secs(), server::ANSWER_WITHIN.as_secs());
    format!(
        "## Connections

Hold one connection, and connect anew when it is closed. It may idle for as long as you like. A request that has begun
must be whole within {request_s} s, and answers must be read: when nothing more can be sent for {answer_s} s, the connection is closed.
So it is after bytes that are no Modbus request. A request acts when its last byte is there; one that is cut does nothing.

{} clients can be connected. One more takes the place of another: of one from the address with the most
connections, there of the one whose last request is longest ago. A panel that leaks connections loses its own.
",
        server::MAX_CLIENTS
    )
}

fn table(text: &mut String, title: &str, results: Results, rows: &[Row]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n### {title}\n");
    let _ = writeln!(
        text,
        "| what happens | ready | busy | result_valid | result_trigger_id | gate | results_waiting | fault_code | error_code | command | command_fault_code | besides |"
    );
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(11));
    let mut play = Play::new(results);
    for (what, act) in rows {
        act(&mut play);
        let _ = writeln!(text, "| {what} | {} |", play.cells());
    }
}

/// The manual's page.
pub fn page() -> String {
    let mut text = HEAD.replace("CONNECTIONS", &connections());
    let title = "Results are acknowledged, one may wait (`depth = 1`)";
    table(&mut text, title, Results::Acknowledged { depth: 1 }, ACKNOWLEDGED);
    table(&mut text, "Each result takes the place of the one before", Results::Latest, LATEST);
    let title = "Levels and commands: results are acknowledged, one may wait";
    table(&mut text, title, Results::Acknowledged { depth: 1 }, COMMANDS);
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manuals_page_is_what_the_handshake_does() {
        let page = include_str!("../../../deploy/manual/handshake.md");
        assert!(
            page == super::page(),
            "run: inspectd registers --format handshake > deploy/manual/handshake.md"
        );
    }
}
