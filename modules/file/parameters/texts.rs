//! The texts of single filters: digests, sizes, ages, paths.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use vigie_host::users::can_be_name;

use super::Test;
use crate::attributes::Owner;
use crate::digest::{Algorithm, from_hexadecimal};
use crate::filter::{Age, SizeRange};
use crate::pattern::{LinePattern, Pattern};

/// A digest whose length says which one it is; `sha3:` in front tells those of SHA-3 from those of SHA-2.
pub(super) fn parse_digest(text: &str) -> Option<(Algorithm, Box<[u8]>)> {
    let (is_sha3, digits) = match text.split_once(':') {
        Some((name, digits)) if name.eq_ignore_ascii_case("sha3") => (true, digits),
        Some(_) => return None,
        None => (false, text),
    };
    let digest = from_hexadecimal(digits)?;
    let algorithm = match (is_sha3, digest.len()) {
        (false, 16) => Algorithm::Md5,
        (false, 20) => Algorithm::Sha1,
        (false, 32) => Algorithm::Sha256,
        (false, 48) => Algorithm::Sha384,
        (false, 64) => Algorithm::Sha512,
        (true, 28) => Algorithm::Sha3_224,
        (true, 32) => Algorithm::Sha3_256,
        (true, 48) => Algorithm::Sha3_384,
        (true, 64) => Algorithm::Sha3_512,
        _ => return None,
    };
    Some((algorithm, digest))
}

/// A user or group, perhaps of other hosts only.
fn owner(text: &str, what: &str) -> Result<Owner, String> {
    let owner = Owner::parse(text)?;
    let wanted = owner.wanted();
    if wanted.parse::<u32>().is_err() && !can_be_name(wanted) {
        return Err(format!("{wanted:?} is neither the name of a {what} nor a {what} ID"));
    }
    Ok(owner)
}

/// A number without a fraction that fits.
pub(super) fn whole(number: f64) -> Option<u32> {
    let fits = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was just checked")]
    fits.then_some(number as u32)
}

pub(super) fn test(field: &str, text: &str, now: i128) -> Result<Test, String> {
    let digest = |sizes: &[(usize, Algorithm)]| {
        let found = from_hexadecimal(text).and_then(|digest| {
            let (_, algorithm) = sizes.iter().find(|(bytes, _)| *bytes == digest.len())?;
            Some(Test::Digest(*algorithm, digest))
        });
        found.ok_or_else(|| {
            let digits: Vec<String> = sizes.iter().map(|(bytes, _)| (bytes * 2).to_string()).collect();
            format!(
                "{text:?} is not a digest of this kind: it must have {} hexadecimal digits",
                digits.join(", ")
            )
        })
    };
    match field {
        "names" => Pattern::parse(text).map(Test::Name).map_err(|error| error.to_string()),
        "sizes" => SizeRange::parse(text).map(Test::Size).map_err(|error| error.to_string()),
        "modes" => Pattern::parse(text).map(Test::Mode).map_err(|error| error.to_string()),
        "mtimes" => Age::parse(text, now).map(Test::Modified).map_err(|error| error.to_string()),
        "ctimes" => Age::parse(text, now).map(Test::Changed).map_err(|error| error.to_string()),
        "btimes" => Age::parse(text, now).map(Test::Created).map_err(|error| error.to_string()),
        "owners" => owner(text, "user").map(Test::Owner),
        "groups" => owner(text, "group").map(Test::Group),
        "inodes" => SizeRange::parse(text).map(Test::Inode).map_err(|error| error.to_string()),
        "links" => SizeRange::parse(text).map(Test::Links).map_err(|error| error.to_string()),
        "capabilities" => Pattern::parse(text).map(Test::Capabilities).map_err(|error| error.to_string()),
        "xattrs" => Pattern::parse(text).map(Test::Attribute).map_err(|error| error.to_string()),
        "contents" => LinePattern::parse(text).map(Test::Content).map_err(|error| error.to_string()),
        "md5" => digest(&[(16, Algorithm::Md5)]),
        "sha1" => digest(&[(20, Algorithm::Sha1)]),
        "sha2" => digest(&[(32, Algorithm::Sha256), (48, Algorithm::Sha384), (64, Algorithm::Sha512)]),
        _ => digest(&[
            (28, Algorithm::Sha3_224),
            (32, Algorithm::Sha3_256),
            (48, Algorithm::Sha3_384),
            (64, Algorithm::Sha3_512),
        ]),
    }
}

/// The bytes of a path in which `\xNN` stands for a byte, as results and alerts show what is not UTF-8.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let escape =
            (*first == b'\\' && after.first() == Some(&b'x')).then(|| Some(digit(1)? * 16 + digit(2)?));
        match escape.flatten().and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// An absolute path without `.`, `..` and doubled slashes, by its text alone as MIG cleans it; `None` for others.
pub(super) fn clean(text: &str) -> Option<PathBuf> {
    let bytes = unescaped(text);
    if !bytes.starts_with(b"/") || bytes.contains(&0) {
        return None;
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(&bytes)).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            other => path.push(other),
        }
    }
    Some(path)
}
