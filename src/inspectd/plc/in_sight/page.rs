//! The In-Sight profile as text: the manual's page, and rows for import into PLC tools.
//!
//! The page's table of what happens is played on a real station's registers, row by row.
//!
//! Never here: a row that is written down instead of played; anything of the map that is not in [`super::table`].

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};

use super::InSight;
use super::table::{AREAS, Block, Entry, control, entries, output, status};
use crate::journal::Taken;
use crate::plc::handshake::{Command, Marks};
use crate::plc::map::Table;
use crate::plc::registers::{Asks, Registers};
use crate::plc::result::ResultBlock;
use crate::plc::settings::{Results, Settings};
use crate::plc::word_order::WordOrder;
use crate::record::Gate;

/// A deadline that is not reached.
const FAR: Duration = Duration::from_secs(3600);

/// What stands before the tables.
const HEAD: &str = "# In-Sight profile

Made by `inspectd registers --profile in-sight --format markdown`; do not edit.

A PLC program written for a Cognex In-Sight camera's Modbus TCP server (firmware 5.3.0 or later) can be pointed at a
station that has

```toml
trigger = { source = \"plc\" }
in_sight = { listen = \"192.0.2.10:5021\" }
results = { mode = \"acknowledged\", depth = 8 }   # a program that sets BufferResultsEnable; else leave it out
```

Who may come to it is said by `clients` of `[modbus]`, or by a list of its own beside `listen` ([security.md](security.md)).
Each station is a camera of its own, with its own address or port; the unit identifier is not looked at. A PLC that
cannot choose a port needs 502 here: then give `modbus.listen` another. The station's native registers
([registers.md](registers.md)) stay there and show the same parts: use them for what In-Sight has no place for, such
as `chain` and fault codes, but let one program trigger and acknowledge.

**Nobody has tried this against a program that runs with a real In-Sight camera.** It was made from Cognex's
published description and from two public programs for such cameras, and tried with pymodbus and mbpoll. The bits and
words, their order and their meaning are from Cognex's help (In-Sight Explorer 6.1.1, Modbus TCP Factory Interface,
5.3.0 or later). Where each block's addresses are known from stands below.

Before the first part, go through the rows that say *differs* and *absent*. What every program must change: compare
`InspectionResultCode` with 1, or use `JobPass`, and let a part pass only then. Compare `InspectionID` with the
`AcquisitionID` that stood when `TriggerAck` came: an In-Sight program that only counts results gives a part the
verdict of another one as soon as one is lost. In-Sight has no heartbeat: without `chain` of the native map, a program
sees a dead station only by the result that does not come, so it must push out by default.

A part in short: wait for `TriggerReady`, raise `Trigger`, wait for `TriggerAck`, read `AcquisitionID`, drop `Trigger`,
wait for `ResultsValid`, read the output block and `JobPass`, raise `InspectionResultsAck`, wait until `ResultsValid`
is 0, drop it.

## Blocks

Addresses count from 0, as they stand in the PDU. Bit n of a block of bits is bit n of its first register, from 16 on
bit n - 16 of the second.
";

/// In the terms of the handshake's own page.
const WHAT_HAPPENS: &str = "
## What happens when

Each row goes on from the one before. The columns are what a PLC reads after it.
";

/// Where an entry's first place stands.
struct Place {
    table: Table,
    address: u16,
    also: String,
}

fn place(e: &Entry) -> Option<Place> {
    let area = AREAS.iter().find(|area| area.block == e.block)?;
    let also = match area.table {
        Table::Coil | Table::DiscreteInput => {
            format!("holding register {} bit {}", area.holding + e.at / 16, e.at % 16)
        }
        Table::InputRegister => format!("holding register {}", area.holding + e.at),
        Table::HoldingRegister => String::new(),
    };
    Some(Place { table: area.table, address: area.address + e.at, also })
}

