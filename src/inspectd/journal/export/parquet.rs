//! Parquet: the same columns with their types. Times are microseconds of UTC; what is not there is null.
//!
//! Rows are held by column until there are [`GROUP_ROWS`] of them, so that memory is bounded. Not compressed: names,
//! hashes and words are kept once in each group as it is.

use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;

use super::columns::{Cell, Columns, Holds};
use super::{Failed, Table};

/// Rows of one row group.
const GROUP_ROWS: usize = 10_000;

pub(super) struct Parquet {
    writer: SerializedFileWriter<BufWriter<File>>,
    held: Vec<Held>,
    rows: usize,
}

/// A column's values of the group in the making.
struct Held {
    values: Values,
    /// 1 for each row that has a value, 0 for each that has none.
    present: Vec<i16>,
}

enum Values {
    Text(Vec<ByteArray>),
    /// Times, too: microseconds.
    Whole(Vec<i64>),
    Real(Vec<f32>),
    Truth(Vec<bool>),
}

impl Values {
    fn none(holds: Holds) -> Self {
        match holds {
            Holds::Text => Self::Text(Vec::new()),
            Holds::Whole | Holds::Time => Self::Whole(Vec::new()),
            Holds::Real => Self::Real(Vec::new()),
            Holds::Truth => Self::Truth(Vec::new()),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Text(values) => values.clear(),
            Self::Whole(values) => values.clear(),
            Self::Real(values) => values.clear(),
            Self::Truth(values) => values.clear(),
        }
    }
}

impl Parquet {
    pub fn new(file: BufWriter<File>, columns: &Columns) -> Result<Self, Failed> {
        let fields = columns.iter().map(|column| {
            let holds = match column.holds {
                Holds::Text => ("BYTE_ARRAY", " (STRING)"),
                Holds::Whole => ("INT64", ""),
                Holds::Real => ("FLOAT", ""),
                Holds::Truth => ("BOOLEAN", ""),
                Holds::Time => ("INT64", " (TIMESTAMP(MICROS,true))"),
            };
            format!("OPTIONAL {} {}{};", holds.0, column.name, holds.1)
        });
        let message = format!("message record {{ {} }}", fields.collect::<String>());
        let schema = Arc::new(parse_message_type(&message)?);
        let properties = WriterProperties::builder()
            .set_created_by(concat!("inspectd ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        let held =
            columns.iter().map(|column| Held { values: Values::none(column.holds), present: Vec::new() });
        Ok(Self { writer, held: held.collect(), rows: 0 })
    }

    fn write_group(&mut self) -> Result<(), Failed> {
        let mut group = self.writer.next_row_group()?;
        for held in &mut self.held {
            let missing = || ParquetError::General("fewer columns than expected".to_owned());
            let mut column = group.next_column()?.ok_or_else(missing)?;
            let levels = Some(&held.present[..]);
            match (column.untyped(), &held.values) {
                (ColumnWriter::ByteArrayColumnWriter(to), Values::Text(values)) => {
                    to.write_batch(values, levels, None)?
                }
                (ColumnWriter::Int64ColumnWriter(to), Values::Whole(values)) => {
                    to.write_batch(values, levels, None)?
                }
                (ColumnWriter::FloatColumnWriter(to), Values::Real(values)) => {
                    to.write_batch(values, levels, None)?
                }
                (ColumnWriter::BoolColumnWriter(to), Values::Truth(values)) => {
                    to.write_batch(values, levels, None)?
                }
                _ => return Err(ParquetError::General("a column of another type".to_owned()).into()),
            };
            column.close()?;
            held.values.clear();
            held.present.clear();
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }
}

impl Table for Parquet {
    fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), Failed> {
        for (held, cell) in self.held.iter_mut().zip(cells) {
            match (&mut held.values, cell) {
                (Values::Text(values), Cell::Text(text)) => values.push(ByteArray::from(text.as_ref())),
                (Values::Whole(values), Cell::Whole(number)) => values.push(*number),
                (Values::Whole(values), Cell::Time(time)) => values.push(time.as_microsecond()),
                (Values::Real(values), Cell::Real(number)) => values.push(*number),
                (Values::Truth(values), Cell::Truth(truth)) => values.push(*truth),
                (_, Cell::None) => {
                    held.present.push(0);
                    continue;
                }
                (_, other) => {
                    return Err(
                        ParquetError::General(format!("{other:?} in a column of another type")).into()
                    );
                }
            }
            held.present.push(1);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS { self.write_group() } else { Ok(()) }
    }

    fn end(mut self: Box<Self>) -> Result<(), Failed> {
        if self.rows > 0 {
            self.write_group()?;
        }
        let file = self.writer.into_inner()?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        Ok(file.sync_all()?)
    }
}
