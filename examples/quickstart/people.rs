//! Reads people from a CSV file.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use cardwright::{User, UserId, UserState};
use csv::{ByteRecord, Position, Reader, ReaderBuilder};

use crate::screen::{counted, detail, line, plural, row};

const COLUMNS: [&str; 9] =
    ["id", "common_name", "upn", "first_name", "last_name", "email", "employee_number", "department", "active"];
/// The same as user attributes; the id and whether somebody is active are no attributes.
const ATTRIBUTES: [&str; 9] =
    ["", "commonName", "upn", "firstName", "lastName", "email", "employeeNumber", "department", ""];

/// How many wrong rows are shown one by one.
const SHOWN: usize = 20;

/// Reads the people; a row that is wrong is reported with its line and left out.
pub(crate) fn read(path: &Path) -> Result<Vec<User>, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut rows = Rows::new(&bytes).map_err(|reason| format!("{}: {reason}", path.display()))?;
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut people, mut wrong, mut doubled) = (Vec::new(), Vec::new(), 0);
    while let Some(Row { lines, values }) = rows.next()? {
        let person = values.and_then(|values| {
            let user = person(&values)?;
            Ok((user, values))
        });
        match person {
            Ok((user, values)) => match read.get(user.id.as_str()) {
                Some(known) if *known == values => doubled += 1,
                Some(_) => wrong.push(format!("{lines}: id {} is there already, with other data", user.id)),
                None => {
                    read.insert(user.id.as_str().to_owned(), values);
                    people.push(user);
                }
            },
            Err(reason) => wrong.push(format!("{lines}: {reason}")),
        }
    }
    let (count, active) = (people.len() as u64, people.iter().filter(|user| user.is_active()).count());
    line(format!("People in {}", path.display()))?;
    row(count, format!("{}, {active} of them active", plural(count, "person", "people")))?;
    if doubled > 0 {
        row(doubled, format!("duplicate {}, counted once", plural(doubled, "row", "rows")))?;
    }
    if !wrong.is_empty() {
        let count = wrong.len() as u64;
        row(count, format!("wrong {}, left out", plural(count, "row", "rows")))?;
    }
    for reason in wrong.iter().take(SHOWN) {
        detail(reason)?;
    }
    if wrong.len() > SHOWN {
        detail(format!("and {} more", wrong.len() - SHOWN))?;
    }
    Ok(people)
}

fn person(values: &[String]) -> Result<User, String> {
    if values.len() != COLUMNS.len() {
        let found = counted(values.len() as u64, "column", "columns");
        return Err(format!("{found}, {} are wanted", COLUMNS.len()));
    }
    let id = UserId::new(&values[0]).map_err(|_| "no usable id")?;
    if values[1].is_empty() {
        return Err("no common name".to_owned());
    }
    if !values[5].is_empty() && !values[5].contains('@') {
        return Err(format!("{:?} is no e-mail address", values[5]));
    }
    let state = match values[8].as_str() {
        "yes" => UserState::Active,
        "no" => UserState::Inactive,
        other => return Err(format!("active is {other:?}, not yes or no")),
    };
    let attributes = ATTRIBUTES.iter().zip(values).filter(|(name, value)| !name.is_empty() && !value.is_empty());
    Ok(User::new(id, state, attributes.map(|(name, value)| ((*name).to_owned(), value.clone()))))
}

// ---- rows and their lines ----------------------------------------------------------------------------------------

/// A row of a file.
struct Row {
    /// Where it stands, such as "line 9".
    lines: String,
    /// What it says, or what is wrong with it.
    values: Result<Vec<String>, String>,
}

/// The rows of a file, one after the other.
struct Rows<'a> {
    bytes: &'a [u8],
    reader: Reader<&'a [u8]>,
    /// A place in the file up to which lines were counted, and the line there.
    counted: (usize, u64),
}

impl<'a> Rows<'a> {
    /// The rows after the first, which must name the columns.
    fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(bytes);
        let wanted = || format!("not a list of people: the first line must be {}", COLUMNS.join(","));
        let header = reader.byte_headers().map_err(|_| wanted())?;
        if values(header).ok().is_none_or(|names| names != COLUMNS) {
            let found = String::from_utf8_lossy(header.as_slice()).into_owned();
            let other = [(';', "semicolons"), ('\t', "tabs")].into_iter().find(|(mark, _)| found.contains(*mark));
            return Err(match other {
                Some((_, marks)) => format!("{}, and its columns are separated by {marks} instead of commas", wanted()),
                None => wanted(),
            });
        }
        Ok(Self { bytes, reader, counted: (0, 1) })
    }

    fn next(&mut self) -> Result<Option<Row>, csv::Error> {
        let mut record = ByteRecord::new();
        if !self.reader.read_byte_record(&mut record)? {
            return Ok(None);
        }
        let start = record.position().map_or(0, Position::byte) as usize;
        let end = self.reader.position().byte() as usize;
        // The reader takes the line break of the row before, and blank lines, for the beginning of the row.
        let start = start + self.bytes[start..end].iter().take_while(|byte| is_break(**byte)).count();
        let text = self.bytes[start..end].trim_ascii_end();
        let (counted, line) = self.counted;
        let first = line + breaks(&self.bytes[counted..start]);
        let last = first + breaks(text);
        self.counted = (start, first);
        if first == last {
            return Ok(Some(Row { lines: format!("line {first}"), values: values(&record) }));
        }
        let reason = if end == self.bytes.len() && ends_in_quotes(text) {
            "a quote is not closed; everything after it is left out"
        } else {
            "a quote is not closed, or closed lines later; all of it is left out"
        };
        Ok(Some(Row { lines: format!("lines {first} to {last}"), values: Err(reason.to_owned()) }))
    }
}

/// The values of a row without the spaces around them.
fn values(row: &ByteRecord) -> Result<Vec<String>, String> {
    let value = |value| std::str::from_utf8(value).map(|value| value.trim().to_owned());
    row.iter().map(value).collect::<Result<_, _>>().map_err(|_| "not written in UTF-8".to_owned())
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// How many lines end here. A line ends in LF, in CR LF, or in CR alone.
fn breaks(bytes: &[u8]) -> u64 {
    let next = bytes.iter().skip(1).map(Some).chain([None]);
    bytes.iter().zip(next).filter(|(byte, next)| **byte == b'\n' || **byte == b'\r' && *next != Some(&b'\n')).count()
        as u64
}

/// Whether a row ends before its quote is closed. A value is quoted if it begins with a quote, and two quotes within stand
/// for one.
fn ends_in_quotes(row: &[u8]) -> bool {
    let (mut quoted, mut may_open) = (false, true);
    for byte in row {
        if quoted {
            quoted = *byte != b'"';
            may_open = !quoted;
        } else {
            quoted = may_open && *byte == b'"';
            may_open = *byte == b',';
        }
    }
    quoted
}
