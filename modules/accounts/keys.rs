//! Lines of authorized_keys, and where sshd looks for them.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Most bytes of a comment that are told: sshd reads lines of any length.
const MAX_COMMENT: usize = 1024;

/// What stands at the end of the names of certificates.
const CERTIFICATE: &str = "-cert-v01@openssh.com";

/// A field of a key.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// Whatever it is.
    Any,
    /// So many bytes.
    Bytes(usize),
    /// A number of at least so many bits that is not negative.
    Number(usize),
    /// The name of a curve.
    Curve(&'static str),
}

/// Types of keys that OpenSSH knows, or knew: their names, the first of which is in fingerprints, what it calls them in
/// short, and their fields.
const TYPES: [(&[&str], &str, &[Field]); 9] = [
    (&["ssh-ed25519"], "ED25519", &[Field::Bytes(32)]),
    (&["ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"], "RSA", &[Field::Number(1), Field::Number(1024)]),
    (&["ssh-dss"], "DSA", &[Field::Number(1), Field::Number(1), Field::Number(1), Field::Number(1)]),
    (&["ecdsa-sha2-nistp256"], "ECDSA", &[Field::Curve("nistp256"), Field::Bytes(65)]),
    (&["ecdsa-sha2-nistp384"], "ECDSA", &[Field::Curve("nistp384"), Field::Bytes(97)]),
    (&["ecdsa-sha2-nistp521"], "ECDSA", &[Field::Curve("nistp521"), Field::Bytes(133)]),
    (&["sk-ssh-ed25519@openssh.com"], "ED25519-SK", &[Field::Bytes(32), Field::Any]),
    (
        &["sk-ecdsa-sha2-nistp256@openssh.com", "webauthn-sk-ecdsa-sha2-nistp256@openssh.com"],
        "ECDSA-SK",
        &[Field::Curve("nistp256"), Field::Bytes(65), Field::Any],
    ),
    (&["ssh-xmss@openssh.com"], "XMSS", &[Field::Any, Field::Any]),
];

/// A type of keys.
#[derive(Clone, Copy)]
struct Type {
    /// Its place in the list.
    place: usize,
    /// It is a key with who signed it.
    is_certificate: bool,
}

impl Type {
    /// The type with a name, as a line has it.
    fn named(name: &str) -> Option<Self> {
        let plain = name.strip_suffix(CERTIFICATE);
        let is_it = |known: &&str| match plain {
            Some(plain) => known.strip_suffix("@openssh.com").unwrap_or(known) == plain,
            None => *known == name,
        };
        let place = TYPES.iter().position(|(names, ..)| names.iter().any(is_it))?;
        Some(Self { place, is_certificate: plain.is_some() })
    }

    /// Whether a key says that it is of this type.
    fn is(self, own: &str) -> bool {
        let is_short = !self.is_certificate && TYPES[self.place].1.eq_ignore_ascii_case(own);
        is_short
            || Self::named(own)
                .is_some_and(|own| own.place == self.place && own.is_certificate == self.is_certificate)
    }

    /// The name that OpenSSH writes.
    fn name(self) -> String {
        let name = TYPES[self.place].0[0];
        if !self.is_certificate {
            return name.to_owned();
        }
        format!("{}{CERTIFICATE}", name.strip_suffix("@openssh.com").unwrap_or(name))
    }

    /// The key alone, without what a certificate says of it, which is what its fingerprint is made of. `None` when it
    /// is none of this type. Whether a point is on its curve is not examined.
    fn key(self, blob: &[u8]) -> Option<Vec<u8>> {
        let (names, _, fields) = TYPES[self.place];
        let mut rest = blob;
        self.is(std::str::from_utf8(field(&mut rest)?).ok()?).then_some(())?;
        if self.is_certificate {
            field(&mut rest)?;
        }
        let mut key = Vec::new();
        let mut push = |bytes: &[u8]| -> Option<()> {
            key.extend_from_slice(&u32::try_from(bytes.len()).ok()?.to_be_bytes());
            key.extend_from_slice(bytes);
            Some(())
        };
        push(names[0].as_bytes())?;
        for kind in fields {
            let value = field(&mut rest)?;
            let fits = match kind {
                Field::Any => true,
                Field::Bytes(length) => value.len() == *length,
                Field::Curve(name) => value == name.as_bytes(),
                Field::Number(bits) => is_number(value, *bits),
            };
            fits.then_some(())?;
            push(value)?;
        }
        (self.is_certificate || rest.is_empty()).then_some(key)
    }
}

