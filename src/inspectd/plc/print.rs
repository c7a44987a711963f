//! The register map as text: for a terminal, for import into PLC tools, and as the manual's page.
//!
//! The manual's pages, `deploy/manual/registers.md` and `handshake.md`, are this output; tests hold them together.
//!
//! Never here: anything that is not in the map; fault codes ([`crate::faults`]).

use std::fmt::Write as _;

use super::map::{Entry, entries};

/// How [`print`] writes the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for a terminal.
    Table,
    /// The manual's page.
    Markdown,
    /// The manual's page on trigger, result and commands, with the state table.
    Handshake,
    /// symbol, table, address, conventional address, type, comment: for import into PLC tools.
    Csv,
}

/// The whole map as text.
pub fn print(format: Format) -> String {
    match format {
        Format::Table => rows(
            &format!(
                "{:<17}{:>8} {:>7}  {:<6} {:<20} comment\n",
                "table", "address", "conv.", "type", "symbol"
            ),
            |e, conventional| {
                let (table, kind) = (e.table.name(), e.kind.name());
                let (address, symbol, comment) = (e.address, e.symbol, e.comment);
                format!("{table:<17}{address:>8} {conventional:>7}  {kind:<6} {symbol:<20} {comment}")
            },
        ),
        Format::Csv => rows("symbol,table,address,conventional,type,comment\n", |e, conventional| {
            let (table, kind) = (e.table.name(), e.kind.name());
            format!("{},{table},{},{conventional},{kind},\"{}\"", e.symbol, e.address, e.comment)
        }),
        Format::Markdown => page(),
        Format::Handshake => super::state_table::page(),
    }
}

fn rows(head: &str, row: impl Fn(&Entry, u32) -> String) -> String {
    entries().fold(head.to_owned(), |mut text, e| {
        let conventional = e.table.conventional() + u32::from(e.address);
        let _ = writeln!(text, "{}", row(e, conventional)); // writing to a String cannot fail
        text
    })
}

/// What stands before the tables of the manual's page.
const HEAD: &str = "# Register map, version 2

Made by `inspectd registers --format markdown`; do not edit. How trigger, result and commands go together, with
what happens when they do not: [handshake.md](handshake.md). Fault codes: [faults.md](faults.md).

Modbus TCP, port 502 unless configured otherwise. Addresses count from 0, as they stand in the PDU; the
column *conventional* counts from 1 and leads with the table's digit, as many PLC tools show it. Types that
take two registers follow `word_order` of `[modbus]`: `high_first` (default) or `low_first`. Strings hold two
characters a register, the first in the high byte. Unit identifiers
0, 1 and 255 are station 1, unit n is station n; unit 1 also holds station n at offset 1000 (n - 1), for
PLCs that cannot choose a unit identifier. Function codes: 1, 2, 3, 4, 5, 6, 15, 16, 22, 23. Exceptions: 1 function
code not served, 2 address or range outside the map, 3 count outside the specification, 11 no such unit.

PLCs that read holding registers only: input register n is also holding register 100 + n, and holding register 99
holds discrete inputs 0 to 15 as its bits; 99 to 195 can be read in one request. PLCs that write registers only: `control` holds the coils.

A part in short: write its id to `trigger_id`, read input registers 16 to 39 in one request, use the result only if
`result_trigger_id` is the part's id. `verdict` and `gate` 0 and 65535 never mean pass. After a start, before the
first inspection and while the station is in fault the registers say reject.

## Places
";

fn page() -> String {
    let table = "\n| table | address | conventional | type | symbol | comment |\n| --- | --- | --- | --- | --- | --- |\n";
    let places = rows(table, |e, conventional| {
        let (name, kind) = (e.table.name(), e.kind.name());
        format!("| {name} | {} | {conventional} | {kind} | `{}` | {} |", e.address, e.symbol, e.comment)
    });
    format!("{HEAD}{places}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manuals_page_is_the_codes_table() {
        let page = include_str!("../../../deploy/manual/registers.md");
        assert!(
            page == print(Format::Markdown),
            "run: inspectd registers --format markdown > deploy/manual/registers.md"
        );
    }

    #[test]
    fn csv_has_a_row_for_each_place() {
        let csv = print(Format::Csv);
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), entries().count());
        assert!(rows.iter().all(|row| row.len() == 6));
    }
}
