//! The records of the protocol: big-endian numbers, texts and buffers with their length in front.

/// Kinds of requests.
pub(super) mod op {
    pub(in super::super) const CREATE: i32 = 1;
    pub(in super::super) const DELETE: i32 = 2;
    pub(in super::super) const EXISTS: i32 = 3;
    pub(in super::super) const GET_DATA: i32 = 4;
    pub(in super::super) const SET_DATA: i32 = 5;
    pub(in super::super) const GET_CHILDREN: i32 = 8;
    pub(in super::super) const PING: i32 = 11;
    pub(in super::super) const AUTH: i32 = 100;
    pub(in super::super) const CLOSE: i32 = -11;
}

/// What the server says about a request.
pub(super) mod code {
    pub(in super::super) const OK: i32 = 0;
    pub(in super::super) const NO_NODE: i32 = -101;
    pub(in super::super) const NO_AUTH: i32 = -102;
    pub(in super::super) const NODE_EXISTS: i32 = -110;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
    pub(in super::super) const AUTH_FAILED: i32 = -115;
    pub(in super::super) const SESSION_MOVED: i32 = -118;
}

/// Numbers of messages that answer no request of ours.
pub(super) const XID_EVENT: i32 = -1;
pub(super) const XID_PING: i32 = -2;
pub(super) const XID_AUTH: i32 = -4;

/// The most bytes of one message: what servers themselves allow by default is 1 MiB.
pub(super) const MAX_FRAME: usize = 8 * 1024 * 1024;

/// Writes a record.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn int(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    pub(super) fn long(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    pub(super) fn flag(mut self, value: bool) -> Self {
        self.0.push(value.into());
        self
    }
    pub(super) fn buffer(self, value: &[u8]) -> Self {
        // Nothing that is written here comes near the limit.
        let mut out = self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        out.0.extend_from_slice(value);
        out
    }
    pub(super) fn text(self, value: &str) -> Self {
        self.buffer(value.as_bytes())
    }
}

/// A message was not of the form that it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Reads a record.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }
    pub(super) fn int(&mut self) -> Result<i32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(i32::from_be_bytes(bytes))
    }
    pub(super) fn long(&mut self) -> Result<i64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(i64::from_be_bytes(bytes))
    }
    /// A length of -1 is none.
    pub(super) fn buffer(&mut self) -> Result<&'a [u8], Malformed> {
        match self.int()? {
            -1 => Ok(&[]),
            length => self.take(usize::try_from(length).map_err(|_| Malformed)?),
        }
    }
    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.buffer()?).map_err(|_| Malformed)
    }
    /// A list of texts, at most so many.
    pub(super) fn texts(&mut self, most: usize) -> Result<Option<Vec<String>>, Malformed> {
        let count = usize::try_from(self.int()?.max(0)).map_err(|_| Malformed)?;
        if count > most {
            return Ok(None);
        }
        // Room is made as they come: the number is the server's word.
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.text()?.to_owned());
        }
        Ok(Some(all))
    }
    /// The session that owns a node, out of what is said of it; 0 for one that stays.
    pub(super) fn owner(&mut self) -> Result<i64, Malformed> {
        for _ in 0..4 {
            self.long()?;
        }
        for _ in 0..3 {
            self.int()?;
        }
        self.long()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::default()
            .int(-7)
            .long(1 << 40)
            .flag(true)
            .text("ä")
            .buffer(b"")
            .0;
        let mut reader = Reader(&bytes);
        assert_eq!(reader.int(), Ok(-7));
        assert_eq!(reader.long(), Ok(1 << 40));
        assert_eq!(reader.take(1), Ok(&[1][..]));
        assert_eq!(reader.text(), Ok("ä"));
        assert_eq!(reader.buffer(), Ok(&[][..]));
        assert_eq!(reader.int(), Err(Malformed));
    }

    #[test]
    fn lengths_are_not_believed() {
        for length in [-2, 5, i32::MAX, i32::MIN] {
            let bytes = Writer::default().int(length).int(0).0;
            assert_eq!(Reader(&bytes).buffer(), Err(Malformed), "{length}");
        }
        let many = Writer::default().int(i32::MAX).0;
        assert_eq!(Reader(&many).texts(10), Ok(None));
        assert_eq!(Reader(&many).texts(usize::MAX), Err(Malformed));
        assert_eq!(
            Reader(&Writer::default().int(1).buffer(b"\xff").0).texts(1),
            Err(Malformed)
        );
    }
}
