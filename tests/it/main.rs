//! The integration tests: one binary, one module a subject.

mod approval;
mod bad_input;
mod conformance;
mod doubts;
mod hostile;
mod kits;
mod local_ca;
mod nouns;
mod office;
mod options;
mod ordering;
mod outside;
mod producing;
mod quickstart;
mod registry;
mod runs;
mod simulated_production;
mod simulator;
mod sqlite;
mod states;
mod status;
mod temporary;
mod tidy;
mod watched;
