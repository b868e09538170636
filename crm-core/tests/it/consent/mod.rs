//! The gate over a store in memory.

mod caps;
mod failures;
mod hours;
mod matrix;
mod opt_in;
mod purposes;
mod suppressions;
mod verdicts;
mod world;
