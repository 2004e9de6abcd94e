//! Extended attributes in the words of the tools that people use: `getfacl -n`, `getcap -n`, `ls -Z`.
//!
//! Plain functions over the bytes that the kernel gives. What they cannot decode is an error, so that whoever asks
//! can show the bytes instead: nothing is guessed.

use std::fmt::Write;

use thiserror::Error;

/// Why the bytes of an extended attribute are not what its name promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// It is cut off, or something follows it.
    #[error("its {0} bytes are not a whole number of entries")]
    Length(usize),
    /// A version that is not known.
    #[error("its version {0:#x} is unknown")]
    Version(u32),
    /// A kind of ACL entry that is not known.
    #[error("it has an entry of unknown type {0:#x}")]
    Tag(u16),
    /// Permissions of an ACL entry other than read, write and execute.
    #[error("it has an entry with unknown permissions {0:#x}")]
    Permissions(u16),
    /// Flags of file capabilities that are not known.
    #[error("its flags {0:#x} are unknown")]
    Flags(u32),
    /// A label that is no text on one line, or a text of more than 4 KiB.
    #[error("it is not a single line of text")]
    Text,
}

/// `POSIX_ACL_XATTR_VERSION` of linux/posix_acl_xattr.h.
const ACL_VERSION: u32 = 2;

/// The entries of a POSIX ACL (`system.posix_acl_access`, `system.posix_acl_default`) as `getfacl -n` shows them:
/// `user::rw-`, `user:1000:r--`, `mask::r--`. The format is that of linux/posix_acl_xattr.h.
///
/// # Errors
/// When the bytes are no ACL of version 2.
pub fn acl(value: &[u8]) -> Result<Vec<String>, DecodeError> {
    let (version, entries) = value.split_first_chunk().ok_or(DecodeError::Length(value.len()))?;
    let version = u32::from_le_bytes(*version);
    if version != ACL_VERSION {
        return Err(DecodeError::Version(version));
    }
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(DecodeError::Length(value.len()));
    }
    entries.iter().map(acl_entry).collect()
}

