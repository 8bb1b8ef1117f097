//! A card office from the first to the last step: reads people from a CSV file, orders cards for them at a bureau, and
//! follows the orders until the cards are made. The office is an SQLite file; the bureau and its time are simulated.
//!
//! ```text
//! cargo run --release --example quickstart [people.csv] [office.db]
//! ```
//!
//! Stop it wherever you like, even with `kill -9`, and start it again: it finishes what it began. Start it once more after
//! that: who has a card on order is refused another; who has none, since the order failed or was aborted, gets one.
//!
//! `office` puts the office together, `steps` is what people and the background services do in it, `results` what it came
//! to. `people` reads the CSV file, `run_file` keeps the run in hand, `screen` is what you see.

mod office;
mod people;
mod results;
mod run_file;
mod screen;
mod steps;

use std::error::Error;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cardwright::CardState;
use futures::executor::block_on;

use office::Office;
use screen::{heading, line};

const USAGE: &str = "usage: quickstart [people.csv] [office.db]
  people.csv  whom to order cards for; without it, the 1,000 rows of examples/data/people.csv
  office.db   the SQLite file of the office, made if it is not there; without it, cardwright-quickstart.db";

/// What a program ends with that was told SIGPIPE: whoever read along has gone.
const READER_GONE: u8 = 141;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let is_option = |path: &PathBuf| path.to_string_lossy().starts_with('-');
    let ended = match arguments.as_slice() {
        [option, ..] if option == Path::new("--help") || option == Path::new("-h") => {
            USAGE.lines().try_for_each(line).map_err(Into::into)
        }
        arguments if arguments.len() > 2 || arguments.iter().any(is_option) => {
            let _: io::Result<()> = writeln!(io::stderr(), "{USAGE}");
            return ExitCode::from(2);
        }
        arguments => {
            let sample = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/people.csv");
            let people = arguments.first().cloned().unwrap_or_else(sample);
            let office = arguments.get(1).cloned().unwrap_or_else(|| PathBuf::from("cardwright-quickstart.db"));
            block_on(run(&people, &office))
        }
    };
    let Err(error) = ended else { return ExitCode::SUCCESS };
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::from(READER_GONE);
    }
    let _: io::Result<()> = writeln!(io::stderr(), "error: {}", in_one_line(error.as_ref()));
    ExitCode::FAILURE
}

async fn run(people: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let people = people::read(people)?;
    let office = Office::open(people, file).await?;
    office.switch_on(steps::ABORT, &[CardState::Processing]).await?;
    office.switch_on(steps::UPDATE, &[CardState::Ordered, CardState::InProduction]).await?;

    office.order_for_everybody().await?;
    office.abort_one().await?;
    office.send_orders().await?;
    office.settle_one().await?;
    let updated = office.update_one().await?;
    office.follow_orders().await?;

    office.summary().await?;
    office.doubts().await?;
    let produced = office.any(CardState::Produced).await?;
    if let Some(card) = updated.or(produced) {
        office.history(&card).await?;
    }
    office.run_file.remove()?;
    heading(format!("The office is in {}.", file.display()))?;
    line(
        "Start this again: who has a card on order is refused another, and whose order failed or was aborted gets one.",
    )?;
    line("Delete the file to begin anew.")?;
    Ok(())
}

/// An error with its causes, as far as they say something new.
fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    let line = causes.fold(String::new(), |line, cause| match line.as_str() {
        "" => cause,
        said if said.contains(&cause) => line,
        said => format!("{said}: {cause}"),
    });
    screen::printable(&line)
}
