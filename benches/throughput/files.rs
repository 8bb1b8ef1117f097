//! Where figures are kept.

use std::path::{Path, PathBuf};

use crate::office::Fallible;

/// A folder for them, if they are to be kept.
const FOLDER: &str = "CARDWRIGHT_BENCH_FOLDER";

/// Keeps figures, or nothing where they say nothing.
pub(crate) struct Files(Option<PathBuf>);

impl Files {
    /// In the folder that is named; else beside the documentation, if this is a run at full size.
    pub(crate) fn new(full: bool) -> Self {
        let named = std::env::var_os(FOLDER).map(PathBuf::from);
        let usual = || full.then(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks"));
        Self(named.or_else(usual))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Fallible {
        let Some(folder) = &self.0 else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(name), text)?;
        Ok(())
    }
}
