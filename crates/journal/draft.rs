//! Records on their way to the disk.

/// Records in the order of their numbers, not sealed yet: that is left to the thread that writes them.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Bodies of lines: JSON objects without their last brace, each ended by a line feed.
    bytes: Vec<u8>,
    count: u64,
    last_seq: u64,
}

impl Draft {
    /// Adds a record. `id` and `message` are valid JSON strings, and are copied as they are. `share` is whose room it
    /// takes, when that is not the module's: `MODULE:WHAT`.
    pub fn push(
        &mut self,
        seq: u64,
        time: &str,
        module: &str,
        share: Option<&str>,
        id: Option<&str>,
        message: &str,
    ) {
        debug_assert!(
            !message.contains('\n') && !id.is_some_and(|id| id.contains('\n')),
            "JSON strings escape it"
        );
        let mut number = [0; 20];
        self.bytes.extend_from_slice(br#"{"seq":"#);
        self.bytes.extend_from_slice(decimal(seq, &mut number));
        self.bytes.extend_from_slice(br#","time":""#);
        self.bytes.extend_from_slice(time.as_bytes());
        self.bytes.extend_from_slice(br#"","module":""#);
        self.bytes.extend_from_slice(module.as_bytes());
        self.bytes.push(b'"');
        if let Some(share) = share {
            self.bytes.extend_from_slice(br#","share":""#);
            self.bytes.extend_from_slice(share.as_bytes());
            self.bytes.push(b'"');
        }
        if let Some(id) = id {
            self.bytes.extend_from_slice(br#","id":"#);
            self.bytes.extend_from_slice(id.as_bytes());
        }
        self.bytes.extend_from_slice(br#","message":"#);
        self.bytes.extend_from_slice(message.as_bytes());
        self.bytes.push(b'\n');
        self.count += 1;
        self.last_seq = seq;
    }

    /// Adds a record from plain texts.
    pub fn push_text(&mut self, seq: u64, time: &str, module: &str, id: Option<&str>, message: &str) {
        let json = |text: &str| serde_json::to_string(text).expect("a text is plain data");
        self.push(seq, time, module, None, id.map(json).as_deref(), &json(message));
    }

    /// How many records.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all records and keeps the memory, up to `keep_bytes` of it.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.count = 0;
        self.last_seq = 0;
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let end = memchr::memchr(b'\n', rest)?;
            let (body, after) = rest.split_at(end);
            rest = &after[1..];
            Some(body)
        })
    }
}

/// The digits of a number, at the end of `buffer`.
fn decimal(mut number: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &buffer[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_holds_bodies_and_numbers_of_any_size() {
        let mut draft = Draft::default();
        draft.push(u64::MAX, "t", "m", None, Some(r#""i""#), r#""a\nb""#);
        draft.push(0, "t", "m", Some("m:x"), None, r#""""#);

        let bodies: Vec<&[u8]> = draft.bodies().collect();

        assert_eq!(
            bodies[0],
            br#"{"seq":18446744073709551615,"time":"t","module":"m","id":"i","message":"a\nb""#
        );
        assert_eq!(bodies[1], br#"{"seq":0,"time":"t","module":"m","share":"m:x","message":"""#);
        assert_eq!(draft.count(), 2);
    }
}
