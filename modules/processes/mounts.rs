//! Which mount a file was found through, from `/proc/PID/mountinfo`, proc_pid_mountinfo(5). Each mount namespace is read
//! once.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use vigie_host::shown;

use crate::procfs;

/// Most bytes of a list of mounts.
const MAX_BYTES: usize = 64 << 20;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: String,
    /// What kind of file system it has.
    pub kind: String,
}

/// The mounts of namespaces, by the namespace's number and their own.
#[derive(Debug, Default)]
pub struct Mounts(HashMap<u64, HashMap<u64, Mount>>);

impl Mounts {
    /// Reads the mounts of a process's namespace when they are not known yet.
    pub fn learn(&mut self, namespace: u64, directory: &OwnedFd) {
        self.0.entry(namespace).or_insert_with(|| {
            let mut content = Vec::new();
            match procfs::read(directory, "mountinfo", MAX_BYTES, &mut content) {
                Ok(_) => content.split(|byte| *byte == b'\n').filter_map(parse).collect(),
                Err(_) => HashMap::new(),
            }
        });
    }

    /// A mount of a namespace.
    #[must_use]
    pub fn get(&self, namespace: u64, number: u64) -> Option<&Mount> {
        self.0.get(&namespace)?.get(&number)
    }
}

/// Number, mount point and kind of a line.
fn parse(line: &[u8]) -> Option<(u64, Mount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let point = unescaped(fields.nth(3)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some((number, Mount { point: shown(&point), kind: shown(kind) }))
}

/// Blanks and backslashes are written in octal: `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_a_place_and_a_kind() {
        let line = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue";

        let mount = Mount { point: "/mnt two".to_owned(), kind: "ext3".to_owned() };
        assert_eq!(parse(line), Some((36, mount)));
        assert_eq!(parse(b"36 35 98:0 /mnt1"), None);
    }
}
