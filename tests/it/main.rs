//! The integration tests: one binary, one module a subject.

mod conformance;
mod office;
mod options;
mod ordering;
mod simulator;
mod sqlite;
