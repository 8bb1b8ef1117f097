//! Ready-made hosts: a store in memory, a store on an SQLite file, a simulated bureau.

pub mod memory;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "sqlite")]
pub mod sqlite;
