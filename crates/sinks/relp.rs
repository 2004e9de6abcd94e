//! RELP, the protocol in which rsyslog acknowledges each record.
//!
//! A frame is `TXNR SP COMMAND SP DATALEN [SP DATA] LF`. The client opens a session, sends `syslog` frames with rising
//! numbers, and the server answers each in their order with `rsp` and a code: 200, or 500 when it refuses. What has no
//! answer when a connection breaks is sent again.

use std::collections::VecDeque;

/// Records that may be on their way without an answer.
pub const WINDOW: usize = 256;

/// Longest head of a frame, and longest data, in bytes.
const MAX_HEAD_BYTES: usize = 64;
const MAX_DATA_BYTES: usize = 64 << 10;

/// Transaction numbers begin again after this one.
const MAX_NUMBER: u32 = 999_999_999;

/// What the server told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The session is open.
    Opened,
    /// The oldest record without an answer is stored.
    Stored,
    /// The oldest record without an answer, or the session, is refused.
    Refused(String),
    /// The server is about to close the connection.
    Closing,
}

/// What the server sent is no RELP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side does not speak RELP: {0}")]
pub struct NotRelp(String);

/// One session, from the client's side.
#[derive(Debug)]
pub struct Session {
    next: u32,
    /// Numbers without an answer; the first one is of `open` until that is answered.
    waiting: VecDeque<u32>,
    is_open: bool,
    input: Vec<u8>,
}

impl Session {
    /// Begins a session; the bytes are to be sent first.
    #[must_use]
    pub fn open(version: &str) -> (Self, Vec<u8>) {
        let mut session = Self { next: 1, waiting: VecDeque::new(), is_open: false, input: Vec::new() };
        let offer = format!("relp_version=0\nrelp_software=vigie,{version}\ncommands=syslog");
        let frame = session.frame("open", offer.as_bytes());
        (session, frame)
    }

    /// The frame of a record.
    pub fn record(&mut self, record: &[u8]) -> Vec<u8> {
        self.frame("syslog", record)
    }

    /// The frame that ends the session; its answer is not waited for.
    pub fn close(&mut self) -> Vec<u8> {
        self.frame("close", b"")
    }

    /// Records without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    fn frame(&mut self, command: &str, data: &[u8]) -> Vec<u8> {
        let number = self.next;
        self.next = if number == MAX_NUMBER { 1 } else { number + 1 };
        self.waiting.push_back(number);
        let mut frame = format!("{number} {command} {}", data.len()).into_bytes();
        if !data.is_empty() {
            frame.push(b' ');
            frame.extend_from_slice(data);
        }
        frame.push(b'\n');
        frame
    }

    /// Takes what the server sent, in any pieces.
    ///
    /// # Errors
    /// When it is no RELP; the connection is of no use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, NotRelp> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        let mut start = 0;
        while let Some(Frame { number, command, data, used }) = read_frame(&self.input[start..])? {
            if command == "serverclose" {
                events.push(Event::Closing);
            } else if command == "rsp" {
                let answer = String::from_utf8_lossy(data).into_owned();
                let expected = self.waiting.pop_front();
                if expected != Some(number) {
                    return Err(NotRelp(format!("it answers {number} where {expected:?} is next")));
                }
                events.push(match answer.split([' ', '\n']).next() {
                    Some("200") if self.is_open => Event::Stored,
                    Some("200") => {
                        self.is_open = true;
                        Event::Opened
                    }
                    _ => Event::Refused(crate::text::cut(&answer.replace(char::is_control, " "), 200)),
                });
            } else {
                return Err(NotRelp(format!("it sends the command {command:?}")));
            }
            start += used;
        }
        self.input.drain(..start);
        Ok(events)
    }
}

/// A frame of the server.
struct Frame<'a> {
    number: u32,
    command: &'a str,
    data: &'a [u8],
    /// Its bytes in all.
    used: usize,
}