/// Each place, for a terminal.
pub fn table() -> String {
    let head = format!(
        "{:<17}{:>8}  {:<5} {:<24} {:<8} comment\n",
        "table", "address", "type", "symbol", "likeness"
    );
    rows(head, |e, p| {
        let (table, address, likeness) = (p.table.name(), p.address, e.likeness.name());
        format!("{table:<17}{address:>8}  {:<5} {:<24} {likeness:<8} {}", e.kind, e.symbol, e.comment)
    })
}

/// Each place, for import into PLC tools.
pub fn csv() -> String {
    rows("symbol,table,address,also,type,likeness,comment\n".into(), |e, p| {
        let (table, likeness) = (p.table.name(), e.likeness.name());
        format!("{},{table},{},{},{},{likeness},\"{}\"", e.symbol, p.address, p.also, e.kind, e.comment)
    })
}

fn rows(head: String, row: impl Fn(&Entry, Place) -> String) -> String {
    entries().filter_map(|e| Some((e, place(e)?))).fold(head, |mut text, (e, place)| {
        let _ = writeln!(text, "{}", row(e, place)); // writing to a String cannot fail
        text
    })
}

/// The manual's page.
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    let _ = writeln!(text, "\n| block | place | also | addresses |\n| --- | --- | --- | --- |");
    for area in AREAS {
        let last = |first: u16, size: u16| format!("{first} to {}", first + size - 1);
        let also = match area.table {
            Table::HoldingRegister => "-".into(),
            _ => format!("holding register {}", last(area.holding, area.words)),
        };
        let (table, places) = (area.table.name(), last(area.address, area.size));
        let _ = writeln!(text, "| {} | {table} {places} | {also} | {} |", area.name, area.source);
    }
    for area in AREAS {
        let unit = if matches!(area.block, Block::Control | Block::Status) { "bit" } else { "word" };
        let _ = writeln!(text, "\n## {}\n", area.name);
        let _ = writeln!(text, "| {unit} | type | In-Sight's name | here | what it means here |");
        let _ = writeln!(text, "| --- | --- | --- | --- | --- |");
        for e in entries().filter(|e| e.block == area.block) {
            let likeness = e.likeness.name();
            let _ = writeln!(text, "| {} | {} | `{}` | {likeness} | {} |", e.at, e.kind, e.symbol, e.comment);
        }
    }
    text += WHAT_HAPPENS;
    let title = "Results are acknowledged, one may wait (`depth = 1`)";
    play(&mut text, title, Results::Acknowledged { depth: 1 }, ACKNOWLEDGED);
    play(&mut text, "Each result takes the place of the one before", Results::Latest, LATEST);
    text
}

/// A PLC and a station.
struct Play {
    camera: InSight,
    asks: Asks,
    part: u32,
    recipe: u16,
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
        let (registers, asks) = Registers::new(settings);
        let play = Self { camera: InSight::new(Arc::new(registers)), asks, part: 0, recipe: 0 };
        let acknowledged = u32::from(results != Results::Latest);
        play.camera.write_control(|_| acknowledged << control::BUFFER_RESULTS_ENABLE);
        play
    }

    fn set(&mut self, bit: u16, level: bool) {
        self.camera.write_control(|block| block & !(1 << bit) | u32::from(level) << bit);
    }

    fn pulse(&mut self, bit: u16) {
        self.set(bit, true);
        self.set(bit, false);
    }

    /// The PLC looks at status and results.
    fn reads(&mut self) {
        self.camera.output(true);
    }

    fn acknowledges(&mut self) {
        self.reads();
        self.pulse(control::INSPECTION_RESULTS_ACK);
    }

    fn mark(&mut self, fault: Option<FaultCode>) {
        self.camera.registers.mark(Marks { fault, recipe: self.recipe, ..Marks::default() });
    }

    /// The station's verdict on the part in hand.
    fn verdict(&mut self, verdict: Verdict) {
        let Ok(Taken { accepted, .. }) = self.asks.accepted.try_recv() else { return };
        self.part += 1;
        let block = ResultBlock {
            trigger_id: accepted.trigger_id,
            verdict,
            part: self.part,
            ..ResultBlock::reject(FaultCode::Internal)
        };
        self.camera.registers.publish(block, Instant::now() + FAR, true);
    }

    fn loads(&mut self, result: Result<(), FaultCode>) {
        let Ok(Command::LoadRecipe(number)) = self.asks.commands.try_recv() else { return };
        if result.is_ok() {
            self.recipe = number;
            self.mark(None);
        }
        self.camera.registers.end_command(result);
    }

    /// What a PLC reads now, as the cells of a row. Looking at it is no reading by the PLC.
    fn cells(&self) -> String {
        let (bits, words) = (self.camera.status(false), self.camera.output(false));
        let mut text = String::new();
        for bit in BITS {
            let _ = write!(text, "{} | ", bits >> bit & 1);
        }
        for word in WORDS {
            let _ = write!(text, "{} | ", words[usize::from(*word)]);
        }
        text.trim_end().to_owned()
    }
}

