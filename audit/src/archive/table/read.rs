//! Reads an archive's table, group by group.

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType};
use parquet::file::reader::{ChunkReader, FileReader as _, RowGroupReader};
use parquet::file::serialized_reader::SerializedFileReader;
use schemas::Millis;

use super::{CONTENTS, HEAD, SIGNATURE, TableError};
use crate::archive::{ArchiveError, Archived, Line, Text};

/// Where the columns stand.
const TOPIC: usize = 0;
const PARTITION: usize = 1;
const OFFSET: usize = 2;
const APPEND_TIME: usize = 3;
const KEY: usize = 4;
const KEY_BYTES: usize = 5;
const HEADERS: usize = 6;
const VALUE: usize = 7;
const VALUE_BYTES: usize = 8;
const HASH: usize = 9;
const SEAL: usize = 10;
const SEAL_SIGNATURE: usize = 11;
const COLUMNS: usize = 12;

/// Gives every line of an archive's table to `each`, in the order in which they stand.
pub(in crate::archive) fn read<R: ChunkReader + 'static, E: From<ArchiveError>>(
    file: R,
    mut each: impl FnMut(Line) -> Result<(), E>,
) -> Result<(), E> {
    let table = |error: TableError| E::from(error.into());
    let reader = SerializedFileReader::new(file).map_err(|error| table(error.into()))?;
    for line in first_lines(&reader).map_err(table)? {
        each(line)?;
    }
    for at in 0..reader.num_row_groups() {
        let group = reader.get_row_group(at);
        let group = group.map_err(|error| table(error.into()))?;
        let grid = Grid::read(&*group).map_err(table)?;
        for row in 0..grid.rows {
            each(grid.line(row).map_err(table)?)?;
        }
    }
    Ok(())
}

/// What stands in the file's metadata.
fn first_lines<R: ChunkReader + 'static>(
    reader: &SerializedFileReader<R>,
) -> Result<Vec<Line>, TableError> {
    let notes = reader.metadata().file_metadata().key_value_metadata();
    let note = |name: &str| {
        let note = notes?.iter().find(|note| note.key == name);
        note.and_then(|note| note.value.clone())
    };
    let head = note(HEAD).ok_or(TableError::Foreign("it has no head"))?;
    let mut lines = vec![Line::Head(serde_json::from_str(&head)?)];
    if let Some(contents) = note(CONTENTS) {
        let signature = note(SIGNATURE).unwrap_or_default();
        lines.push(Line::Contents {
            contents,
            signature,
        });
    }
    Ok(lines)
}

/// The columns of a group.
struct Grid {
    rows: usize,
    texts: Vec<Vec<Option<ByteArray>>>,
    numbers: Vec<Vec<i64>>,
}

impl Grid {
    fn read(group: &dyn RowGroupReader) -> Result<Self, TableError> {
        if group.num_columns() != COLUMNS {
            return Err(TableError::Foreign("its columns are others"));
        }
        let rows = usize::try_from(group.metadata().num_rows());
        let rows = rows.map_err(|_negative| TableError::Foreign("it has no rows"))?;
        let mut grid = Self {
            rows,
            texts: Vec::with_capacity(COLUMNS),
            numbers: Vec::with_capacity(COLUMNS),
        };
        for at in 0..COLUMNS {
            let (texts, numbers) = match group.get_column_reader(at)? {
                ColumnReader::ByteArrayColumnReader(column) => (texts(column, rows)?, vec![]),
                ColumnReader::Int64ColumnReader(column) => (vec![], values(column, rows)?.0),
                ColumnReader::Int32ColumnReader(column) => {
                    let (numbers, _) = values(column, rows)?;
                    (vec![], numbers.into_iter().map(i64::from).collect())
                }
                _ => return Err(TableError::Foreign("a column is of another type")),
            };
            grid.texts.push(texts);
            grid.numbers.push(numbers);
        }
        Ok(grid)
    }

    fn line(&self, row: usize) -> Result<Line, TableError> {
        if let Some(seal) = self.text(SEAL, row)? {
            let signature = self.text(SEAL_SIGNATURE, row)?.unwrap_or_default();
            return Ok(Line::Seal { seal, signature });
        }
        let partition = i32::try_from(self.number(PARTITION, row)?);
        let headers = self.text(HEADERS, row)?.unwrap_or_default();
        let hash = self.text(HASH, row)?.map(|hash| hash.parse()).transpose();
        Ok(Line::Record(Box::new(Archived {
            topic: self.text(TOPIC, row)?.unwrap_or_default(),
            partition: partition.map_err(|_wide| TableError::Foreign("a partition is none"))?,
            offset: self.number(OFFSET, row)?,
            append_time: Millis(self.number(APPEND_TIME, row)?),
            key: self.either(KEY, KEY_BYTES, row)?,
            headers: serde_json::from_str(&headers)?,
            value: self.either(VALUE, VALUE_BYTES, row)?,
            value_sha256: hash.map_err(|_no_hash| TableError::Foreign("a hash is none"))?,
        })))
    }

    fn bytes(&self, column: usize, row: usize) -> Option<ByteArray> {
        self.texts.get(column)?.get(row)?.clone()
    }

    fn text(&self, column: usize, row: usize) -> Result<Option<String>, TableError> {
        let bytes = self.bytes(column, row).map(|text| text.data().to_vec());
        let text = bytes.map(String::from_utf8).transpose();
        text.map_err(|_no_text| TableError::Foreign("a text is not UTF-8"))
    }

    fn number(&self, column: usize, row: usize) -> Result<i64, TableError> {
        let number = self.numbers.get(column).and_then(|column| column.get(row));
        number
            .copied()
            .ok_or(TableError::Foreign("a number is missing"))
    }

    fn either(&self, text: usize, bytes: usize, row: usize) -> Result<Option<Text>, TableError> {
        match self.text(text, row)? {
            Some(text) => Ok(Some(Text::Plain(text))),
            None => Ok(self.bytes(bytes, row).map(|bytes| Text::of(bytes.data()))),
        }
    }
}

/// All values of a column that are there, and for each row whether it has one.
fn values<T: DataType>(
    mut column: ColumnReaderImpl<T>,
    rows: usize,
) -> Result<(Vec<T::T>, Vec<i16>), TableError> {
    let (mut values, mut present) = (Vec::new(), Vec::new());
    let mut read = 0;
    while read < rows {
        let (more, ..) = column.read_records(rows - read, Some(&mut present), None, &mut values)?;
        if more == 0 {
            return Err(TableError::Foreign("a column is too short"));
        }
        read += more;
    }
    Ok((values, present))
}

fn texts(
    column: ColumnReaderImpl<ByteArrayType>,
    rows: usize,
) -> Result<Vec<Option<ByteArray>>, TableError> {
    let (values, present) = values(column, rows)?;
    let mut values = values.into_iter();
    if present.is_empty() {
        return Ok(values.map(Some).collect());
    }
    let each = present.iter();
    Ok(each
        .map(|present| (*present > 0).then(|| values.next()).flatten())
        .collect())
}
