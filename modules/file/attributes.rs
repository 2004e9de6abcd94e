//! What is asked of an object beside its name, content and size: whose it is, what it may do, which kind it is.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use vigie_host::users::Names;

/// Most bytes of the names of an object's extended attributes; the kernel's own limit (`XATTR_LIST_MAX`).
const LIST_BYTES: usize = 64 * 1024;

/// The extended attribute that holds a file's capabilities.
const CAPABILITY: &CStr = c"security.capability";

/// The kinds of objects, as an investigator names them.
pub const KINDS: [(&str, FileType); 7] = [
    ("file", FileType::RegularFile),
    ("directory", FileType::Directory),
    ("link", FileType::Symlink),
    ("socket", FileType::Socket),
    ("fifo", FileType::Fifo),
    ("block", FileType::BlockDevice),
    ("character", FileType::CharacterDevice),
];

/// The name of a kind.
#[must_use]
pub fn kind_name(kind: FileType) -> &'static str {
    KINDS.iter().find(|(_, known)| *known == kind).map_or("unknown", |(name, _)| name)
}

/// Who is wanted as owner or group: a name or a number; `none` is one that has no name on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    negated: bool,
    wanted: String,
}

impl Owner {
    /// Reads a name, a number or `none`; a leading `!` negates.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (negated, wanted) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        match wanted.is_empty() || wanted.contains([':', '\n']) {
            true => Err(format!("{text:?} is neither a name, nor a number, nor none")),
            false => Ok(Self { negated, wanted: wanted.to_owned() }),
        }
    }

    /// Who is named, without the negation.
    pub(crate) fn wanted(&self) -> &str {
        &self.wanted
    }

    /// The name, when this host does not know whose it is.
    pub(crate) fn unknown(&self, names: &Names, number: fn(&Names, &str) -> Option<u32>) -> Option<&str> {
        let is_known = self.wanted == "none" || number(names, &self.wanted).is_some();
        (!is_known).then_some(self.wanted.as_str())
    }

    /// Whether an object of this number, which may have a name, is wanted.
    #[must_use]
    pub fn accepts(&self, number: u32, name: Option<&str>) -> bool {
        let is_wanted = match self.wanted.as_str() {
            "none" => name.is_none(),
            wanted => name == Some(wanted) || wanted.parse() == Ok(number),
        };
        is_wanted != self.negated
    }
}

/// Names and values of extended attributes of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extended {
    /// All names.
    pub names: Vec<String>,
    /// The capabilities as `getcap` writes them, such as `cap_net_raw=ep`; empty without.
    pub capabilities: String,
}

impl Extended {
    /// Reads those of an object in a directory, never through a link.
    ///
    /// # Errors
    /// When the object cannot be looked at. A file system without extended attributes has none.
    pub fn read(directory: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let object: OwnedFd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&object.as_fd()));
        let mut list = vec![0; LIST_BYTES];
        let length = match rustix::fs::listxattr(path.as_str(), &mut list) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP | Errno::NOENT) => 0,
            Err(error) => return Err(error),
        };
        let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let names = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let mut value = [0; 64];
        let capabilities = match rustix::fs::getxattr(path.as_str(), CAPABILITY, &mut value) {
            Ok(length) => capabilities(&value[..length]),
            Err(_) => String::new(),
        };
        Ok(Self { names, capabilities })
    }
}

/// Reads `struct vfs_cap_data` (linux/capability.h): what a program may do, and whether at once.
fn capabilities(value: &[u8]) -> String {
    let (words, _) = value.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let [magic, rest @ ..] = &words[..] else { return String::new() };
    let word = |at: usize| u64::from(rest.get(at).copied().unwrap_or(0));
    let permitted = word(0) | word(2) << 32;
    let inheritable = word(1) | word(3) << 32;
    let names = |bits: u64| {
        let numbers = (0..64).filter(move |number| bits & (1 << number) != 0);
        let name = |number: usize| {
            vigie_host::CAPABILITIES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned())
        };
        numbers.map(name).collect::<Vec<_>>().join(",")
    };
    let effective = if magic & 1 == 1 { "e" } else { "" };
    let mut parts = Vec::new();
    if permitted & inheritable != 0 {
        parts.push(format!("{}={effective}ip", names(permitted & inheritable)));
    }
    if permitted & !inheritable != 0 {
        parts.push(format!("{}={effective}p", names(permitted & !inheritable)));
    }
    if inheritable & !permitted != 0 {
        parts.push(format!("{}={effective}i", names(inheritable & !permitted)));
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_name_a_number_or_none() {
        let accepts = |text: &str, number, name| Owner::parse(text).unwrap().accepts(number, name);

        assert!(
            accepts("root", 0, Some("root")) && accepts("0", 0, Some("root")) && !accepts("root", 1, None)
        );
        assert!(accepts("none", 4711, None) && !accepts("none", 0, Some("root")));
        assert!(accepts("!root", 1, Some("daemon")) && !accepts("!root", 0, Some("root")));
        assert!(Owner::parse("").is_err() && Owner::parse("!").is_err() && Owner::parse("a:b").is_err());
    }

    #[test]
    fn capabilities_read_as_getcap_writes_them() {
        let value = |magic: u32, words: [u32; 4]| {
            let words = std::iter::once(magic).chain(words);
            words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        };
        assert_eq!(capabilities(&value(0x0200_0001, [1 << 13, 0, 0, 0])), "cap_net_raw=ep");
        assert_eq!(capabilities(&value(0x0200_0000, [1 << 21, 0, 1 << 7, 0])), "cap_sys_admin,cap_bpf=p");
        assert_eq!(capabilities(&value(0x0200_0000, [1, 1, 0, 1 << 31])), "cap_chown=ip 63=i");
        assert_eq!(capabilities(b""), "");
        assert_eq!(capabilities(b"abc"), "");
    }
}
