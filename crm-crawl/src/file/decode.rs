//! Bytes of any encoding to UTF-8 with plain line ends, as a stream.

use std::io::{self, Read};

use crm_core::{Error, Result};
use encoding_rs::{Decoder, Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// What is put after the end of the text: a record of its own unless a quote is still open.
pub(super) const END: &str = "\u{0}end\u{0}";

const BLOCK: usize = 64 * 1024;

/// The encoding of a file and the length of its byte order mark.
///
/// Nothing is guessed that could be wrong: `auto` believes the mark, recognises UTF-16 by its zero bytes, and else says
/// UTF-8.
pub(super) fn detect(head: &[u8], setting: &str) -> Result<(&'static Encoding, usize)> {
    let marked = Encoding::for_bom(head);
    if setting == "auto" {
        return Ok(marked.unwrap_or(match head {
            [0, b, ..] if *b != 0 => (UTF_16BE, 0),
            [b, 0, ..] if *b != 0 => (UTF_16LE, 0),
            _ => (UTF_8, 0),
        }));
    }
    let declared = Encoding::for_label(setting.as_bytes()).ok_or_else(|| {
        Error::config("not an encoding; write auto, utf-8, utf-16le, windows-1252 or another WHATWG label")
            .with("setting", "encoding")
            .with("value", setting)
    })?;
    match marked {
        None => Ok((declared, 0)),
        Some((found, length)) if found == declared => Ok((declared, length)),
        // The label utf-16 means little-endian to the web, either one to everybody else.
        Some((found, length)) if setting.eq_ignore_ascii_case("utf-16") && found == UTF_16BE => {
            Ok((found, length))
        }
        Some((found, _)) => Err(Error::config(
            "the file's byte order mark says another encoding than the setting",
        )
        .with("setting", "encoding")
        .with("declared", declared.name())
        .with("found", found.name())),
    }
}

/// Reads `inner`, decodes it, makes CR LF and CR plain LF, and ends it with a line end and [`END`]. Bytes that are not
/// valid become U+FFFD, by which the row is recognised and refused.
pub(super) struct Decoded<R> {
    inner: R,
    decoder: Decoder,
    input: Vec<u8>,
    used: usize,
    filled: usize,
    output: Vec<u8>,
    given: usize,
    after_cr: bool,
    ended: bool,
    /// Bytes read from `inner`.
    pub(super) raw: u64,
    /// Bytes that may still be given before the record counts as endless.
    pub(super) budget: usize,
}

impl<R: Read> Decoded<R> {
    /// `inner` stands after the byte order mark.
    pub(super) fn new(inner: R, encoding: &'static Encoding, mark: usize) -> Self {
        Self {
            inner,
            decoder: encoding.new_decoder_without_bom_handling(),
            input: vec![0; BLOCK],
            used: 0,
            filled: 0,
            output: Vec::with_capacity(BLOCK),
            given: 0,
            after_cr: false,
            ended: false,
            raw: mark as u64,
            budget: usize::MAX,
        }
    }

    /// Passes over `bytes` of the output.
    pub(super) fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if skipped == bytes {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn refill(&mut self) -> io::Result<()> {
        self.output.clear();
        self.given = 0;
        while self.output.is_empty() && !self.ended {
            if self.used == self.filled {
                self.used = 0;
                self.filled = loop {
                    match self.inner.read(&mut self.input) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        other => break other?,
                    }
                };
                self.raw += self.filled as u64;
            }
            let last = self.filled == 0;
            let block = self.input.get(self.used..self.filled).unwrap_or_default();
            let mut text = String::with_capacity(
                self.decoder
                    .max_utf8_buffer_length(block.len())
                    .unwrap_or(BLOCK * 3),
            );
            let (_, used, _) = self.decoder.decode_to_string(block, &mut text, last);
            self.used += used;
            for byte in text.into_bytes() {
                match byte {
                    b'\r' => self.output.push(b'\n'),
                    b'\n' if self.after_cr => {}
                    other => self.output.push(other),
                }
                self.after_cr = byte == b'\r';
            }
            if last {
                self.output.push(b'\n');
                self.output.extend_from_slice(END.as_bytes());
                self.output.push(b'\n');
                self.ended = true;
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.given == self.output.len() {
            if self.ended {
                return Ok(0);
            }
            self.refill()?;
        }
        if self.budget == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record without an end",
            ));
        }
        let rest = self.output.get(self.given..).unwrap_or_default();
        let n = rest.len().min(into.len()).min(self.budget);
        if let (Some(to), Some(from)) = (into.get_mut(..n), rest.get(..n)) {
            to.copy_from_slice(from);
        }
        self.given += n;
        self.budget -= n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives at most `n` bytes at once, so that every boundary is met.
    struct Drip<'a>(&'a [u8], usize);
    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn decoded(bytes: &[u8], encoding: &'static Encoding, step: usize) -> String {
        let mut text = String::new();
        Decoded::new(Drip(bytes, step), encoding, 0)
            .read_to_string(&mut text)
            .unwrap();
        text.strip_suffix(&format!("\n{END}\n")).unwrap().to_owned()
    }

    #[test]
    fn line_ends_and_characters_survive_every_boundary() {
        let utf16: Vec<u8> = "ä\r\n𝄞\rb".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for step in 1..7 {
            assert_eq!(
                decoded("a\r\nb\rc\n\nd€".as_bytes(), UTF_8, step),
                "a\nb\nc\n\nd€",
                "{step}"
            );
            assert_eq!(decoded(&utf16, UTF_16LE, step), "ä\n𝄞\nb", "{step}");
            assert_eq!(
                decoded(b"M\xfcller \x80", encoding_rs::WINDOWS_1252, step),
                "Müller €",
                "{step}"
            );
            assert_eq!(decoded(b"M\xfcller", UTF_8, step), "M\u{fffd}ller", "{step}");
        }
    }

    #[test]
    fn detection() {
        assert_eq!(detect(b"\xef\xbb\xbfa", "auto").unwrap(), (UTF_8, 3));
        assert_eq!(detect(b"\xff\xfea\0", "auto").unwrap(), (UTF_16LE, 2));
        assert_eq!(detect(b"\xfe\xff\0a", "utf-16").unwrap(), (UTF_16BE, 2));
        assert_eq!(detect(b"\0a\0b", "auto").unwrap(), (UTF_16BE, 0));
        assert_eq!(detect(b"abc", "latin1").unwrap(), (encoding_rs::WINDOWS_1252, 0));
        assert_eq!(
            detect(b"\xef\xbb\xbfa", "windows-1252")
                .unwrap_err()
                .context("found"),
            Some("UTF-8")
        );
        assert_eq!(
            detect(b"abc", "utf-9").unwrap_err().context("setting"),
            Some("encoding")
        );
    }
}
