//! Ready-made hosts: a store in memory, stores on an SQLite file and in PostgreSQL, a simulated bureau, CA and card personalizer, an
//! embedded CA.

#[cfg(feature = "local-ca")]
pub mod local_ca;
pub mod memory;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "simulator")]
pub mod simulator;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod codes;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod rows;
