//! The integration tests: one binary, one module a subject.

mod approval;
mod bad_input;
mod conformance;
mod doubts;
mod nouns;
mod office;
mod options;
mod ordering;
mod outside;
mod quickstart;
mod registry;
mod runs;
mod simulator;
mod sqlite;
mod states;
mod status;
mod temporary;
mod tidy;
mod watched;
