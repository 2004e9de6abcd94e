//! Names of users and groups from the local files. A directory service can be slow, or be what is investigated, so
//! none is asked.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most of a file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The names in `/etc/passwd` and `/etc/group`. The first name of a number counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    user_numbers: HashMap<String, u32>,
    group_numbers: HashMap<String, u32>,
}

impl Names {
    /// Those of a root directory; a file that cannot be read names nobody.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        Self::from_texts(&read(&root.join("etc/passwd")), &read(&root.join("etc/group")))
    }

    /// Those of files in the form of passwd(5) and group(5).
    #[must_use]
    pub fn from_texts(passwd: &str, group: &str) -> Self {
        let ((users, user_numbers), (groups, group_numbers)) = (parse(passwd), parse(group));
        Self { users, groups, user_numbers, group_numbers }
    }

    /// The name of a user.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.users.get(&uid).map(String::as_str)
    }

    /// The name of a group.
    #[must_use]
    pub fn group(&self, gid: u32) -> Option<&str> {
        self.groups.get(&gid).map(String::as_str)
    }

    /// The number of a user that is given by name or number.
    #[must_use]
    pub fn uid(&self, user: &str) -> Option<u32> {
        self.user_numbers.get(user).copied().or_else(|| user.parse().ok())
    }

    /// The number of a user who is asked for. Of one whom this host does not know it is one that nobody has, and the
    /// name is added to `unknown`: a question is for many hosts, and on each it must have an answer. `None` is no name
    /// at all.
    #[must_use]
    pub fn asked_uid(&self, user: &str, unknown: &mut Vec<String>) -> Option<u32> {
        self.uid(user).or_else(|| {
            can_be_name(user).then(|| {
                unknown.push(user.to_owned());
                u32::MAX
            })
        })
    }

    /// The number of a group that is given by name or number.
    #[must_use]
    pub fn gid(&self, group: &str) -> Option<u32> {
        self.group_numbers.get(group).copied().or_else(|| group.parse().ok())
    }
}

/// Why it is not known what belongs to somebody whom this host does not know.
pub const UNKNOWN_NAME: &str =
    "this host has no such account: it may be misspelled, or only a directory service such as LDAP has it";

/// Whether a text that is no number of an account can be the name of one.
#[must_use]
pub fn can_be_name(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    !is_number && !text.contains([':', '/', '\n']) && !text.starts_with(['-', '!'])
}

/// The number of a user or group as the C library reads it from passwd(5) or group(5), with strtoul(3): blanks, a sign,
/// leading zeros; 2^32 wraps around to 0.
#[must_use]
pub fn account_number(text: &str) -> Option<u32> {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = digits.parse::<u64>().ok()?;
    let value = if negative { value.wrapping_neg() } else { value };
    // The type of a uid has 32 bits; what is above them is lost.
    u32::try_from(value & u64::from(u32::MAX)).ok()
}

/// A line of passwd(5), group(5), shadow(5) or gshadow(5) as the C library sees it: without blanks before it, and
/// without what stands behind a NUL. `None` when nothing is left, or a comment.
#[must_use]
pub fn account_line(line: &[u8]) -> Option<&[u8]> {
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    // isspace(3) has the vertical tab among them.
    let blanks = line.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let line = &line[blanks..];
    (!line.is_empty() && !line.starts_with(b"#")).then_some(line)
}

/// The fields of a line of passwd(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswdFields<'a> {
    /// The account.
    pub name: &'a str,
    /// The password, or `x`.
    pub password: &'a str,
    /// The uid as it is written.
    pub uid_text: &'a str,
    /// The uid.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The real name and more.
    pub gecos: &'a str,
    /// The home.
    pub directory: &'a str,
    /// Empty means `/bin/sh`.
    pub shell: &'a str,
    /// It has 7 fields, as it should. glibc logs in an account of four as well, and takes the eighth for a part of the
    /// shell; musl passes over lines with fewer.
    pub is_regular: bool,
}

/// Reads a line of passwd(5) as the C library does.
///
/// # Errors
/// Why no library takes it for an account.
pub fn passwd_fields(line: &str) -> Result<PasswdFields<'_>, &'static str> {
    let mut fields = line.splitn(7, ':');
    let mut next = || fields.next();
    let (Some(name), Some(password), Some(uid_text), Some(gid)) = (next(), next(), next(), next()) else {
        return Err("an account must have 7 fields");
    };
    if name.is_empty() {
        return Err("the account has no name");
    }
    let (gecos, directory, shell) = (next(), next(), next());
    Ok(PasswdFields {
        name,
        password,
        uid_text,
        uid: account_number(uid_text).ok_or("the UID is not a number")?,
        gid: account_number(gid).ok_or("the GID is not a number")?,
        gecos: gecos.unwrap_or_default(),
        directory: directory.unwrap_or_default(),
        shell: shell.unwrap_or_default(),
        is_regular: shell.is_some_and(|shell| !shell.contains(':')),
    })
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Lines of passwd(5) or group(5): the name first, the number third.
fn parse(text: &str) -> (HashMap<u32, String>, HashMap<String, u32>) {
    let (mut names, mut numbers) = (HashMap::new(), HashMap::new());
    for line in text.lines() {
        let line =
            account_line(line.as_bytes()).and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
        let mut fields = line.split(':');
        if let (Some(name), Some(number)) = (fields.next().filter(|name| !name.is_empty()), fields.nth(1))
            && let Some(number) = account_number(number)
        {
            names.entry(number).or_insert_with(|| name.to_owned());
            numbers.entry(name.to_owned()).or_insert(number);
        }
    }
    (names, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_passwd_is_an_account_where_the_c_library_takes_it_for_one() {
        let read = |line: &[u8]| {
            let line = account_line(line)?;
            let fields = passwd_fields(std::str::from_utf8(line).unwrap()).ok()?;
            Some((fields.name.to_owned(), fields.uid, fields.shell.to_owned(), fields.is_regular))
        };
        let account =
            |name: &str, shell: &str, regular| Some((name.to_owned(), 0, shell.to_owned(), regular));

        assert_eq!(read(b"a:x:0:0::/:/bin/sh"), account("a", "/bin/sh", true));
        assert_eq!(read(b"a::0:0"), account("a", "", false));
        assert_eq!(read(b"a::0:0:"), account("a", "", false));
        assert_eq!(read(b" \t\x0ba:x:0:0::/:/bin/sh"), account("a", "/bin/sh", true));
        assert_eq!(read(b"a:x:0:0::/:/bin/sh:more"), account("a", "/bin/sh:more", false));
        assert_eq!(read(b"a:x:0:0::\0:/bin/sh"), account("a", "", false));
        for line in [&b"a:x:0"[..], b":x:0:0:::", b" # a:x:0:0:::", b"a:x:0x0:0:::", b"\0\0", b""] {
            assert_eq!(read(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_first_name_of_a_number_counts() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/bash\nbroken\n\n:x:7\nann:x:x:1\ntoor:x:0:0::/:/bin/sh\nann:x:1000:1000::/:\n";
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();

        let names = Names::of(directory.path());

        assert_eq!((names.user(0), names.user(1000), names.user(7)), (Some("root"), Some("ann"), None));
        assert_eq!(
            (names.uid("toor"), names.uid("1000"), names.uid("nobody"), names.group(0)),
            (Some(0), Some(1000), None, None)
        );
    }
}