/// The next field, with its length before it.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (value, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = after;
    Some(value)
}

fn is_number(value: &[u8], bits: usize) -> bool {
    let is_negative = value.first().is_some_and(|first| *first >= 0x80);
    let significant = value.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &value[at..]);
    let unused = significant.first().map_or(0, |first| first.leading_zeros() as usize);
    !is_negative && significant.len() * 8 - unused >= bits
}

/// Options of sshd(8), without values.
const OPTIONS: [&str; 24] = [
    "agent-forwarding",
    "cert-authority",
    "command",
    "environment",
    "expiry-time",
    "from",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-pty",
    "no-user-rc",
    "no-x11-forwarding",
    "permitlisten",
    "permitopen",
    "port-forwarding",
    "principals",
    "pty",
    "no-touch-required",
    "verify-required",
    "restrict",
    "tunnel",
    "user-rc",
    "x11-forwarding",
    "no-require-user-presence",
    "touch-required",
];

/// A key that may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// From 1 on.
    pub line: u32,
    /// `ssh-ed25519` and so on.
    pub algorithm: String,
    /// As `ssh-keygen -l` shows it: `SHA256:` and base64; of a certificate, that of its key.
    pub fingerprint: String,
    /// What stands after the key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// What stands before it, each with its value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Not a key of a user but of who signs users' keys.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cert_authority: bool,
    /// Why sshd does not take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored: Option<&'static str>,
}

/// The keys of a file: those that sshd reads. With two blanks after the options it takes a line that `ssh-keygen -l`
/// does not show.
#[must_use]
pub fn parse(content: &[u8]) -> Vec<Key> {
    parse_all(content).0
}

/// The keys of a file, and the lines that hold none and are no comments.
pub(crate) fn parse_all(content: &[u8]) -> (Vec<Key>, Vec<u32>) {
    let (mut keys, mut wrong) = (Vec::new(), Vec::new());
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
        // What stands after a NUL is not seen by sshd.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end_matches('\r').trim_start_matches([' ', '\t']);
        if !line.is_empty() && !line.starts_with('#') {
            match key(number, line) {
                Some(key) => keys.push(key),
                None => wrong.push(number),
            }
        }
    }
    (keys, wrong)
}

fn key(line: u32, text: &str) -> Option<Key> {
    // A line without options begins with the type.
    let (options, rest) = match plain(text) {
        Some(found) => ("", found),
        None => {
            let end = options_end(text)?;
            (&text[..end], plain(text[end..].trim_start_matches([' ', '\t']))?)
        }
    };
    let (algorithm, key, comment) = rest;
    let options = split_options(options);
    let name = |option: &str| option.split('=').next().unwrap_or_default().to_ascii_lowercase();
    let cert_authority = options.iter().any(|option| name(option) == "cert-authority");
    let unknown = options.iter().any(|option| !OPTIONS.contains(&name(option).as_str()));
    Some(Key {
        line,
        algorithm,
        fingerprint: fingerprint(&key),
        comment: comment[..comment.floor_char_boundary(MAX_COMMENT)].to_owned(),
        options,
        cert_authority,
        ignored: unknown.then_some("it has an option unknown to sshd"),
    })
}

/// Type, key and comment, when the text begins with them and they belong together.
fn plain(text: &str) -> Option<(String, Vec<u8>, &str)> {
    let (name, rest) = text.split_once([' ', '\t'])?;
    let kind = Type::named(name)?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let (encoded, comment) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    let key = kind.key(&data_encoding::BASE64.decode(encoded.as_bytes()).ok()?)?;
    Some((kind.name(), key, comment.trim_start_matches([' ', '\t'])))
}