/// The first frame; nothing when it is not there as a whole.
fn read_frame(input: &[u8]) -> Result<Option<Frame<'_>>, NotRelp> {
    let bad = |what: &str| {
        NotRelp(format!("{what} in {:?}", String::from_utf8_lossy(&input[..input.len().min(40)])))
    };
    let mut parts = Vec::new();
    let mut at = 0;
    while parts.len() < 3 {
        let Some(length) =
            input[at..].iter().take(MAX_HEAD_BYTES).position(|byte| matches!(byte, b' ' | b'\n'))
        else {
            return if input.len() - at >= MAX_HEAD_BYTES { Err(bad("no frame")) } else { Ok(None) };
        };
        let part = std::str::from_utf8(&input[at..at + length]).map_err(|_| bad("no text"))?;
        let is_end = input[at + length] == b'\n';
        parts.push(part);
        if is_end && parts.len() < 3 {
            return Err(bad("a frame that is too short"));
        }
        at += length;
        if parts.len() < 3 {
            at += 1;
        }
    }
    let number = parts[0].parse().map_err(|_| bad("no transaction number"))?;
    let length: usize = parts[2].parse().map_err(|_| bad("no length"))?;
    if length > MAX_DATA_BYTES {
        return Err(bad("too much data"));
    }
    // An empty frame may or may not have a blank before its end.
    if input[at] == b' ' {
        at += 1;
    } else if length > 0 {
        return Err(bad("no data"));
    }
    let Some(&end) = input.get(at + length) else { return Ok(None) };
    if end != b'\n' {
        return Err(bad("no end of a frame"));
    }
    Ok(Some(Frame { number, command: parts[1], data: &input[at..at + length], used: at + length + 1 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_session() {
        let (mut session, open) = Session::open("0.1.0");
        assert_eq!(
            String::from_utf8(open).unwrap(),
            "1 open 56 relp_version=0\nrelp_software=vigie,0.1.0\ncommands=syslog\n"
        );
        assert_eq!(session.feed(b"1 rsp 37 200 OK\nrelp_version=0\ncommands=syslog").unwrap(), []);
        assert!(session.feed(b"x").is_err());

        let (mut session, _) = Session::open("0.1.0");
        let answer = b"1 rsp 42 200 OK\nrelp_version=0\ncommands=syslog,eventl\n";
        let length = answer.len() - b"1 rsp 42 \n".len();
        let answer = String::from_utf8(answer.to_vec()).unwrap().replace("42", &length.to_string());
        assert_eq!(session.feed(answer.as_bytes()).unwrap(), [Event::Opened]);
        assert_eq!(session.record(b"<36>1 a b"), b"2 syslog 9 <36>1 a b\n");
        session.record(b"x");
        assert_eq!(session.feed(b"2 rsp 6 200 OK\n3 rsp 9 500 refus").unwrap(), [Event::Stored]);
        assert_eq!(session.outstanding(), 1);
        session.record(b"y");
        assert!(session.feed(b"\n").is_ok());
        assert_eq!(session.feed(b"0 serverclose 0\n").unwrap(), [Event::Closing]);
        assert_eq!(session.close(), b"5 close 0\n");
    }

    proptest! {
        #[test]
        fn answers_in_any_pieces_are_counted_once(count in 1_usize..40, cuts in prop::collection::vec(1_usize..9, 1..60)) {
            let (mut session, _) = Session::open("x");
            let mut answers = b"1 rsp 6 200 OK\n".to_vec();
            for _ in 0..count {
                session.record(b"r");
            }
            for number in 2..count + 2 {
                answers.extend_from_slice(format!("{number} rsp 6 200 OK\n").as_bytes());
            }
            let (mut stored, mut at) = (0, 0);
            let mut sizes = cuts.iter().cycle();
            while at < answers.len() {
                let end = (at + sizes.next().unwrap()).min(answers.len());
                let events = session.feed(&answers[at..end]).unwrap();
                stored += events.iter().filter(|event| **event == Event::Stored).count();
                at = end;
            }
            prop_assert_eq!(stored, count);
            prop_assert_eq!(session.outstanding(), 0);
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_much(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let (mut session, _) = Session::open("x");
            session.feed(&bytes).ok();
        }
    }
}
