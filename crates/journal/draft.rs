//! Records on their way to the disk.

/// Records in the order of their numbers, not sealed yet: that is left to the thread that writes them.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// Bodies of lines: JSON objects without their last brace.
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Whose room the records take.
    shares: Vec<String>,
    last_seq: u64,
}

/// Where a record is.
#[derive(Debug, Clone, Copy)]
struct Place {
    message: usize,
    end: usize,
    share: usize,
}

/// What records that came together have in common.
#[derive(Debug)]
pub struct Source {
    /// The part of the body between the number and the id.
    text: String,
    share: usize,
}

/// One record of a draft.
pub(crate) struct Body<'a> {
    /// A JSON object without its last brace.
    pub(crate) bytes: &'a [u8],
    /// The message in it, a JSON string.
    pub(crate) message: &'a [u8],
    pub(crate) share: &'a str,
}

impl Draft {
    /// Says of whom and when the records are that [`Self::push`] adds. `share` is whose room they take, when that is
    /// not the module's: `MODULE:WHAT`.
    pub fn source(&mut self, time: &str, module: &str, share: Option<&str>) -> Source {
        let mut text = format!(r#","time":"{time}","module":"{module}""#);
        if let Some(share) = share {
            text.push_str(&format!(r#","share":"{share}""#));
        }
        let share = share.unwrap_or(module);
        let known = self.shares.iter().position(|known| known == share);
        let share = known.unwrap_or_else(|| {
            self.shares.push(share.to_owned());
            self.shares.len() - 1
        });
        Source { text, share }
    }

    /// Adds a record. `id` and `message` are valid JSON strings, and are copied as they are.
    pub fn push(&mut self, source: &Source, seq: u64, id: Option<&str>, message: &str) {
        debug_assert!(
            !message.contains('\n') && !id.is_some_and(|id| id.contains('\n')),
            "JSON strings escape it"
        );
        let mut number = [0; 20];
        self.bytes.reserve(64 + source.text.len() + id.map_or(0, str::len) + message.len());
        self.bytes.extend_from_slice(br#"{"seq":"#);
        self.bytes.extend_from_slice(decimal(seq, &mut number));
        self.bytes.extend_from_slice(source.text.as_bytes());
        if let Some(id) = id {
            self.bytes.extend_from_slice(br#","id":"#);
            self.bytes.extend_from_slice(id.as_bytes());
        }
        self.bytes.extend_from_slice(br#","message":"#);
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message.as_bytes());
        self.places.push(Place { message: start, end: self.bytes.len(), share: source.share });
        self.last_seq = seq;
    }

    /// Adds a record from plain texts.
    pub fn push_text(&mut self, seq: u64, time: &str, module: &str, id: Option<&str>, message: &str) {
        let json = |text: &str| serde_json::to_string(text).expect("a text is plain data");
        let source = self.source(time, module, None);
        self.push(&source, seq, id.map(json).as_deref(), &json(message));
    }

    /// How many records.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.places.len() as u64
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all records and keeps the memory, up to `keep_bytes` of their text.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.places.clear();
        self.places.shrink_to(keep_bytes / size_of::<Place>());
        self.shares.clear();
        self.last_seq = 0;
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(crate) fn bodies(&self) -> impl Iterator<Item = Body<'_>> {
        let mut start = 0;
        self.places.iter().map(move |place| {
            let bytes = &self.bytes[start..place.end];
            start = place.end;
            Body { bytes, message: &self.bytes[place.message..place.end], share: &self.shares[place.share] }
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
        let (own, other) = (draft.source("t", "m", None), draft.source("t", "m", Some("m:x")));
        draft.push(&own, u64::MAX, Some(r#""i""#), r#""a\nb""#);
        draft.push(&other, 0, None, r#""""#);

        let bodies: Vec<_> = draft.bodies().map(|body| (body.bytes, body.message, body.share)).collect();

        let first = br#"{"seq":18446744073709551615,"time":"t","module":"m","id":"i","message":"a\nb""#;
        assert_eq!(bodies[0], (first.as_slice(), br#""a\nb""#.as_slice(), "m"));
        let second = br#"{"seq":0,"time":"t","module":"m","share":"m:x","message":"""#;
        assert_eq!(bodies[1], (second.as_slice(), br#""""#.as_slice(), "m:x"));
        assert_eq!(draft.count(), 2);
    }
}