const BITS: &[u16] = &[
    status::TRIGGER_READY,
    status::TRIGGER_ACK,
    status::MISSED_ACQ,
    status::ONLINE,
    status::INSPECTION_COMPLETED,
    status::BUFFER_OVERRUN,
    status::RESULTS_VALID,
    status::CMD_EXECUTING,
    status::CMD_COMPLETED,
    status::CMD_FAILED,
    status::JOB_PASS,
];
const WORDS: &[u16] = &[
    output::CURRENT_JOB_ID,
    output::ERROR_CODE,
    output::ACQUISITION_ID,
    output::INSPECTION_ID,
    output::RESULT_CODE,
];

const ACKNOWLEDGED: &[Row] = &[
    ("the daemon starts", |_| {}),
    ("Trigger rises while TriggerEnable is 0: missed, ErrorCode 256 = 16#100", |p| {
        p.set(control::TRIGGER, true)
    }),
    ("camera and model are there; Trigger drops", |p| {
        p.mark(None);
        p.set(control::TRIGGER, false);
    }),
    ("TriggerEnable rises", |p| p.set(control::TRIGGER_ENABLE, true)),
    ("ClearError rises and drops", |p| p.pulse(control::CLEAR_ERROR)),
    ("InspectionResultsAck rises and drops without a result: nothing", |p| p.acknowledges()),
    ("Trigger rises: accepted", |p| p.set(control::TRIGGER, true)),
    ("Trigger drops", |p| p.set(control::TRIGGER, false)),
    ("Trigger rises while the part is in hand: missed, no TriggerAck", |p| p.set(control::TRIGGER, true)),
    ("the result comes: pass; Trigger drops", |p| {
        p.verdict(Verdict::Pass);
        p.set(control::TRIGGER, false);
    }),
    ("ClearError; Trigger rises before the result is acknowledged: accepted", |p| {
        p.pulse(control::CLEAR_ERROR);
        p.set(control::TRIGGER, true);
    }),
    ("its result, a reject, waits; the first stands frozen; Trigger drops", |p| {
        p.verdict(Verdict::Reject);
        p.set(control::TRIGGER, false);
    }),
    ("the PLC reads, InspectionResultsAck rises", |p| {
        p.reads();
        p.set(control::INSPECTION_RESULTS_ACK, true);
    }),
    ("it drops: the next result stands", |p| p.set(control::INSPECTION_RESULTS_ACK, false)),
    ("InspectionResultsAck rises and drops, but nobody has read that result: nothing", |p| {
        p.pulse(control::INSPECTION_RESULTS_ACK);
    }),
    ("it is read and acknowledged", |p| p.acknowledges()),
    ("three parts, all pass, none acknowledged: the third is lost to the PLC", |p| {
        for _ in 0..3 {
            p.set(control::TRIGGER, true);
            p.verdict(Verdict::Pass);
            p.set(control::TRIGGER, false);
        }
    }),
    ("ClearError", |p| p.pulse(control::CLEAR_ERROR)),
    ("Trigger rises; TriggerEnable drops with the part in hand: its result will come", |p| {
        p.set(control::TRIGGER, true);
        p.set(control::TRIGGER_ENABLE, false);
    }),
    ("TriggerEnable rises, Trigger drops (the program starts anew): what waited is forgotten", |p| {
        p.set(control::TRIGGER_ENABLE, true);
        p.set(control::TRIGGER, false);
    }),
    ("the result of that part comes, and is forgotten too", |p| p.verdict(Verdict::Pass)),
    ("SetOffline rises; Trigger rises: missed, ErrorCode 257 = 16#101", |p| {
        p.set(control::SET_OFFLINE, true);
        p.set(control::TRIGGER, true);
    }),
    ("both drop; ClearError", |p| {
        p.set(control::SET_OFFLINE, false);
        p.set(control::TRIGGER, false);
        p.pulse(control::CLEAR_ERROR);
    }),
    ("Command 7, ExecuteCommand rises", |p| {
        p.camera.write_command(7);
        p.set(control::EXECUTE_COMMAND, true);
    }),
    ("recipe 7 is in service", |p| p.loads(Ok(()))),
    ("ExecuteCommand drops; Command 9, ExecuteCommand rises; there is no recipe 9", |p| {
        p.set(control::EXECUTE_COMMAND, false);
        p.camera.write_command(9);
        p.set(control::EXECUTE_COMMAND, true);
        p.loads(Err(FaultCode::NoSuchRecipe));
    }),
    ("ExecuteCommand drops", |p| p.set(control::EXECUTE_COMMAND, false)),
    ("Trigger rises and drops; pass", |p| {
        p.pulse(control::TRIGGER);
        p.verdict(Verdict::Pass);
    }),
    ("the camera is lost before the PLC acted on it: JobPass drops", |p| p.mark(Some(FaultCode::CameraAway))),
    ("the camera is back: it stays dropped", |p| p.mark(None)),
];

