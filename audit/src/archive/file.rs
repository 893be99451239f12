//! Writes and reads the file of an archive, and finds out whether it is the one that was written.
//!
//! At its end, where readers of its form pass over it, stands the SHA-256 of all its other bytes: so a
//! single wrong bit is found, wherever it is. It is no signature; the seals are.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use eventlog::RecordRef;

use super::table::{self, Table};
use super::{ArchiveError, Archived, Found, Line, Opening};
use crate::seal::{Chain, Hash};

/// zstd's own default.
const LEVEL: i32 = 3;
/// Begins a frame that zstd passes over, and says that 32 bytes follow.
const SKIPPED: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0];
/// Begins the hash in a table, between its rows and its footer.
const IN_TABLE: [u8; 8] = *b"SUMU-SUM";
const HASH_BYTES: u64 = 32;
/// What ends a table: the footer's length, and a magic word.
const TABLE_END: u64 = 8;

/// The form of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON lines, packed with zstd.
    Lines,
    /// A Parquet table.
    Table,
}

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system, or zstd.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What is in it.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A line of it.
    #[error("line {number}: {source}")]
    Line {
        /// From 1.
        number: u64,
        /// What is wrong.
        source: Box<Self>,
    },
    /// It ends within a line.
    #[error("the file ends within it")]
    Cut,
    /// Some byte is another than was written.
    #[error("altered: it is not the file that was written")]
    Altered,
}

impl Form {
    /// By the name: `.parquet`, or else lines.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let is_table = path
            .extension()
            .is_some_and(|extension| extension == "parquet");
        if is_table { Self::Table } else { Self::Lines }
    }
}

/// An archive in the making.
#[derive(Debug)]
pub struct Writer(Inner);

enum Inner {
    Lines(Box<BufWriter<zstd::Encoder<'static, File>>>),
    Table(Box<Table<BufWriter<File>>>),
}

impl Writer {
    /// Begins a file of that form; one that is there is left alone.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(path: &Path, form: Form) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(path)?;
        Ok(Self(match form {
            Form::Lines => {
                let encoder = zstd::Encoder::new(file, LEVEL)?;
                Inner::Lines(Box::new(BufWriter::new(encoder)))
            }
            Form::Table => {
                let table = Table::archive(BufWriter::new(file));
                Inner::Table(Box::new(table.map_err(ArchiveError::from)?))
            }
        }))
    }

    /// Adds a line.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn line(&mut self, line: &Line) -> Result<(), FileError> {
        match &mut self.0 {
            Inner::Lines(out) => out.write_all(&line.write()?)?,
            Inner::Table(table) => table.line(line).map_err(ArchiveError::from)?,
        }
        Ok(())
    }

    /// Adds a record of the log; with `redact` without its payload.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn record(&mut self, record: &RecordRef<'_>, redact: bool) -> Result<(), FileError> {
        if let Inner::Table(table) = &mut self.0 {
            return Ok(table.record(record, redact).map_err(ArchiveError::from)?);
        }
        self.line(&Line::Record(Box::new(Archived::of(record, redact))))
    }

    /// Ends the file, durably.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn finish(self) -> Result<(), FileError> {
        let (mut file, form) = match self.0 {
            Inner::Lines(out) => {
                let encoder = out.into_inner().map_err(io::IntoInnerError::into_error)?;
                (encoder.finish()?, Form::Lines)
            }
            Inner::Table(table) => {
                let out = table.finish().map_err(ArchiveError::from)?;
                let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
                (file, Form::Table)
            }
        };
        let end = file.seek(SeekFrom::End(0))?;
        let hash = hash_of(&mut file, end)?;
        match form {
            Form::Lines => {
                file.seek(SeekFrom::End(0))?;
                file.write_all(&SKIPPED)?;
                file.write_all(&hash.0)?;
            }
            Form::Table => {
                let rows = end.saturating_sub(footer_bytes(&mut file, end)?);
                let mut footer = Vec::new();
                file.seek(SeekFrom::Start(rows))?;
                file.read_to_end(&mut footer)?;
                file.seek(SeekFrom::Start(rows))?;
                file.write_all(&IN_TABLE)?;
                file.write_all(&hash.0)?;
                file.write_all(&footer)?;
            }
        }
        file.sync_all()?;
        Ok(())
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lines(_) => "Lines",
            Self::Table(_) => "Table",
        })
    }
}

