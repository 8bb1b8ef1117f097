//! The run in hand: a file beside the office that keeps its id as long as it is not finished.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cardwright::RunId;
use uuid::Uuid;

pub(crate) struct RunFile(PathBuf);

impl RunFile {
    pub(crate) fn beside(office: &Path) -> Self {
        Self(with_ending(office, ".run"))
    }

    /// The run that an earlier start did not finish, or a new one.
    pub(crate) fn run(&self) -> Result<RunId, Box<dyn Error>> {
        let id = match fs::read_to_string(&self.0) {
            Ok(id) => id,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.named(&error)),
        };
        if id.trim().is_empty() {
            return self.begin();
        }
        id.trim()
            .parse()
            .map_err(|error| format!("{}: {error}; whoever deletes the file begins a new run", self.0.display()).into())
    }

    /// The run is finished. Another start of it may have said so already.
    pub(crate) fn remove(&self) -> Result<(), Box<dyn Error>> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.named(&error)),
            _ => Ok(()),
        }
    }

    /// Written under another name first, so that a file under this name is always whole.
    fn begin(&self) -> Result<RunId, Box<dyn Error>> {
        #[expect(clippy::disallowed_methods, reason = "a new run needs an id that no other has")]
        let run = RunId::new(Uuid::new_v4());
        let unfinished = with_ending(&self.0, &format!(".{}", std::process::id()));
        fs::write(&unfinished, run.to_string())
            .and_then(|()| fs::rename(&unfinished, &self.0))
            .map_err(|error| self.named(&error))?;
        Ok(run)
    }

    fn named(&self, error: &io::Error) -> Box<dyn Error> {
        format!("{}: {error}", self.0.display()).into()
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
