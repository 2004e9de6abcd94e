//! passwd(5), shadow(5), group(5), gshadow(5): lines to values. Nothing is looked up here.

use serde::Serialize;
use vigie_host::users::{account_line, account_number, passwd_fields};

/// Most lines of one file that are read.
const MAX_LINES: usize = 5_000_000;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwd {
    /// From 1 on.
    pub line: u32,
    /// The account.
    pub name: String,
    /// What the password field says.
    pub password: PasswordField,
    /// As strtoul(3) reads it.
    pub uid: u32,
    /// The uid is not written as a plain number.
    pub odd_uid: bool,
    /// The primary group.
    pub gid: u32,
    /// The real name and more.
    pub gecos: String,
    /// The home.
    pub directory: String,
    /// Empty means `/bin/sh`.
    pub shell: String,
    /// It has 7 fields; not every C library takes the others.
    pub is_regular: bool,
}

/// What the password field of `/etc/passwd` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordField {
    /// It is in `/etc/shadow`.
    Shadow,
    /// Something else, of which this is the state.
    Here(Password),
}

/// State of a password; never the password, its hash, its salt or its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// None is asked for.
    Empty,
    /// Nobody ever set one, or it was taken away.
    NotSet,
    /// There is one, and it is locked.
    Locked,
    /// There is one.
    Active,
    /// No password can have this hash.
    Impossible,
}

/// A password's state and how it is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Password {
    /// The state.
    pub status: Status,
    /// The name of the method of crypt(5).
    pub scheme: Option<&'static str>,
}

impl Password {
    /// What a password field says.
    #[must_use]
    pub fn of(field: &str) -> Self {
        let plain = |status| Self { status, scheme: None };
        if field.is_empty() {
            return plain(Status::Empty);
        }
        if let Some(rest) = field.strip_prefix('!') {
            let rest = rest.trim_start_matches('!');
            return match scheme(rest) {
                Some(scheme) => Self { status: Status::Locked, scheme: Some(scheme) },
                None => plain(Status::NotSet),
            };
        }
        if field.starts_with('*') || field == "x" {
            // useradd and debootstrap write `*`; what follows it can still be a hash that was locked by hand.
            return match scheme(field.trim_start_matches('*')) {
                Some(scheme) if field.len() > 1 => Self { status: Status::Locked, scheme: Some(scheme) },
                _ => plain(Status::NotSet),
            };
        }
        match scheme(field) {
            Some(scheme) => Self { status: Status::Active, scheme: Some(scheme) },
            None => plain(Status::Impossible),
        }
    }
}

/// The method of a hash, see crypt(5).
fn scheme(hash: &str) -> Option<&'static str> {
    if let Some(rest) = hash.strip_prefix('$') {
        let (id, rest) = rest.split_once('$')?;
        let name = match id {
            "y" => "yescrypt",
            "gy" => "gost-yescrypt",
            "7" => "scrypt",
            "6" => "sha512",
            "5" => "sha256",
            "2a" | "2b" | "2x" | "2y" => "bcrypt",
            "sha1" => "sha1",
            "md5" => "sun-md5",
            "3" => "nt",
            "1" => "md5",
            _ => return None,
        };
        return (!rest.is_empty()).then_some(name);
    }
    if hash.starts_with("$md5") {
        return Some("sun-md5");
    }
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    match hash.len() {
        13 if hash.bytes().all(is_letter) => Some("des"),
        20 if hash.starts_with('_') && hash.bytes().skip(1).all(is_letter) => Some("bsdi-des"),
        _ => None,
    }
}

/// A line of `/etc/shadow`. Days are counted from 1970 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow {
    /// From 1 on.
    pub line: u32,
    /// The account.
    pub name: String,
    /// Its state.
    pub password: Password,
    /// The day of the last change; 0 wants a new one at the next login.
    pub last_change: Option<i64>,
    /// Days until it may be changed again.
    pub minimum: Option<i64>,
    /// Days until it must be changed.
    pub maximum: Option<i64>,
    /// Days of warning before that.
    pub warning: Option<i64>,
    /// Days after that until the account is closed.
    pub inactive: Option<i64>,
    /// The day from which on the account is closed.
    pub expire: Option<i64>,
}

/// A line of `/etc/group`, or of `/etc/gshadow` with `gid` left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// From 1 on.
    pub line: u32,
    /// The group.
    pub name: String,
    /// The state of its password.
    pub password: Password,
    /// Its number.
    pub gid: u32,
    /// Who may change it; of `/etc/gshadow`.
    pub admins: Vec<String>,
    /// Those that do not have it as their primary group.
    pub members: Vec<String>,
}

/// What a file holds, with the lines that make no sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines<T> {
    /// What was understood.
    pub read: Vec<T>,
    /// Number and reason of the others.
    pub wrong: Vec<(u32, &'static str)>,
}

fn lines<T>(content: &[u8], read: impl Fn(u32, &str) -> Result<T, &'static str>) -> Lines<T> {
    let mut all = Lines { read: Vec::new(), wrong: Vec::new() };
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..).take(MAX_LINES) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut wrong =
            line.contains(&0).then_some("the line holds zeros, and what stands behind them is not read");
        if let Some(line) = account_line(line) {
            match read(number, &String::from_utf8_lossy(line)) {
                Ok(value) => all.read.push(value),
                Err(why) => wrong = wrong.or(Some(why)),
            }
        }
        all.wrong.extend(wrong.filter(|_| all.wrong.len() <= 1_000).map(|why| (number, why)));
    }
    all
}

