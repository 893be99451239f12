//! Writes records as a Parquet table, and reads an archive's table back.
//!
//! Columns are flat, so that every reader of Parquet can use them: text that is UTF-8 is in one column,
//! bytes that are not in the one beside it. Rows are gathered and written in groups, so memory is
//! bounded by a group.

mod read;

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use eventlog::RecordRef;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

pub(super) use read::read;

use super::{Line, Text};
use crate::seal::Hash;
use crate::selection::user_of;

/// Rows of a group, at most.
const GROUP_ROWS: usize = 50_000;
/// Bytes of a group before they are packed, at most, but for the last row's.
const GROUP_BYTES: usize = 32 << 20;
/// Under which names an archive's first lines stand in the file's metadata.
const HEAD: &str = "sumu.archive";
const CONTENTS: &str = "sumu.contents";
const SIGNATURE: &str = "sumu.contents.signature";

const COMMON: &str = "
    REQUIRED BYTE_ARRAY topic (STRING);
    REQUIRED INT32 partition;
    REQUIRED INT64 offset;
    REQUIRED INT64 append_time (TIMESTAMP(MILLIS,true));
    OPTIONAL BYTE_ARRAY key (STRING);
    OPTIONAL BYTE_ARRAY key_bytes;
    REQUIRED BYTE_ARRAY headers (JSON);
    OPTIONAL BYTE_ARRAY value (STRING);
    OPTIONAL BYTE_ARRAY value_bytes;";
const REPLAY: &str = "
    OPTIONAL BYTE_ARRAY type (STRING);
    OPTIONAL BYTE_ARRAY user_id (STRING);
    OPTIONAL BYTE_ARRAY connection_id (STRING);";
const ARCHIVE: &str = "
    OPTIONAL BYTE_ARRAY value_sha256 (STRING);
    OPTIONAL BYTE_ARRAY seal (STRING);
    OPTIONAL BYTE_ARRAY signature (STRING);";

/// Why a table cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// What the library says.
    #[error("Parquet: {0}")]
    Parquet(#[from] ParquetError),
    /// It is none of sumu's.
    #[error("not a table of sumu's: {0}")]
    Foreign(&'static str),
    /// A row cannot be made.
    #[error("a row: {0}")]
    Row(#[from] serde_json::Error),
}

/// A table in the making.
pub struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    sheet: Sheet,
    archive: bool,
}

impl<W: Write + Send> Table<W> {
    /// A table of any records, as `sumu replay` prints them.
    ///
    /// # Errors
    /// [`TableError::Parquet`], with what the writer says.
    pub fn replay(out: W) -> Result<Self, TableError> {
        Self::new(out, REPLAY, false)
    }

    /// The table of an archive.
    pub(super) fn archive(out: W) -> Result<Self, TableError> {
        Self::new(out, ARCHIVE, true)
    }

    fn new(out: W, more: &str, archive: bool) -> Result<Self, TableError> {
        let schema = parse_message_type(&format!("message record {{{COMMON}{more}\n}}"))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_created_by("sumu".into())
            .build();
        Ok(Self {
            writer: SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties))?,
            sheet: Sheet::default(),
            archive,
        })
    }

    /// Adds a record. With `redact` its payload is left out, and in an archive its hash is left.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn record(&mut self, record: &RecordRef<'_>, redact: bool) -> Result<(), TableError> {
        let hash = record.value.filter(|_| redact).map(Hash::of);
        let value = record.value.filter(|_| !redact);
        self.row(&RecordRef { value, ..*record }, hash)
    }

    fn row(&mut self, record: &RecordRef<'_>, hash: Option<Hash>) -> Result<(), TableError> {
        let sheet = &mut self.sheet;
        sheet.topic.push(Some(record.topic.as_bytes()));
        sheet.partition.push(record.partition);
        sheet.offset.push(record.offset);
        sheet.append_time.push(record.append_time.0);
        push_either(&mut sheet.key, record.key);
        sheet.headers.push_with(|out| write_headers(out, record))?;
        push_either(&mut sheet.value, record.value);
        let [first, second, third] = &mut sheet.more;
        if self.archive {
            let hash = hash.map(|hash| hash.to_string());
            first.push(hash.as_ref().map(String::as_bytes));
            second.push(None);
            third.push(None);
        } else {
            first.push(record.ce_type().map(str::as_bytes));
            second.push(user_of(record).map(str::as_bytes));
            third.push(record.headers.get("connection_id"));
        }
        self.flush_if_full()
    }

    /// Adds a line of an archive.
    pub(super) fn line(&mut self, line: &Line) -> Result<(), TableError> {
        match line {
            Line::Head(head) => self.note(HEAD, serde_json::to_string(head)?),
            Line::Contents {
                contents,
                signature,
            } => {
                self.note(CONTENTS, contents.clone());
                self.note(SIGNATURE, signature.clone());
            }
            Line::Record(archived) => {
                let record = archived.to_record();
                let record = record.map_err(|_base64| TableError::Foreign("base64"))?;
                self.row(&record.view(), archived.value_sha256)?;
            }
            Line::Seal { seal, signature } => {
                let sheet = &mut self.sheet;
                sheet.topic.push(Some(b""));
                sheet.partition.push(0);
                sheet.offset.push(0);
                sheet.append_time.push(0);
                push_either(&mut sheet.key, None);
                sheet.headers.push(Some(b"[]"));
                push_either(&mut sheet.value, None);
                let [hash, statement, signed] = &mut sheet.more;
                hash.push(None);
                statement.push(Some(seal.as_bytes()));
                signed.push(Some(signature.as_bytes()));
                self.flush_if_full()?;
            }
        }
        Ok(())
    }

    fn note(&mut self, name: &str, text: String) {
        let note = KeyValue::new(name.to_owned(), text);
        self.writer.append_key_value_metadata(note);
    }

    fn flush_if_full(&mut self) -> Result<(), TableError> {
        if self.sheet.partition.len() >= GROUP_ROWS || self.sheet.bytes() >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TableError> {
        if self.sheet.partition.is_empty() {
            return Ok(());
        }
        let sheet = std::mem::take(&mut self.sheet);
        let mut group = self.writer.next_row_group()?;
        let Sheet {
            topic,
            partition,
            offset,
            append_time,
            key: [key, key_bytes],
            headers,
            value: [value, value_bytes],
            more,
        } = sheet;
        topic.write(&mut group)?;
        write_column(&mut group, |column| {
            column
                .typed::<Int32Type>()
                .write_batch(&partition, None, None)
        })?;
        for numbers in [&offset, &append_time] {
            write_column(&mut group, |column| {
                column.typed::<Int64Type>().write_batch(numbers, None, None)
            })?;
        }
        let texts = [key, key_bytes, headers, value, value_bytes];
        for texts in texts.into_iter().chain(more) {
            texts.write(&mut group)?;
        }
        group.close()?;
        Ok(())
    }

    /// Writes what is left, and the end of the table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn finish(mut self) -> Result<W, TableError> {
        self.flush()?;
        Ok(self.writer.into_inner()?)
    }
}

