//! What the BPF programs write into the ring, as bytes and as values. The places are those of `bpf/events.bpf.c`.

use crate::account::Account;
use crate::event::{
    DESCRIPTORS, Descriptor, Event, Exec, Exit, ExitStatus, File, Identity, Listed, Namespaces, Net, NetState,
};

/// Bytes of `struct head`.
const HEAD: usize = 24;
/// Bytes of `struct identity`.
const IDENTITY: usize = 160;
/// Where the texts of `struct exec_record` begin.
const EXEC_DATA: usize = 352;

/// Where the lengths of its texts are.
const LENGTHS: [usize; 5] = [328, 332, 336, 340, 344];
/// Where `who` of `struct net_record` is.
const NET_WHO: usize = 80;

/// Whose values of the environment are kept: they change what a program does. Nothing else of it leaves this file.
const WATCHED_ENVIRONMENT: [&[u8]; 5] =
    [b"LD_PRELOAD", b"LD_AUDIT", b"LD_LIBRARY_PATH", b"HISTFILE", b"BASH_ENV"];

/// Longest value of the environment that is kept.
const LONGEST_VALUE: usize = 1024;

/// Reads one record; `None` when it is cut short or of a kind that is not known.
pub(crate) fn parse(bytes: &[u8]) -> Option<Event> {
    let at = Bytes(bytes);
    match at.u32(0)? {
        1 => exec(at).map(|exec| Event::Exec(Box::new(exec))),
        2 => exit(at).map(Event::Exit),
        3 => net(at).map(|net| Event::Net(Box::new(net))),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    fn slice(self, at: usize, bytes: usize) -> Option<&'a [u8]> {
        self.0.get(at..at.checked_add(bytes)?)
    }
}

/// A number that is all ones means none.
fn some(number: u32) -> Option<u32> {
    (number != u32::MAX).then_some(number)
}

fn account(at: Bytes<'_>) -> Option<Account> {
    at.u64(16).map(Account::from_kernel)
}

fn identity(all: Bytes<'_>, base: usize) -> Option<Identity> {
    let at = Bytes(all.slice(base, IDENTITY)?);
    let comm = at.slice(128, 16)?;
    Some(Identity {
        start: at.u64(0)?,
        parent_start: at.u64(8)?,
        pid: at.u32(16)?,
        tid: at.u32(20)?,
        parent: at.u32(24)?,
        group: at.u32(28)?,
        session: at.u32(32)?,
        uid: at.u32(36)?,
        gid: at.u32(40)?,
        euid: at.u32(44)?,
        egid: at.u32(48)?,
        suid: at.u32(52)?,
        fsuid: at.u32(56)?,
        login_uid: some(at.u32(60)?),
        login_session: some(at.u32(64)?),
        namespaces: Namespaces { mnt: at.u32(68)?, pid: at.u32(72)?, net: at.u32(76)?, user: at.u32(80)? },
        exe_device: device(at.u32(84)?),
        exe_inode: at.u64(88)?,
        exe_links: at.u32(156)?,
        effective: at.u64(96)?,
        permitted: at.u64(104)?,
        cgroup: Some(at.u64(120)?).filter(|id| *id != 0).or(at.u64(112))?,
        cgroup_v2: at.u64(112)?,
        maker: at.u32(152)?,
        maker_start: at.u64(144)?,
        name: comm.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
    })
}

/// The kernel has the minor number in the lower 20 bits; stat(2) writes it otherwise.
fn device(number: u32) -> (u32, u32) {
    (number >> 20, number & 0xf_ffff)
}

fn exec(at: Bytes<'_>) -> Option<Exec> {
    let lengths = LENGTHS.map(|place| at.u32(place).map(|bytes| bytes as usize));
    let mut from = EXEC_DATA;
    let mut texts = [&[][..]; 5];
    for (text, bytes) in texts.iter_mut().zip(lengths) {
        let bytes = bytes?;
        *text = at.slice(from, bytes)?;
        from += bytes;
    }
    let [filename, path, cwd, arguments, environment] = texts;
    let cut = at.u32(348)?;
    let who = identity(at, HEAD)?;
    let mut descriptors = [Descriptor::default(); DESCRIPTORS.len()];
    for (place, file) in descriptors.iter_mut().enumerate() {
        *file = Descriptor {
            mode: at.u32(248 + 4 * place)?,
            family: at.u32(268 + 4 * place)?,
            inode: at.u64(288 + 8 * place)?,
        };
    }
    let argument_bytes = at.u32(228)?;
    Some(Exec {
        time: at.u64(8)?,
        account: account(at)?,
        file: File {
            device: who.exe_device,
            inode: who.exe_inode,
            size: at.u64(184)?,
            changed: i64::from_ne_bytes(at.array(192)?),
            filesystem: at.u64(200)?,
            mode: at.u32(208)?,
            owner: at.u32(212)?,
            links: at.u32(216)?,
            generation: at.u32(220)?,
        },
        who,
        argument_count: at.u32(224)?,
        argument_bytes,
        old_tid: at.u32(236)?,
        secure: at.u32(240)? != 0,
        by_descriptor: at.u32(244)? != 0,
        descriptors,
        filename: filename.split(|byte| *byte == 0).next().unwrap_or_default().to_vec(),
        path: joined(path, cut & 1 != 0),
        cwd: joined(cwd, cut & 2 != 0),
        arguments: arguments_of(arguments, argument_bytes as usize),
        environment: watched(environment),
        environment_cut: (at.u32(232)? as usize) > environment.len(),
        claimed: false,
    })
}

