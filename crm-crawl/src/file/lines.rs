//! Lines of decoded text with bounded memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use super::decode::{Decoded, END};
use super::stream::MAX_RECORD;

/// Reads line by line, knowing how many bytes of text and lines are behind.
pub(super) struct Lines {
    from: BufReader<Decoded<File>>,
    /// Bytes of decoded text that are done, from the file's beginning.
    pub(super) offset: u64,
    /// The number of the line that comes next; 1 is the first.
    pub(super) number: u64,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Its text, without its end.
    Text(String),
    /// It was longer than 1 MiB and was passed over.
    TooLong,
    /// There is none any more.
    End,
}

impl Lines {
    /// `from` stands at `offset`, before line `number`.
    pub(super) fn new(from: Decoded<File>, offset: u64, number: u64) -> Self {
        Self {
            from: BufReader::new(from),
            offset,
            number,
        }
    }

    /// Bytes read from the file so far.
    pub(super) fn raw(&self) -> u64 {
        self.from.get_ref().raw
    }

    pub(super) fn next(&mut self) -> io::Result<Line> {
        let mut bytes = Vec::new();
        let most = MAX_RECORD as u64 + 1;
        let read = (&mut self.from).take(most).read_until(b'\n', &mut bytes)? as u64;
        let mut length = read;
        let long = read == most && bytes.last() != Some(&b'\n');
        let mut open = long;
        while open {
            let rest = self.from.fill_buf()?;
            let (used, end) = match rest.iter().position(|byte| *byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (rest.len(), rest.is_empty()),
            };
            self.from.consume(used);
            length += used as u64;
            open = !end;
        }
        if bytes.strip_suffix(b"\n").unwrap_or(&bytes) == END.as_bytes() || read == 0 {
            return Ok(Line::End);
        }
        self.offset += length;
        self.number += 1;
        if long {
            return Ok(Line::TooLong);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        // Decoded text is UTF-8; what was not is U+FFFD by now.
        String::from_utf8(bytes)
            .map(Line::Text)
            .map_err(|_| io::ErrorKind::InvalidData.into())
    }
}
