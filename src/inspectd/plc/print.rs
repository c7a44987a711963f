//! The register map as text: for a terminal, for import into PLC tools, and as the manual's page.
//!
//! The manual's page, `deploy/manual/registers.md`, is this output; a test holds them together.
//!
//! Never here: anything that is not in the map or in the fault codes.

use std::fmt::Write as _;

use inspect_core::verdict::FaultCode;

use super::map::{Entry, entries};

/// How [`print`] writes the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for a terminal.
    Table,
    /// The manual's page.
    Markdown,
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
const HEAD: &str = "# Register map, version 1

Made by `inspectd registers --format markdown`; do not edit.

Modbus TCP, port 502 unless configured otherwise. Addresses count from 0, as they stand in the PDU; the
column *conventional* counts from 1 and leads with the table's digit, as many PLC tools show it. Types that
take two registers follow `word_order` of `[modbus]`: `high_first` (default) or `low_first`. Unit identifiers
0, 1 and 255 are station 1, unit n is station n; unit 1 also holds station n at offset 1000 (n - 1), for
PLCs that cannot choose a unit identifier. Function codes: 2, 3, 4, 6, 16. Exceptions: 1 function code not
served, 2 address or range outside the map, 3 count outside the specification, 11 no such unit.

## A part, from trigger to gate

1. Once after the daemon's start write `trigger_id` 0; `ready` follows when camera and model are there.
2. For each part write an id that differs from the last one other than 0, 1 to 65535. The change is the trigger. While
   `busy` is 1 another id is not accepted and counts as `missed`.
3. Read the result block in one request (input registers 16 to 34). It is your part's result only if
   `result_sequence` equals `result_sequence_end` and `result_trigger_id` equals the id that you wrote.
4. Open the gate only if all of this holds at the moment when the part reaches it, else push the part out:

```text
|  chain moved    result_sequence =     result_trigger_id =    gate = 1       let the      |
|  within 2 s     result_sequence_end   id of this part                       part pass    |
|----] [---------------] [--------------------] [-----------------] [-------------( )------|
```

A server cannot know that it was read: that is why the PLC must push out by default. `verdict` and `gate`
0 and 65535 never mean pass. After a start, before the first inspection and while the station is in fault the
registers say reject: going into fault also closes the gate of a pass that still stands in the block. A result that is overwritten before any client read it latches `overrun`.

## Places
";

fn page() -> String {
    let table = "\n| table | address | conventional | type | symbol | comment |\n| --- | --- | --- | --- | --- | --- |\n";
    let places = rows(table, |e, conventional| {
        let (name, kind) = (e.table.name(), e.kind.name());
        format!("| {name} | {} | {conventional} | {kind} | `{}` | {} |", e.address, e.symbol, e.comment)
    });
    let faults = FaultCode::ALL.iter().fold(String::new(), |mut text, fault| {
        let _ = writeln!(text, "| {} | {} | {} |", fault.code(), fault.meaning(), fault.action());
        text
    });
    format!(
        "{HEAD}{places}\n## Fault codes\n\n| code | what it means | what to do |\n| --- | --- | --- |\n{faults}"
    )
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