impl<W: Write + Send> std::fmt::Debug for Table<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

/// The rows of a group, by column.
#[derive(Debug, Default)]
struct Sheet {
    topic: Texts,
    partition: Vec<i32>,
    offset: Vec<i64>,
    append_time: Vec<i64>,
    /// Text, and bytes that are none.
    key: [Texts; 2],
    headers: Texts,
    value: [Texts; 2],
    more: [Texts; 3],
}

impl Sheet {
    fn bytes(&self) -> usize {
        let texts = [&self.topic, &self.headers].into_iter();
        let texts = texts.chain(&self.key).chain(&self.value).chain(&self.more);
        texts.map(|texts| texts.bytes.len()).sum()
    }
}

/// A column of texts: their bytes one after the other.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// 1 where there is one; all of them are, if this is empty and the column is required.
    present: Vec<i16>,
}

impl Texts {
    fn push(&mut self, text: Option<&[u8]>) {
        self.present.push(i16::from(text.is_some()));
        if let Some(text) = text {
            self.bytes.extend_from_slice(text);
            self.ends.push(self.bytes.len());
        }
    }

    fn push_with(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), serde_json::Error>,
    ) -> Result<(), serde_json::Error> {
        write(&mut self.bytes)?;
        self.present.push(1);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn write<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        let bytes = Bytes::from(self.bytes);
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let texts: Vec<ByteArray> = starts
            .zip(&self.ends)
            .map(|(start, end)| bytes.slice(start..*end).into())
            .collect();
        write_column(group, |column| {
            let column = column.typed::<ByteArrayType>();
            column.write_batch(&texts, Some(&self.present), None)
        })
    }
}

fn write_column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    write: impl FnOnce(
        &mut parquet::file::writer::SerializedColumnWriter<'_>,
    ) -> Result<usize, ParquetError>,
) -> Result<(), ParquetError> {
    if let Some(mut column) = group.next_column()? {
        write(&mut column)?;
        column.close()?;
    }
    Ok(())
}

fn push_either([texts, bytes]: &mut [Texts; 2], value: Option<&[u8]>) {
    let is_text = value.is_some_and(|value| std::str::from_utf8(value).is_ok());
    texts.push(value.filter(|_| is_text));
    bytes.push(value.filter(|_| !is_text));
}

/// As JSON, as in an archive's lines.
fn write_headers(out: &mut Vec<u8>, record: &RecordRef<'_>) -> Result<(), serde_json::Error> {
    out.push(b'[');
    for (at, (name, value)) in record.headers.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match std::str::from_utf8(value) {
            Ok(value) => serde_json::to_writer(&mut *out, &(name, value))?,
            Err(_no_text) => serde_json::to_writer(&mut *out, &(name, Text::of(value)))?,
        }
    }
    out.push(b']');
    Ok(())
}
