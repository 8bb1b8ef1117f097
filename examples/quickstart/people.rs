//! Reads people from a CSV file.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use cardwright::{User, UserId, UserState};
use csv::{ByteRecord, Position, ReaderBuilder};

const COLUMNS: [&str; 9] =
    ["id", "common_name", "upn", "first_name", "last_name", "email", "employee_number", "department", "active"];
/// The same as user attributes; the id and whether somebody is active are no attributes.
const ATTRIBUTES: [&str; 9] =
    ["", "commonName", "upn", "firstName", "lastName", "email", "employeeNumber", "department", ""];

/// Reads the people; a row that is wrong is reported with its line and left out.
pub(crate) fn read(path: &Path) -> Result<Vec<User>, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut reader = ReaderBuilder::new().flexible(true).from_reader(bytes.as_slice());
    let not_people =
        || format!("{}: not a list of people: the first line must be {}", path.display(), COLUMNS.join(","));
    if reader.byte_headers().map_err(|_| not_people())? != &ByteRecord::from(COLUMNS.to_vec()) {
        return Err(not_people().into());
    }
    let mut rows: BTreeMap<Vec<u8>, ByteRecord> = BTreeMap::new();
    let (mut people, mut bad, mut doubled) = (Vec::new(), Vec::new(), 0);
    for row in reader.byte_records() {
        let row = row.map_err(|error| format!("{}: {error}", path.display()))?;
        if row.get(0).is_some_and(|id| rows.get(id) == Some(&row)) {
            doubled += 1;
            continue;
        }
        let known = row.get(0).is_some_and(|id| rows.contains_key(id));
        match person(&row).and_then(|user| {
            if known { Err(format!("id {} is there already, with other data", user.id)) } else { Ok(user) }
        }) {
            Ok(user) => {
                rows.insert(user.id.as_str().as_bytes().to_vec(), row);
                people.push(user);
            }
            Err(reason) => bad.push((row.position().map_or(0, Position::line), reason)),
        }
    }
    let active = people.iter().filter(|user| user.is_active()).count();
    println!("People in {}", path.display());
    println!("  {:>5}  people, {active} of them active", people.len());
    println!("  {doubled:>5}  rows stand there a second time, and count once");
    println!("  {:>5}  rows are wrong, and left out", bad.len());
    for (line, reason) in bad {
        println!("         line {line}: {reason}");
    }
    Ok(people)
}

fn person(row: &ByteRecord) -> Result<User, String> {
    if row.len() != COLUMNS.len() {
        return Err(format!("{} columns, {} are wanted", row.len(), COLUMNS.len()));
    }
    let row = std::str::from_utf8(row.as_slice())
        .is_ok()
        .then(|| row.iter().map(String::from_utf8_lossy).collect::<Vec<_>>());
    let row = row.ok_or("not written in UTF-8")?;
    let id = UserId::new(row[0].trim()).map_err(|_| "no usable id")?;
    if row[1].trim().is_empty() {
        return Err("no common name".to_owned());
    }
    if !row[5].is_empty() && !row[5].contains('@') {
        return Err(format!("{:?} is no e-mail address", row[5]));
    }
    let state = match row[8].as_ref() {
        "yes" => UserState::Active,
        "no" => UserState::Inactive,
        other => return Err(format!("active is {other:?}, not yes or no")),
    };
    let attributes = ATTRIBUTES.iter().zip(&row).filter(|(name, value)| !name.is_empty() && !value.is_empty());
    Ok(User::new(id, state, attributes.map(|(name, value)| ((*name).to_owned(), value.clone().into_owned()))))
}