/// Reads `/etc/passwd`.
#[must_use]
pub fn passwd(content: &[u8]) -> Lines<Passwd> {
    lines(content, |line, text| {
        if text.starts_with(['+', '-']) {
            return Err("accounts of another service are included here (compat)");
        }
        let fields = passwd_fields(text)?;
        Ok(Passwd {
            line,
            name: fields.name.to_owned(),
            password: if fields.password == "x" {
                PasswordField::Shadow
            } else {
                PasswordField::Here(Password::of(fields.password))
            },
            uid: fields.uid,
            odd_uid: fields.uid_text != fields.uid.to_string(),
            gid: fields.gid,
            gecos: fields.gecos.to_owned(),
            directory: fields.directory.to_owned(),
            shell: fields.shell.to_owned(),
            is_regular: fields.is_regular,
        })
    })
}

/// Reads `/etc/shadow`.
#[must_use]
pub fn shadow(content: &[u8]) -> Lines<Shadow> {
    lines(content, |line, text| {
        let fields: Vec<&str> = text.split(':').collect();
        let (Some(name), Some(password)) = (fields.first(), fields.get(1)) else {
            return Err("a line must have at least 2 fields");
        };
        let days = |place: usize| {
            fields.get(place).and_then(|text| text.trim().parse::<i64>().ok()).filter(|days| *days >= 0)
        };
        Ok(Shadow {
            line,
            name: (*name).to_owned(),
            password: Password::of(password),
            last_change: days(2),
            minimum: days(3),
            maximum: days(4),
            warning: days(5),
            inactive: days(6),
            expire: days(7),
        })
    })
}

/// Reads `/etc/group`.
#[must_use]
pub fn group(content: &[u8]) -> Lines<Group> {
    lines(content, |line, text| {
        // The C library does without the fourth, and takes what else there is for a part of it.
        let mut fields = text.splitn(4, ':');
        let (Some(name), Some(password), Some(gid)) = (fields.next(), fields.next(), fields.next()) else {
            return Err("a group must have 4 fields");
        };
        let members = fields.next().unwrap_or_default();
        Ok(Group {
            line,
            name: name.to_owned(),
            password: Password::of(password),
            gid: account_number(gid).ok_or("the GID is not a number")?,
            admins: Vec::new(),
            members: names(members),
        })
    })
}

/// Reads `/etc/gshadow`.
#[must_use]
pub fn gshadow(content: &[u8]) -> Lines<Group> {
    lines(content, |line, text| {
        let fields: Vec<&str> = text.split(':').collect();
        let [name, password, admins, members] = *fields.as_slice() else {
            return Err("a group must have 4 fields");
        };
        Ok(Group {
            line,
            name: name.to_owned(),
            password: Password::of(password),
            gid: 0,
            admins: names(admins),
            members: names(members),
        })
    })
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_has_a_state_and_a_method_and_never_more() {
        for (field, status, scheme) in [
            ("", Status::Empty, None),
            ("*", Status::NotSet, None),
            ("x", Status::NotSet, None),
            ("!", Status::NotSet, None),
            ("!!", Status::NotSet, None),
            ("!*", Status::NotSet, None),
            ("!$6$salt$hash", Status::Locked, Some("sha512")),
            ("*$6$salt$hash", Status::Locked, Some("sha512")),
            ("!!$y$j9T$a$b", Status::Locked, Some("yescrypt")),
            ("$y$j9T$a$b", Status::Active, Some("yescrypt")),
            ("$2b$12$abc", Status::Active, Some("bcrypt")),
            ("$1$a$b", Status::Active, Some("md5")),
            ("xyAbCdEfGhIjK", Status::Active, Some("des")),
            ("$9$a$b", Status::Impossible, None),
            ("secret", Status::Impossible, None),
        ] {
            assert_eq!(Password::of(field), Password { status, scheme }, "{field:?}");
        }
    }

    #[test]
    fn lines_that_make_no_sense_are_told_by_number() {
        let read =
            passwd(b"root:x:0:0::/root:/bin/sh\n\n# c\n+::::::\nann:x:x:1::/:/\nbob:x: 00:1::/:\nfew:x\n toor::0:0\n\0\0\0\n");

        assert_eq!(
            read.read
                .iter()
                .map(|account| (account.name.as_str(), account.uid, account.odd_uid))
                .collect::<Vec<_>>(),
            [("root", 0, false), ("bob", 0, true), ("toor", 0, false)]
        );
        assert_eq!(read.wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [4, 5, 7, 9]);
        assert_eq!(group(b" sudo:x:27\n").read[0].name, "sudo");
    }

    #[test]
    fn days_that_are_not_there_are_not_zero() {
        let read = shadow(b"a:*:0:0:99999:7:::\nb:*\n").read;

        assert_eq!((read[0].last_change, read[0].inactive, read[0].expire), (Some(0), None, None));
        assert_eq!(read[1].last_change, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b':'), Just(b'\n')], 0..200)) {
            let _ = passwd(&bytes);
            let _ = shadow(&bytes);
            let _ = group(&bytes);
            let _ = gshadow(&bytes);
        }
    }
}
