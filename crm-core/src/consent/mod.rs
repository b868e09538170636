//! Permission: purposes, consent events, suppressions, and the gate that alone lets a message out.

use serde::{Deserialize, Serialize};

/// Why a message may or may not go out: each rule that was asked and what it answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The rules asked, in order, and their answers, without personal data.
    pub trace: Vec<String>,
}
