//! What is fuzzed: every parser of bytes from elsewhere. Each target says what must hold whatever it is given.

pub mod targets;
