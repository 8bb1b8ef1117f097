//! A journal in a file.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use fs4::{FileExt, TryLockError};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::hex;
use super::journal::{CaJournal, CaRecord, JournalError};

/// A journal in a file of JSON lines. A line is on the disk (`fsync`) before its answer is given.
///
/// Each line carries a check value over itself and all lines before it. A file with a line that is damaged, missing or
/// moved is refused by [`open`](Self::open), which names the line. What a crash leaves of a last line that was being
/// written is recognised, by the missing end of line, and cut off: nobody was answered for it. The check shows accidents,
/// not an attacker who can write the file.
///
/// One process at a time has the file open; it is locked until the journal is dropped. On Unix only its owner may read it.
/// Writing waits for the disk on the calling thread.
///
/// ```
/// use cardwright::adapters::local_ca::{CaJournal as _, FileJournal};
/// use futures::FutureExt as _;
///
/// let folder = tempfile::tempdir()?;
/// let journal = FileJournal::open(folder.path().join("ca.journal"))?;
/// assert_eq!(journal.read(0).now_or_never(), Some(Ok(vec![])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileJournal {
    name: String,
    end: Mutex<End>,
}

#[derive(Debug)]
struct End {
    file: File,
    /// How many lines are stored, how long they are together, and the check value of the last.
    lines: u64,
    length: u64,
    check: String,
    /// Why nothing more may be written until the file is opened again.
    broken: Option<String>,
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    number: u64,
    check: String,
    record: CaRecord,
}

impl FileJournal {
    /// Opens a file, or makes an empty one.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] names the first line that is wrong; [`JournalError::Unavailable`] if the file cannot be
    /// read, or another process has it open.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, JournalError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let in_the_way = |what: &dyn std::fmt::Display| unavailable(&name, what);
        let mut file = open_file(path).map_err(|error| in_the_way(&error))?;
        match FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_the_way(&"another journal has it open")),
            Err(TryLockError::Error(error)) => return Err(in_the_way(&error)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(|error| in_the_way(&error))?;
        let stored = read_lines(&name, &text)?;
        let mend = |file: &mut File| {
            if stored.length < text.len() as u64 {
                file.set_len(stored.length)?;
            }
            if stored.unended {
                file.seek(SeekFrom::Start(stored.length))?;
                file.write_all(b"\n")?;
            }
            file.sync_all()?;
            sync_folder(path)
        };
        mend(&mut file).map_err(|error| in_the_way(&error))?;
        let end = End {
            file,
            lines: stored.records.len() as u64,
            length: stored.length + u64::from(stored.unended),
            check: stored.check,
            broken: None,
        };
        Ok(Self { name, end: Mutex::new(end) })
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CaJournal for FileJournal {
    async fn read(&self, after: u64) -> Result<Vec<CaRecord>, JournalError> {
        let mut end = self.end();
        if let Some(reason) = &end.broken {
            return Err(unavailable(&self.name, reason));
        }
        if after >= end.lines {
            return Ok(Vec::new());
        }
        let mut text = Vec::new();
        let length = end.length;
        let read = end.file.seek(SeekFrom::Start(0)).and_then(|_| (&end.file).take(length).read_to_end(&mut text));
        read.map_err(|error| unavailable(&self.name, &error))?;
        let mut records = read_lines(&self.name, &text)?.records;
        Ok(records.split_off(usize::try_from(after).unwrap_or(usize::MAX).min(records.len())))
    }

    async fn append(&self, number: u64, record: &CaRecord) -> Result<(), JournalError> {
        let mut end = self.end();
        if let Some(reason) = &end.broken {
            return Err(unavailable(&self.name, reason));
        }
        if end.lines.checked_add(1) != Some(number) {
            return Err(JournalError::Taken);
        }
        let unwritable = |error: serde_json::Error| unavailable(&self.name, &error);
        let check = check_value(&end.check, number, record).map_err(unwritable)?;
        let line = Line { number, check, record: record.clone() };
        let mut text = serde_json::to_vec(&line).map_err(unwritable)?;
        text.push(b'\n');

        let start = end.length;
        let written = end.file.seek(SeekFrom::Start(start)).and_then(|_| end.file.write_all(&text));
        if let Err(error) = written {
            // What was written of the line must not stay before the next one.
            if let Err(error) = end.file.set_len(start) {
                end.broken = Some(format!("open it again, the last line could not be taken back: {error}"));
            }
            return Err(unavailable(&self.name, &error));
        }
        if let Err(error) = end.file.sync_data() {
            // After a failed sync nobody can say what is on the disk; opening it again reads it.
            end.broken = Some(format!("open it again, the disk did not confirm the last line: {error}"));
            return Err(JournalError::OutcomeUnknown { reason: format!("`{}`: {error}", self.name) });
        }
        end.lines = number;
        end.length = start + text.len() as u64;
        end.check = line.check;
        Ok(())
    }
}

impl Drop for End {
    /// Gives the lock back: closing the file alone would not, while a process that is just being started has a copy of it.
    fn drop(&mut self) {
        let _ = FileExt::unlock(&self.file);
    }
}

/// What a file holds.
struct Stored {
    records: Vec<CaRecord>,
    /// How far it is good; what follows is what a crash left of a line.
    length: u64,
    /// Whether the last line is whole but for its end.
    unended: bool,
    check: String,
}

fn read_lines(name: &str, text: &[u8]) -> Result<Stored, JournalError> {
    let mut stored = Stored { records: Vec::new(), length: 0, unended: false, check: String::new() };
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let number = stored.records.len() as u64 + 1;
        let ended = line.ends_with(b"\n");
        match read_line(line, number, &stored.check) {
            Ok(Line { check, record, .. }) => {
                stored.records.push(record);
                stored.check = check;
                stored.length += line.len() as u64;
                stored.unended = !ended;
            }
            Err(_) if !ended => break,
            Err(what) => {
                let reason = format!("`{name}`, line {number}: {what}");
                return Err(JournalError::Damaged { reason });
            }
        }
    }
    Ok(stored)
}

fn read_line(text: &[u8], number: u64, before: &str) -> Result<Line, String> {
    // The words of the reader may quote what stands there: only its place is told.
    let line: Line =
        serde_json::from_slice(text).map_err(|error| format!("no record of a CA (column {})", error.column()))?;
    if line.number != number {
        return Err(format!("it has number {}, lines are missing, moved or doubled", line.number));
    }
    let check = check_value(before, number, &line.record).map_err(|error| error.to_string())?;
    if line.check != check {
        return Err("its check value does not fit: it was changed, or a line before it is missing".to_owned());
    }
    Ok(line)
}

fn check_value(before: &str, number: u64, record: &CaRecord) -> Result<String, serde_json::Error> {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(number.to_be_bytes());
    hash.update(serde_json::to_vec(record)?);
    Ok(hex::encode(&hash.finalize()))
}

fn open_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Makes a new file's name as durable as its lines.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot sync a folder, and do not need it.
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

fn unavailable(name: &str, what: &dyn std::fmt::Display) -> JournalError {
    JournalError::Unavailable { reason: format!("`{name}`: {what}") }
}
