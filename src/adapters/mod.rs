//! Ready-made hosts: a store in memory, a store on an SQLite file, a simulated bureau, CA and card personalizer, an embedded CA.

#[cfg(feature = "local-ca")]
pub mod local_ca;
pub mod memory;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "sqlite")]
pub mod sqlite;
