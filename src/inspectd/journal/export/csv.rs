//! CSV by RFC 4180: commas, quotes where needed, CR LF, UTF-8 with the mark by which Excel knows it. Numbers have a
//! decimal point, times are RFC 3339, an empty field is a value that is not there.

use std::fs::File;
use std::io::{BufWriter, Write};

use super::columns::{Cell, Columns};
use super::{Failed, Table};

/// Without it Excel takes UTF-8 for the system's old code page.
const UTF_8_MARK: &[u8] = b"\xEF\xBB\xBF";

pub(super) struct Csv {
    writer: csv::Writer<BufWriter<File>>,
}

impl Csv {
    pub fn new(mut file: BufWriter<File>, columns: &Columns) -> Result<Self, Failed> {
        file.write_all(UTF_8_MARK)?;
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(file);
        writer.write_record(columns.iter().map(|column| column.name.as_str())).map_err(failed)?;
        Ok(Self { writer })
    }
}

impl Table for Csv {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Failed> {
        for cell in cells {
            let written = match cell {
                Cell::None => self.writer.write_field(""),
                Cell::Text(text) => self.writer.write_field(text.as_bytes()),
                Cell::Whole(number) => self.writer.write_field(number.to_string()),
                Cell::Real(number) => self.writer.write_field(number.to_string()),
                Cell::Truth(truth) => self.writer.write_field(if *truth { "true" } else { "false" }),
                Cell::Time(time) => self.writer.write_field(time.to_string()),
            };
            written.map_err(failed)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(failed)
    }

    fn end(self: Box<Self>) -> Result<(), Failed> {
        let file = self.writer.into_inner().map_err(|error| error.into_error())?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        Ok(file.sync_all()?)
    }
}

fn failed(error: csv::Error) -> Failed {
    Failed::Io(error.into())
}
