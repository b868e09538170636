//! The gate over a store in memory.

mod verdicts;
mod world;
