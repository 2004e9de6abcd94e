//! What systemd-timesyncd follows, from the system bus: two questions in the wire format of the D-Bus specification.
//!
//! Every message forbids the bus to start a daemon for it.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::client::Patience;
use crate::daemons::Selected;

const TIMESYNCD: &str = "org.freedesktop.timesync1";

/// Little endian, method call, "do not start", version 1.
const CALL: [u8; 4] = [b'l', 1, 2, 1];
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

/// Largest answer that is read; those that are asked for have some hundred bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// Most messages of others, such as signals, before the answer.
const MAX_MESSAGES: usize = 64;

pub(super) fn ask(bus: &Path, patience: Patience<'_>) -> Option<Selected> {
    let mut bus = Bus { stream: UnixStream::connect(bus).ok()?, patience, serial: 0 };
    bus.greet()?;
    bus.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", None)?;
    let server = bus.property(
        &format!("{TIMESYNCD}.Manager"),
        "/org/freedesktop/timesync1",
        TIMESYNCD,
        "ServerAddress",
    )?;
    let synchronised = bus.property(
        "org.freedesktop.timedate1",
        "/org/freedesktop/timedate1",
        "org.freedesktop.timedate1",
        "NTPSynchronized",
    );
    let server = address(&server)?;
    Some(Selected {
        daemon: "timesyncd",
        // timedated may be away; a server that is followed is what there is then.
        synchronised: synchronised.map_or(server.is_some(), |value| boolean(&value).unwrap_or_default()),
        server,
    })
}

struct Bus<'a> {
    stream: UnixStream,
    patience: Patience<'a>,
    serial: u32,
}

impl Bus<'_> {
    fn greet(&mut self) -> Option<()> {
        let uid: String = rustix::process::geteuid()
            .as_raw()
            .to_string()
            .bytes()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            line.extend(self.read(1)?);
        }
        if !line.starts_with(b"OK ") {
            return None;
        }
        self.write(b"BEGIN\r\n")
    }

    /// The body of a property's value, after the signature of its type.
    fn property(&mut self, interface: &str, path: &str, destination: &str, name: &str) -> Option<Vec<u8>> {
        let arguments = Some((interface, name));
        self.call(destination, path, "org.freedesktop.DBus.Properties", "Get", arguments)
    }

    fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        arguments: Option<(&str, &str)>,
    ) -> Option<Vec<u8>> {
        self.serial += 1;
        let message = message(self.serial, destination, path, interface, member, arguments);
        self.write(&message)?;
        for _ in 0..MAX_MESSAGES {
            let (kind, answers, body) = self.message()?;
            match kind {
                METHOD_RETURN if answers == self.serial => return Some(body),
                ERROR if answers == self.serial => return None,
                _ => {}
            }
        }
        None
    }

    /// A message's kind, the call that it answers, and its body.
    fn message(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let start = self.read(16)?;
        let body_bytes = number(&start, 4)?;
        let field_bytes = number(&start, 12)?.checked_next_multiple_of(8)?;
        if start[0] != b'l' || body_bytes.checked_add(field_bytes)? > MAX_MESSAGE_BYTES {
            return None;
        }
        let fields = self.read(field_bytes)?;
        let body = self.read(body_bytes)?;
        Some((start[1], reply_serial(&fields).unwrap_or_default(), body))
    }

    fn read(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let mut filled = 0;
        while filled < bytes {
            let left = self.patience.left();
            if left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).ok()?;
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) | Err(_) => return None,
                Ok(count) => filled += count,
            }
        }
        Some(buffer)
    }

    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let left = self.patience.left();
        if left.is_zero() {
            return None;
        }
        self.stream.set_write_timeout(Some(left)).ok()?;
        self.stream.write_all(bytes).ok()
    }
}