fn acl_entry(entry: &[u8; 8]) -> Result<String, DecodeError> {
    let [tag, tag_high, permissions, permissions_high, id @ ..] = *entry;
    let tag = u16::from_le_bytes([tag, tag_high]);
    let permissions = u16::from_le_bytes([permissions, permissions_high]);
    // linux/posix_acl.h; only entries for one user or one group have an id.
    let (who, has_id) = match tag {
        0x01 => ("user", false),
        0x02 => ("user", true),
        0x04 => ("group", false),
        0x08 => ("group", true),
        0x10 => ("mask", false),
        0x20 => ("other", false),
        unknown => return Err(DecodeError::Tag(unknown)),
    };
    if permissions > 7 {
        return Err(DecodeError::Permissions(permissions));
    }
    let id = if has_id { u32::from_le_bytes(id).to_string() } else { String::new() };
    let letter = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
    Ok(format!("{who}:{id}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')))
}

/// `VFS_CAP_FLAGS_EFFECTIVE`: the capabilities are effective as soon as the program runs.
const FLAG_EFFECTIVE: u32 = 1;

/// The sets that a capability is in, as bits in the order in which cap_to_text(3) ranks them.
const EFFECTIVE: u8 = 1;
const PERMITTED: u8 = 2;
const INHERITABLE: u8 = 4;

/// File capabilities (`security.capability`) as `getcap -n` shows them: `cap_net_raw=ep`, and
/// `cap_net_raw=ep [rootid=1000]` when they count only in the user namespace of that root. Capabilities without
/// a name are shown by number. The format is `vfs_cap_data` of linux/capability.h in revisions 1, 2 and 3.
///
/// # Errors
/// When the bytes are of no known revision or not as long as their revision demands.
pub fn capabilities(value: &[u8]) -> Result<String, DecodeError> {
    let (words, rest) = value.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(DecodeError::Length(value.len()));
    }
    let words: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let version = words.first().ok_or(DecodeError::Length(value.len()))?;
    let (revision, flags) = (version >> 24, version & 0x00ff_ffff);
    let wide = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let (permitted, inheritable, root) = match (revision, &words[1..]) {
        (1, &[permitted, inheritable]) => (wide(permitted, 0), wide(inheritable, 0), None),
        (2, &[permitted, inheritable, permitted_high, inheritable_high]) => {
            (wide(permitted, permitted_high), wide(inheritable, inheritable_high), None)
        }
        (3, &[permitted, inheritable, permitted_high, inheritable_high, root]) => {
            (wide(permitted, permitted_high), wide(inheritable, inheritable_high), Some(root))
        }
        (1..=3, _) => return Err(DecodeError::Length(value.len())),
        _ => return Err(DecodeError::Version(*version)),
    };
    if flags & !FLAG_EFFECTIVE != 0 {
        return Err(DecodeError::Flags(flags));
    }
    let mut text = capability_text(permitted, inheritable, flags & FLAG_EFFECTIVE != 0);
    if let Some(root) = root {
        // Writing to a text cannot fail.
        write!(text, " [rootid={root}]").ok();
    }
    Ok(text)
}

/// The form of cap_from_text(3): what most capabilities have comes first (`=ep`, left out when they have nothing),
/// then the others and how they differ from it. Capabilities without a name are no part of what most have.
fn capability_text(permitted: u64, inheritable: u64, effective: bool) -> String {
    let sets = |number: usize| {
        let bit = |set: u64, mask: u8| if set >> number & 1 == 1 { mask } else { 0 };
        let had = bit(permitted, PERMITTED) | bit(inheritable, INHERITABLE);
        if effective && had != 0 { had | EFFECTIVE } else { had }
    };
    let named = 0..vigie_host::CAPABILITIES.len();
    let unnamed = vigie_host::CAPABILITIES.len()..64;
    let having = |wanted: u8| named.clone().filter(|number| sets(*number) == wanted).count();
    // The last of several that are as frequent, as cap_to_text(3) does it: rather nothing than something.
    let usual = (0..8).rev().max_by_key(|wanted| having(*wanted)).unwrap_or(0);

    let mut texts = Vec::new();
    if usual != 0 {
        texts.push(format!("={}", letters(usual)));
    }
    for (numbers, base) in [(named.clone(), usual), (unnamed, 0)] {
        for wanted in (0..8).rev().filter(|wanted| *wanted != base) {
            let names: Vec<_> =
                numbers.clone().filter(|number| sets(*number) == wanted).map(capability_name).collect();
            if names.is_empty() {
                continue;
            }
            let mut text = names.join(",");
            let (gained, lost) = (wanted & !base, base & !wanted);
            if gained != 0 {
                text.push(if texts.is_empty() { '=' } else { '+' });
                text.push_str(&letters(gained));
            }
            if lost != 0 {
                text.push('-');
                text.push_str(&letters(lost));
            }
            texts.push(text);
        }
    }
    if texts.is_empty() { "=".to_owned() } else { texts.join(" ") }
}

fn capability_name(number: usize) -> String {
    vigie_host::CAPABILITIES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

fn letters(sets: u8) -> String {
    let all = [(EFFECTIVE, 'e'), (INHERITABLE, 'i'), (PERMITTED, 'p')];
    all.into_iter().filter(|(mask, _)| sets & mask != 0).map(|(_, letter)| letter).collect()
}

/// Longest label, in bytes: a page, which is what the kernel takes in proc_pid_attr(5). Labels with many categories
/// are long, and cut off they would say something else.
const MAX_LABEL_BYTES: usize = 4096;

/// An SELinux label (`security.selinux`) without the NUL that closes it.
///
/// # Errors
/// When it is not a single line of text, or too long for a label.
pub fn selinux_label(value: &[u8]) -> Result<&str, DecodeError> {
    let label = value.strip_suffix(b"\0").unwrap_or(value);
    match std::str::from_utf8(label) {
        Ok(text) if (1..=MAX_LABEL_BYTES).contains(&text.len()) && !text.chars().any(char::is_control) => {
            Ok(text)
        }
        _ => Err(DecodeError::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn capability_bytes(permitted: u64, inheritable: u64, effective: bool) -> Vec<u8> {
        let half = |set: u64, half: usize| set.to_le_bytes()[half * 4..half * 4 + 4].to_vec();
        let version = (0x0200_0000u32 | u32::from(effective)).to_le_bytes().to_vec();
        [version, half(permitted, 0), half(inheritable, 0), half(permitted, 1), half(inheritable, 1)].concat()
    }

    /// What Linux 6.18 stored after `setcap` of libcap 2.66, and what `getcap -n` said of it.
    #[test]
    fn capabilities_read_as_getcap_shows_them() {
        for (value, text) in [
            ("0100000200200000000000000000000000000000", "cap_net_raw=ep"),
            ("0100000200240000002400000000000000000000", "cap_net_bind_service,cap_net_raw=eip"),
            ("0000000200200000010000000000000000000000", "cap_chown=i cap_net_raw+p"),
            ("01000002ffffffff00000000ff01000000000000", "=ep"),
            ("01000002ffffdfff00000000ff01000000000000", "=ep cap_sys_admin-ep"),
            ("00000002ffffffff00000000ff01000000000000", "=p"),
            ("0000000200200000ffffffff00000000ff010000", "=i cap_net_raw+p"),
            ("0000000200000000000000008001000000000000", "cap_bpf,cap_checkpoint_restore=p"),
            ("0000000200000000000000000000000000000000", "="),
            ("0100000300200000000000000000000000000000e8030000", "cap_net_raw=ep [rootid=1000]"),
        ] {
            assert_eq!(capabilities(&bytes(value)).as_deref(), Ok(text));
        }
    }

    /// Kernels before 2.6.25 wrote one word for each set.
    #[test]
    fn capabilities_of_the_first_revision_have_32_bits() {
        assert_eq!(capabilities(&bytes("010000010020000000000000")).as_deref(), Ok("cap_net_raw=ep"));
    }

    #[test]
    fn a_capability_without_a_name_is_shown_by_its_number() {
        let text = |permitted| capabilities(&capability_bytes(permitted, 0, true)).unwrap();

        assert_eq!(text(1 << 41), "41=ep");
        assert_eq!(text(1 | 1 << 41 | 1 << 63), "cap_chown=ep 41,63+ep");
        assert_eq!(text(u64::MAX >> 22), "=ep 41+ep");
    }

    /// What Linux 6.18 stored for a file of mode 0640 that user 1000 may read, as `getfacl -n` shows it.
    #[test]
    fn an_acl_reads_as_getfacl_shows_it() {
        let value =
            "0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff";

        assert_eq!(
            acl(&bytes(value)).unwrap(),
            ["user::rw-", "user:1000:r--", "group::r--", "mask::r--", "other::---"]
        );
        assert_eq!(acl(&bytes("0200000008000700feffffff")).unwrap(), ["group:4294967294:rwx"]);
        assert_eq!(acl(&bytes("02000000")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        assert_eq!(acl(&bytes("0200")), Err(DecodeError::Length(2)));
        assert_eq!(acl(&bytes("0200000001000600ffff")), Err(DecodeError::Length(10)));
        assert_eq!(acl(&bytes("03000000")), Err(DecodeError::Version(3)));
        assert_eq!(acl(&bytes("0200000003000600ffffffff")), Err(DecodeError::Tag(3)));
        assert_eq!(acl(&bytes("0200000001000800ffffffff")), Err(DecodeError::Permissions(8)));
        assert_eq!(capabilities(&[]), Err(DecodeError::Length(0)));
        assert_eq!(capabilities(&[1, 0]), Err(DecodeError::Length(2)));
        assert_eq!(capabilities(&bytes("01000002")), Err(DecodeError::Length(4)));
        assert_eq!(capabilities(&bytes("01000004")), Err(DecodeError::Version(0x0400_0001)));
        assert_eq!(capabilities(&bytes("020000010000000000000000")), Err(DecodeError::Flags(2)));
        for label in [&b"\0"[..], b"a\nb", b"\xff", &[b'a'; 4097]] {
            assert_eq!(selinux_label(label), Err(DecodeError::Text));
        }
        assert_eq!(selinux_label(b"system_u:object_r:etc_t:s0\0"), Ok("system_u:object_r:etc_t:s0"));
    }

    /// Which sets a text of cap_from_text(3) gives to each capability.
    fn parsed(text: &str) -> Vec<u8> {
        let mut sets = vec![0; 64];
        for clause in text.split(' ') {
            let (names, changes) = clause.split_at(clause.find(['=', '+', '-']).unwrap());
            let numbers: Vec<usize> = match names {
                "" => (0..vigie_host::CAPABILITIES.len()).collect(),
                names => names
                    .split(',')
                    .map(|name| {
                        let named = vigie_host::CAPABILITIES.iter().position(|known| *known == name);
                        named.unwrap_or_else(|| name.parse().unwrap())
                    })
                    .collect(),
            };
            let mut adds = true;
            for letter in changes.chars() {
                let mask = match letter {
                    '=' | '+' | '-' => {
                        adds = letter != '-';
                        continue;
                    }
                    'e' => EFFECTIVE,
                    'i' => INHERITABLE,
                    _ => PERMITTED,
                };
                for number in &numbers {
                    sets[*number] = if adds { sets[*number] | mask } else { sets[*number] & !mask };
                }
            }
        }
        sets
    }

    proptest! {
        #[test]
        fn the_text_says_exactly_which_sets_each_capability_is_in(
            permitted: u64, inheritable: u64, few: u64, more: u64, dense: bool, effective: bool,
        ) {
            let (permitted, inheritable) =
                if dense { (permitted | few, inheritable | !more) } else { (permitted & few & more, inheritable & !few & more) };

            let text = capabilities(&capability_bytes(permitted, inheritable, effective)).unwrap();

            let sets = parsed(&text);
            for (number, sets) in sets.iter().enumerate() {
                let any = (permitted | inheritable) >> number & 1 == 1;
                prop_assert_eq!(sets & PERMITTED != 0, permitted >> number & 1 == 1, "{} in {}", number, &text);
                prop_assert_eq!(sets & INHERITABLE != 0, inheritable >> number & 1 == 1, "{} in {}", number, &text);
                prop_assert_eq!(sets & EFFECTIVE != 0, any && effective, "{} in {}", number, &text);
            }
        }

        #[test]
        fn any_bytes_are_text_on_one_line_or_an_error(
            value in proptest::collection::vec(any::<u8>(), 0..80), acl_body in proptest::collection::vec(0u8..3, 0..64),
        ) {
            let as_acl = [&[2, 0, 0, 0][..], &acl_body].concat();
            for value in [&value, &as_acl] {
                for text in acl(value).into_iter().flatten().chain(capabilities(value)).chain(
                    selinux_label(value).map(str::to_owned)
                ) {
                    prop_assert!(!text.is_empty() && !text.chars().any(char::is_control));
                }
            }
        }
    }
}
