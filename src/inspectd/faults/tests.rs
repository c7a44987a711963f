use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::plc::handshake::Marks;
use crate::plc::map::{coil, discrete, entries, holding, input, state_bit};
use crate::plc::registers::Registers;
use crate::plc::result::ResultBlock;
use crate::plc::settings::Settings;
use crate::record::Gate;

#[test]
fn the_manuals_page_is_the_codes_table() {
    let known = include_str!("../../../deploy/manual/faults.md");
    assert!(known == page(), "run: inspectd faults --format markdown > deploy/manual/faults.md");
}

/// What stands in backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

#[test]
fn each_code_has_a_row_that_says_where_it_is_seen() {
    let rows = rows();
    assert_eq!(rows.len(), FaultCode::ALL.len());
    for row in &rows {
        assert!(!(row.plc.is_empty() && row.mqtt.is_empty()), "{row:?}");
        assert_eq!(find(&row.code.to_string()), find(&row.word), "{row:?}");
        assert!(text(find(&row.word).unwrap()).contains(row.action), "{row:?}");
    }
    assert_eq!(find("9999"), None);
}

#[test]
fn registers_and_messages_that_it_names_are_there() {
    let source = source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inspectd"));
    for row in rows() {
        for symbol in row.plc.iter().flat_map(|cell| quoted(cell)) {
            assert!(entries().any(|entry| entry.symbol == symbol), "{}: {symbol}", row.code);
        }
        for log in row.log.iter().flat_map(|cell| quoted(cell)).filter(|log| !log.contains('=')) {
            // Events that are logged by their kind have its name.
            let is_kind = source.contains(&format!("EventKind::{log},"));
            assert!(is_kind || source.contains(&format!("\"{log}\"")), "{}: nothing logs `{log}`", row.code);
        }
    }
}

/// All of the daemon's code but this module's.
fn source(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true if path.ends_with("faults") => String::new(),
        true => source(&path),
        false => std::fs::read_to_string(path).unwrap_or_default(),
    };
    entries.map(text).collect()
}

/// A station in order that the PLC has not armed.
fn unarmed() -> Registers {
    let (registers, asks) = Registers::new(Settings {
        by_plc: true,
        simulated: false,
        review_at_gate: Gate::Reject,
        results: Default::default(),
        order: Default::default(),
    });
    std::mem::forget(asks); // the station that would listen
    registers.mark(Marks::default());
    registers
}

fn ready() -> Registers {
    let registers = unarmed();
    registers.write_registers(holding::TRIGGER_ID, &[0]).unwrap();
    registers.write_registers(holding::CONTROL, &[0]).unwrap();
    registers
}

/// What stands at the symbols that a cell names: `symbol` value, as the cell writes it.
fn shown(registers: &Registers, cell: &str) -> String {
    let words = registers.input_registers(0..input::SIZE).unwrap();
    let bits = registers.discrete_inputs(0..discrete::SIZE).unwrap();
    let value = |symbol: &str| {
        let entry = entries().find(|entry| entry.symbol == symbol).unwrap();
        match entry.kind {
            crate::plc::map::Kind::Bit => u16::from(bits[usize::from(entry.address)]),
            _ => words[usize::from(entry.address)],
        }
    };
    quoted(cell).map(|symbol| format!("`{symbol}` {}", value(symbol))).collect::<Vec<_>>().join(", ")
}

/// Makes the registers say so.
fn befall(registers: &Registers, of: As, code: FaultCode) {
    let block = ResultBlock { trigger_id: 7, part: 7, ..ResultBlock::reject(code) };
    match of {
        As::Station | As::StationUntold => registers.mark(Marks { fault: Some(code), ..Marks::default() }),
        As::Part => drop(registers.publish(block, Instant::now() + Duration::from_secs(60), true)),
        As::Latch if code == FaultCode::JournalFull => {
            let unharmed = ResultBlock { verdict: inspect_core::verdict::Verdict::Pass, ..block };
            registers.publish(unharmed, Instant::now() + Duration::from_secs(60), false);
        }
        As::Latch | As::Stop => registers.request_stop(code), // further ways to a latch: handshake_tests
        As::Command => {
            registers.write_registers(holding::CONTROL, &[1 << coil::LOAD_RECIPE]).unwrap();
            registers.end_command(Err(code));
        }
        As::Waits if code == FaultCode::Offline => {
            registers.write_registers(holding::CONTROL, &[1 << coil::OFFLINE]).unwrap();
        }
        As::Waits | As::NoResult | As::Record => {}
    }
}

#[test]
fn the_registers_say_what_the_page_says() {
    for code in FaultCode::ALL.iter().copied() {
        for of in row(code).of.into_iter().filter(|of| !matches!(of, As::NoResult | As::Record)) {
            let registers = if code == FaultCode::NotArmed { unarmed() } else { ready() };
            let cell = of.plc(code);
            befall(&registers, of, code);
            assert_eq!(shown(&registers, &cell), cell, "{code:?} as {of:?}");
            let words = registers.input_registers(0..input::SIZE).unwrap();
            let ready = words[usize::from(input::STATE)] & state_bit::READY != 0;
            assert_eq!(
                ready,
                !matches!(of, As::Station | As::StationUntold | As::Waits),
                "{code:?} as {of:?}"
            );
        }
    }
}