/// A call in the wire format.
fn message(
    serial: u32,
    destination: &str,
    path: &str,
    interface: &str,
    member: &str,
    arguments: Option<(&str, &str)>,
) -> Vec<u8> {
    let mut body = Vec::new();
    for text in arguments.iter().flat_map(|(first, second)| [first, second]) {
        put_text(&mut body, text);
    }
    let mut fields = Vec::new();
    for (code, kind, value) in
        [(1, b'o', path), (2, b's', interface), (3, b's', member), (6, b's', destination)]
    {
        pad(&mut fields, 8);
        fields.extend([code, 1, kind, 0]);
        put_text(&mut fields, value);
    }
    if arguments.is_some() {
        pad(&mut fields, 8);
        fields.extend(*b"\x08\x01g\0\x02ss\0");
    }
    let mut message = CALL.to_vec();
    message.extend(length(&body));
    message.extend(serial.to_le_bytes());
    message.extend(length(&fields));
    message.extend(&fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(length(text.as_bytes()));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

/// The field that says which call is answered; the others have texts and numbers, which are passed over.
fn reply_serial(fields: &[u8]) -> Option<u32> {
    let mut at = 0_usize;
    loop {
        at = at.next_multiple_of(8);
        let [code, 1, kind, 0] = *fields.get(at..)?.first_chunk()? else { return None };
        at += 4;
        match kind {
            b'u' if code == 5 => return Some(u32::from_le_bytes(*fields.get(at..)?.first_chunk()?)),
            b'u' => at += 4,
            b's' | b'o' => at = at.checked_add(number(fields, at)?)?.checked_add(5)?,
            b'g' => at += usize::from(*fields.get(at)?) + 2,
            _ => return None,
        }
    }
}

/// The value of a property: `(iay)`, a family and the bytes of an address, none when there is no server.
fn address(body: &[u8]) -> Option<Option<IpAddr>> {
    let value = body.strip_prefix(b"\x05(iay)\0")?;
    // The structure begins at 8, one after the signature.
    let count = number(value, 5)?;
    let bytes = value.get(9..)?.get(..count)?;
    Some(match bytes.len() {
        4 => Some(IpAddr::from(*bytes.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*bytes.first_chunk::<16>()?)),
        _ => None,
    })
}

fn boolean(body: &[u8]) -> Option<bool> {
    let value = body.strip_prefix(b"\x01b\0")?;
    Some(number(value, 1)? == 1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::client::now;

    fn patience() -> Patience<'static> {
        Patience { deadline: now() + Duration::from_secs(10), is_stopped: &|| false }
    }

    #[test]
    fn values_of_properties_are_read() {
        let mut four = b"\x05(iay)\0\0\x02\0\0\0\x04\0\0\0".to_vec();
        four.extend([192, 0, 2, 1]);
        assert_eq!(address(&four), Some(Some(IpAddr::from([192, 0, 2, 1]))));
        let none = b"\x05(iay)\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(address(none), Some(None));
        assert_eq!(address(&four[..18]), None, "cut");
        assert_eq!(address(b"\x01s\0\0\x01\0\0\0x\0"), None, "another type");
        assert_eq!(boolean(b"\x01b\0\0\x01\0\0\0"), Some(true));
        assert_eq!(boolean(b"\x01b\0\0"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_bus_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            reply_serial(&bytes);
            address(&bytes);
            address(&[b"\x05(iay)\0", bytes.as_slice()].concat());
            boolean(&bytes);
        }
    }

    /// A bus of our own, ended with the test.
    struct DbusDaemon(Child);

    impl Drop for DbusDaemon {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn a_real_bus_understands_the_messages() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--print-address"])
            .arg(format!("--address=unix:path={}", socket.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut daemon) = daemon.map(DbusDaemon) else {
            return vigie_skipped::skipped("this host has no dbus-daemon");
        };
        // It says its address when it listens.
        daemon.0.stdout.take().unwrap().read_exact(&mut [0; 5]).unwrap();

        let mut bus = Bus { stream: UnixStream::connect(&socket).unwrap(), patience: patience(), serial: 0 };
        bus.greet().unwrap();
        let (path, dbus) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
        let name = bus.call(dbus, path, dbus, "Hello", None).unwrap();
        assert!(String::from_utf8_lossy(&name).contains(":1."), "{name:?}");
        let interfaces = bus.property(dbus, path, dbus, "Interfaces").unwrap();
        assert!(interfaces.starts_with(b"\x02as\0"), "{interfaces:?}");
        assert!(String::from_utf8_lossy(&interfaces).contains("org.freedesktop.DBus"), "{interfaces:?}");

        // No timesyncd is on it, and none is started.
        assert_eq!(ask(&socket, patience()), None);
    }

    /// A bus that sends `answer` whatever it is asked, and a signal before.
    fn fake_bus(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut buffer = [0; 4_096];
            for answer in answers {
                if client.read(&mut buffer).is_ok_and(|bytes| bytes == 0)
                    || client.write_all(&answer).is_err()
                {
                    return;
                }
            }
            // Silent until the client goes away.
            while client.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
        });
        (directory, path)
    }

    fn reply(serial: u32, body: &[u8]) -> Vec<u8> {
        let fields = [&b"\x05\x01u\0"[..], &serial.to_le_bytes()].concat();
        let start = [&[b'l', METHOD_RETURN, 0, 1][..], &length(body), &9_u32.to_le_bytes(), &length(&fields)]
            .concat();
        [&start[..], &fields, body].concat()
    }

    #[test]
    fn the_server_that_timesyncd_follows_is_asked_for() {
        let server = [&b"\x05(iay)\0\0\x02\0\0\0\x04\0\0\0"[..], &[192, 0, 2, 1]].concat();
        // A signal, without the field of an answer.
        let signal = [&b"l\x04\0\x01\0\0\0\0\x07\0\0\0\x08\0\0\0"[..], b"\x08\x01g\0\0\0\0\0"].concat();
        let (_directory, path) = fake_bus(vec![
            b"OK 1234\r\n".to_vec(),
            [signal, reply(1, b"\x04\0\0\0:1.7\0")].concat(),
            reply(2, &server),
            reply(3, b"\x01b\0\0\x01\0\0\0"),
        ]);

        let told = ask(&path, patience());

        let server = Some(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(told, Some(Selected { daemon: "timesyncd", synchronised: true, server }));
    }

    #[test]
    fn a_bus_that_refuses_lies_or_hangs_costs_its_time_only() {
        let huge = [&b"l\x02\0\x01\xff\xff\xff\x7f\x07\0\0\0\x08\0\0\0"[..], &[0; 64]].concat();
        for answers in [
            vec![b"REJECTED EXTERNAL\r\n".to_vec()],
            vec![vec![b'x'; 4_000]],
            vec![b"OK 1\r\n".to_vec(), huge],
            vec![b"OK 1\r\n".to_vec(), reply(7, b"")],
        ] {
            let (_directory, path) = fake_bus(answers);
            let short = Patience { deadline: now() + Duration::from_millis(300), is_stopped: &|| false };
            assert_eq!(ask(&path, short), None);
        }
    }
}