const LATEST: &[Row] = &[
    ("the daemon runs; TriggerEnable and Trigger rise in one request: missed", |p| {
        p.mark(None);
        p.camera.write_control(|_| 1 << control::TRIGGER_ENABLE | 1 << control::TRIGGER);
    }),
    ("Trigger drops; ClearError", |p| {
        p.set(control::TRIGGER, false);
        p.pulse(control::CLEAR_ERROR);
    }),
    ("Trigger rises and drops; pass; the PLC reads it", |p| {
        p.pulse(control::TRIGGER);
        p.verdict(Verdict::Pass);
        p.reads();
    }),
    ("Trigger rises: JobPass drops, for the part in hand is another one", |p| p.set(control::TRIGGER, true)),
    ("its result: pass; Trigger drops", |p| {
        p.verdict(Verdict::Pass);
        p.set(control::TRIGGER, false);
    }),
    ("a third part before that was read: overrun", |p| {
        p.pulse(control::TRIGGER);
        p.verdict(Verdict::Pass);
    }),
    ("it is read and acknowledged; ClearError", |p| {
        p.acknowledges();
        p.pulse(control::CLEAR_ERROR);
    }),
];

fn play(text: &mut String, title: &str, results: Results, rows: &[Row]) {
    let name = |block: Block, at: &u16| {
        entries().find(|e| e.block == block && e.at == *at).map_or("", |e| e.symbol).to_owned()
    };
    let bits = BITS.iter().map(|bit| name(Block::Status, bit));
    let columns: Vec<_> = bits.chain(WORDS.iter().map(|word| name(Block::Output, word))).collect();
    let _ = writeln!(text, "\n### {title}\n\n| what happens | {} |", columns.join(" | "));
    let _ = writeln!(text, "| --- |{}", " --- |".repeat(columns.len()));
    let mut play = Play::new(results);
    for (what, act) in rows {
        act(&mut play);
        let _ = writeln!(text, "| {what} | {}", play.cells());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_page_is_what_the_profile_does() {
        let page = include_str!("../../../../deploy/manual/in_sight.md");
        assert!(
            page == super::page(),
            "run: inspectd registers --profile in-sight --format markdown > deploy/manual/in_sight.md"
        );
    }

    #[test]
    fn csv_has_a_row_for_each_place() {
        let csv = csv();
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), entries().count());
        assert!(rows.iter().all(|row| row.len() == 7));
    }
}