/// Where the options end: at the first blank outside quotes.
fn options_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if bytes.peek().is_some_and(|(_, next)| *next == b'"') => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            b' ' | b'\t' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Options at their commas outside quotes.
fn split_options(text: &str) -> Vec<String> {
    let mut options = Vec::new();
    let mut option = String::new();
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&'"') => {
                option.push('\\');
                option.extend(letters.next());
            }
            ',' if !quoted => options.push(std::mem::take(&mut option)),
            letter => {
                quoted ^= letter == '"';
                option.push(letter);
            }
        }
    }
    options.push(option);
    options.retain(|option| !option.is_empty());
    options
}

/// As OpenSSH writes it.
#[must_use]
pub fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", data_encoding::BASE64_NOPAD.encode(&Sha256::digest(blob)))
}

/// What sshd_config(5) says of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// Patterns of all `AuthorizedKeysFile`, of every `Match` block, in their order.
    pub files: Vec<String>,
    /// Sources that cannot be read as files: keyword and value.
    pub sources: Vec<(String, String)>,
    /// Patterns of further files.
    pub includes: Vec<String>,
}

/// Reads a configuration of sshd.
#[must_use]
pub fn places(content: &[u8]) -> Places {
    let mut places = Places::default();
    for line in String::from_utf8_lossy(content).lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (keyword, rest) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        let values = rest.trim_start_matches([' ', '\t', '=']);
        let words = values.split_whitespace().map(|word| word.trim_matches('"').to_owned());
        match keyword.to_ascii_lowercase().as_str() {
            "authorizedkeysfile" => places.files.extend(words.filter(|word| word != "none")),
            "include" => places.includes.extend(words),
            "authorizedkeyscommand"
            | "trustedusercakeys"
            | "authorizedprincipalsfile"
            | "authorizedprincipalscommand"
                if values != "none" =>
            {
                places.sources.push((keyword.to_owned(), values.to_owned()));
            }
            _ => {}
        }
    }
    places
}

/// The path that a pattern means for an account.
#[must_use]
pub fn key_file(pattern: &str, user: &str, uid: u32, home: &str) -> String {
    let mut path = String::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => match letters.next() {
                Some('h') => path.push_str(home),
                Some('u') => path.push_str(user),
                Some('U') => path.push_str(&uid.to_string()),
                Some(other) => path.push(other),
                None => {}
            },
            letter => path.push(letter),
        }
    }
    if path.starts_with('/') { path } else { format!("{}/{path}", home.trim_end_matches('/')) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn options_stand_before_the_type_and_quotes_hold_blanks() {
        let text = format!(
            "# no\n  ssh-ed25519 {BLOB} ann@x y\r\nno-pty,command=\"echo \\\"ssh-rsa {BLOB}\\\"\",from=\"a,b\" ssh-ed25519 {BLOB}\nfoo ssh-ed25519 {BLOB}\ncert-authority ssh-ed25519 {BLOB} ca\nssh-rsa {BLOB} wrong type\nssh-ed25519 AAAA\nno-pty, restrict ssh-ed25519 {BLOB}\n"
        );
        let keys = parse(text.as_bytes());

        let said: Vec<_> = keys
            .iter()
            .map(|key| {
                (key.line, key.comment.as_str(), key.options.len(), key.cert_authority, key.ignored.is_some())
            })
            .collect();
        assert_eq!(
            said,
            [
                (2, "ann@x y", 0, false, false),
                (3, "", 3, false, false),
                (4, "", 1, false, true),
                (5, "ca", 1, true, false)
            ]
        );
        assert!(keys[0].fingerprint.starts_with("SHA256:"));
    }

    #[test]
    fn a_configuration_says_where_keys_are() {
        let read = places(b"# AuthorizedKeysFile no\nauthorizedkeysfile=.ssh/a /etc/k/%u\nMatch User x\n AuthorizedKeysFile none\nAuthorizedKeysCommand /x %u\nTrustedUserCAKeys none\nInclude /etc/ssh/d/*.conf\n");

        assert_eq!(read.files, [".ssh/a", "/etc/k/%u"]);
        assert_eq!(read.sources, [("AuthorizedKeysCommand".to_owned(), "/x %u".to_owned())]);
        assert_eq!(read.includes, ["/etc/ssh/d/*.conf"]);
        assert_eq!(key_file("/etc/k/%u-%U%%", "ann", 7, "/h"), "/etc/k/ann-7%");
        assert_eq!(key_file(".ssh/a", "ann", 7, "/h/"), "/h/.ssh/a");
    }
}