/// Names, the last one first and each with a NUL, as a path. `…` stands for a beginning that was not reached.
fn joined(names: &[u8], cut: bool) -> Vec<u8> {
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    if names.is_empty() {
        return if cut { "…".into() } else { b"/".to_vec() };
    }
    let mut path = if cut { "…".as_bytes().to_vec() } else { Vec::new() };
    let mut parts: Vec<&[u8]> = names.split(|byte| *byte == 0).collect();
    parts.reverse();
    // What never had a place among the files has a name alone.
    if parts.len() == 1 && parts[0].starts_with(b"memfd:") {
        return parts[0].to_vec();
    }
    for part in parts {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    path
}

/// The arguments without the NUL that ends the last one; one that is cut has none.
fn arguments_of(bytes: &[u8], whole: usize) -> Listed {
    let bytes = if bytes.len() == whole { bytes.strip_suffix(b"\0").unwrap_or(bytes) } else { bytes };
    Listed::from_bytes(bytes.to_vec())
}

fn watched(environment: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in environment.split(|byte| *byte == 0) {
        let Some(equals) = entry.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (&entry[..equals], &entry[equals + 1..]);
        let same = found.iter().filter(|(known, _): &&(Vec<u8>, Vec<u8>)| known == name).count();
        // A name can be there twice, and many of one must not hide another.
        if WATCHED_ENVIRONMENT.contains(&name) && same < 2 {
            found.push((name.to_vec(), value[..value.len().min(LONGEST_VALUE)].to_vec()));
        }
    }
    found
}

fn exit(at: Bytes<'_>) -> Option<Exit> {
    Some(Exit {
        time: at.u64(8)?,
        start: at.u64(24)?,
        account: account(at)?,
        pid: at.u32(32)?,
        uid: at.u32(36)?,
        euid: at.u32(40)?,
        status: ExitStatus(at.u32(44)?),
        user_ns: at.u64(48)?,
        system_ns: at.u64(56)?,
        resident_pages: at.u64(64)?,
    })
}

fn net(at: Bytes<'_>) -> Option<Net> {
    let family = at.u16(36)?;
    let (old, new) = (at.u16(38)?, at.u16(40)?);
    Some(Net {
        time: at.u64(8)?,
        who: match at.array::<1>(46)? {
            [0] => None,
            _ => Some(identity(at, NET_WHO)?),
        },
        account: account(at)?,
        socket: at.u64(24)?,
        net_namespace: at.u32(32)?,
        state: NetState::of(old, new)?,
        local: address(family, at.array(48)?),
        local_port: at.u16(42)?,
        remote: address(family, at.array(64)?),
        remote_port: at.u16(44)?,
    })
}

/// An IPv4 address within an IPv6 socket is an IPv4 address.
fn address(family: u16, bytes: [u8; 16]) -> std::net::IpAddr {
    const INET6: u16 = 10;
    if family == INET6 {
        std::net::Ipv6Addr::from(bytes).to_canonical()
    } else {
        std::net::IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exec_bytes(texts: [&[u8]; 5], argument_bytes: u32) -> Vec<u8> {
        let mut bytes = vec![0; EXEC_DATA];
        bytes[0] = 1;
        bytes[228..232].copy_from_slice(&argument_bytes.to_ne_bytes());
        for (place, text) in LENGTHS.into_iter().zip(texts) {
            bytes[place..place + 4].copy_from_slice(&(text.len() as u32).to_ne_bytes());
            bytes.extend_from_slice(text);
        }
        bytes
    }

    fn parsed(texts: [&[u8]; 5], argument_bytes: u32) -> Exec {
        match parse(&exec_bytes(texts, argument_bytes)) {
            Some(Event::Exec(exec)) => *exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_become_a_path_and_empty_arguments_stay() {
        let exec = parsed([b"./x\0", b"x\0tmp\0", b"", b"x\0\0a b\0\0", b"A=1\0LD_PRELOAD=/tmp/e.so\0"], 8);

        assert_eq!(exec.filename, b"./x");
        assert_eq!(exec.path, b"/tmp/x");
        assert_eq!(exec.cwd, b"/");
        let arguments: Vec<&[u8]> = exec.arguments.iter().collect();
        assert_eq!(arguments, [&b"x"[..], b"", b"a b", b""]);
        assert_eq!(exec.environment, [(b"LD_PRELOAD".to_vec(), b"/tmp/e.so".to_vec())]);
        assert!(!exec.arguments_cut());
    }

    #[test]
    fn arguments_that_are_cut_are_marked_and_of_their_true_length() {
        let exec = parsed([b"x\0", b"memfd:x\0", b"a\0", b"x\0yyy", b""], 1_080_019);

        assert!(exec.arguments_cut());
        assert_eq!(exec.argument_bytes, 1_080_019);
        assert_eq!(exec.path, b"memfd:x");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail(kind in 0u8..6, mut bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            for byte in bytes.iter_mut().skip(1).take(3) {
                *byte = 0;
            }
            let _ = parse(&bytes);
        }
    }
}
