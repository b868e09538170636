//! Lines of a file as bytes, however long they are, in bounded memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// A line.
pub(super) struct RawLine {
    /// Where it begins in the file.
    pub(super) offset: u64,
    /// 1 is the first.
    pub(super) number: u64,
    /// Its first bytes, without its end.
    pub(super) bytes: Vec<u8>,
    /// It is longer than what was kept.
    pub(super) cut: bool,
}

impl RawLine {
    pub(super) fn is_blank(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Reads line by line.
pub(super) struct RawLines {
    from: BufReader<File>,
    /// Where the next line begins.
    offset: u64,
    number: u64,
    /// Lines that were read and given back.
    back: VecDeque<RawLine>,
}

impl RawLines {
    /// `file` stands at `offset`, before line `number`.
    pub(super) fn new(file: File, offset: u64, number: u64) -> Self {
        Self {
            from: BufReader::with_capacity(64 * 1024, file),
            offset,
            number,
            back: VecDeque::new(),
        }
    }

    /// Where the next line begins, and its number.
    pub(super) fn place(&self) -> (u64, u64) {
        match self.back.front() {
            Some(line) => (line.offset, line.number),
            None => (self.offset, self.number),
        }
    }

    /// Gives lines back, to be read next, in this order.
    pub(super) fn give_back(&mut self, lines: impl IntoIterator<Item = RawLine>) {
        let mut lines: VecDeque<RawLine> = lines.into_iter().collect();
        lines.append(&mut self.back);
        self.back = lines;
    }

    /// The next line; of a long one the first `keep` bytes.
    pub(super) fn next(&mut self, keep: usize) -> io::Result<Option<RawLine>> {
        if let Some(line) = self.back.pop_front() {
            return Ok(Some(line));
        }
        let mut line = RawLine {
            offset: self.offset,
            number: self.number,
            bytes: Vec::new(),
            cut: false,
        };
        loop {
            let block = match self.from.fill_buf() {
                Ok(block) => block,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if block.is_empty() {
                if self.offset == line.offset {
                    return Ok(None);
                }
                break;
            }
            let end = block.iter().position(|b| *b == b'\n');
            let text = block.get(..end.unwrap_or(block.len())).unwrap_or_default();
            let room = keep.saturating_sub(line.bytes.len());
            line.cut |= text.len() > room;
            line.bytes.extend_from_slice(text.get(..room).unwrap_or(text));
            let used = end.map_or(block.len(), |end| end + 1);
            self.from.consume(used);
            self.offset += used as u64;
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        if !line.cut && line.bytes.last() == Some(&b'\r') {
            line.bytes.pop();
        }
        Ok(Some(line))
    }
}
