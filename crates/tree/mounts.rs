//! Mount points whose files are on another host, or made by a program: looking at one whose server is gone can
//! wait for ever, so the mount table is read first.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mount points below a root that are not entered.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    remote: HashSet<Vec<u8>>,
}

impl Mounts {
    /// Reads a mount table in the format of proc_pid_mountinfo(5), as seen from `root`.
    pub(crate) fn parse(mountinfo: &[u8], root: &Path) -> Self {
        let root = root.as_os_str().as_bytes();
        let root = root.strip_suffix(b"/").unwrap_or(root);
        let mut remote = HashSet::new();
        for line in mountinfo.split(|byte| *byte == b'\n') {
            let mut fields = line.split(|byte| *byte == b' ');
            let Some(point) = fields.nth(4) else { continue };
            let Some(kind) = fields.skip_while(|field| *field != b"-").nth(1) else { continue };
            let point = unescaped(point);
            if is_remote(kind)
                && let Some(below) = point.strip_prefix(root)
                && below.starts_with(b"/")
                && below.len() > 1
            {
                remote.insert(below.to_vec());
            }
        }
        Self { remote }
    }

    pub(crate) fn is_remote(&self, path: &[u8]) -> bool {
        !self.remote.is_empty() && self.remote.contains(path)
    }

    pub(crate) fn remote(&self) -> impl Iterator<Item = &[u8]> {
        self.remote.iter().map(Vec::as_slice)
    }
}

fn is_remote(kind: &[u8]) -> bool {
    const KINDS: [&[u8]; 18] = [
        b"nfs",
        b"nfs4",
        b"cifs",
        b"smb3",
        b"smbfs",
        b"ncpfs",
        b"afs",
        b"coda",
        b"ceph",
        b"9p",
        b"lustre",
        b"beegfs",
        b"gpfs",
        b"glusterfs",
        b"fuse",
        b"autofs",
        b"fuseblk",
        b"orangefs",
    ];
    KINDS.contains(&kind) || kind.starts_with(b"fuse.")
}

/// `\040` and the like stand for the bytes that would end a field.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                plain.push(u8::try_from(value & 0xff).unwrap_or(b'?'));
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_mounts_are_known_by_their_path_below_the_root() {
        let table = b"36 35 98:0 / /mnt/a\\040b/net rw - nfs4 host:/x rw\n37 35 0:1 / /mnt/a\\040b rw - ext4 /dev/x rw\n";

        let mounts = Mounts::parse(table, Path::new("/mnt/a b"));

        assert!(mounts.is_remote(b"/net"));
        assert!(!mounts.is_remote(b"/mnt"));
        assert_eq!(Mounts::parse(table, Path::new("/")).remote().next(), Some(&b"/mnt/a b/net"[..]));
    }
}