/// Of the next bytes of a file, from its beginning.
fn hash_of(file: &mut File, length: u64) -> io::Result<Hash> {
    file.seek(SeekFrom::Start(0))?;
    let mut context = Context::new(&SHA256);
    add(&mut context, file, length)?;
    Ok(Hash::finish(context))
}

fn add(context: &mut Context, file: &mut File, length: u64) -> io::Result<()> {
    let mut chunk = vec![0; 1 << 20];
    let mut left = file.take(length);
    loop {
        let read = left.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        context.update(chunk.get(..read).unwrap_or_default());
    }
}

/// How long the end of a table is, of which the file's last bytes tell.
fn footer_bytes(file: &mut File, end: u64) -> io::Result<u64> {
    let mut tail = [0; 4];
    file.seek(SeekFrom::Start(end.saturating_sub(TABLE_END)))?;
    file.read_exact(&mut tail)?;
    let bytes = u64::from(u32::from_le_bytes(tail)) + TABLE_END;
    if bytes > end {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    Ok(bytes)
}

/// Checks an archive against the seals in it, and names the first fault of each range. The chain says
/// whose seals are believed.
///
/// # Errors
/// [`FileError`]: it is no archive, or not the one that was written.
pub fn verify(path: &Path, chain: &mut Chain) -> Result<Found, FileError> {
    let form = Form::of(path);
    let whole = is_as_written(path, form)?;
    // Of lines it can be told where they break; a table that is damaged is not safe to read.
    if !whole && form == Form::Table {
        return Err(FileError::Altered);
    }
    let mut opening = Opening::new(chain);
    read(path, form, |line| Ok(opening.line(line)?))?;
    let mut checking = opening.finish()?;
    read(path, form, |line| Ok(checking.line(line)?))?;
    let found = checking.finish();
    if !whole && found.verdict.faults.is_empty() {
        return Err(FileError::Altered);
    }
    Ok(found)
}

/// Whether every byte is as it was written.
fn is_as_written(path: &Path, form: Form) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let (behind, mark) = match form {
        Form::Lines => (0, SKIPPED),
        Form::Table => (footer_bytes(&mut file, end).unwrap_or(end), IN_TABLE),
    };
    let sum = HASH_BYTES + mark.len() as u64;
    let Some(before) = end.checked_sub(behind + sum) else {
        return Ok(false);
    };
    let mut context = Context::new(&SHA256);
    file.seek(SeekFrom::Start(0))?;
    add(&mut context, &mut file, before)?;
    let (mut found, mut hash) = ([0; 8], [0; 32]);
    file.read_exact(&mut found)?;
    file.read_exact(&mut hash)?;
    add(&mut context, &mut file, behind)?;
    Ok(found == mark && Hash::finish(context).0 == hash)
}

/// Gives every line of an archive to `each`. What is whole of damaged lines is read; then it says
/// where the break is.
///
/// # Errors
/// [`FileError`], or that of `each`.
pub fn read(
    path: &Path,
    form: Form,
    mut each: impl FnMut(Line) -> Result<(), FileError>,
) -> Result<(), FileError> {
    match form {
        Form::Table => table::read(File::open(path)?, each),
        Form::Lines => {
            let mut reader = BufReader::new(zstd::Decoder::new(File::open(path)?)?);
            let mut line = Vec::new();
            for number in 1_u64.. {
                line.clear();
                let read =
                    next_line(&mut reader, &mut line, number == 1).and_then(|line| match line {
                        Some(line) => each(line).map(|()| true),
                        None => Ok(false),
                    });
                let place = |source| FileError::Line {
                    number,
                    source: Box::new(source),
                };
                if !read.map_err(place)? {
                    break;
                }
            }
            Ok(())
        }
    }
}

fn next_line(
    reader: &mut impl io::BufRead,
    line: &mut Vec<u8>,
    first: bool,
) -> Result<Option<Line>, FileError> {
    if reader.read_until(b'\n', line)? == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        return Err(FileError::Cut);
    }
    let line = Line::read(line)?;
    if matches!(line, Line::Head(_)) != first {
        return Err(ArchiveError::Version.into());
    }
    Ok(Some(line))
}
