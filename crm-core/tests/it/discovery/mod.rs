//! Discovery: the conformance suite on every register, and what each of them has beyond it.

mod basics;
mod file;
