//! Capabilities of files: the extended attribute `security.capability`, and its text form.

use std::collections::BTreeSet;

use vigie_host::CAPABILITIES;

/// What a file may gain when it is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// By bit.
    pub permitted: u64,
    /// By bit.
    pub inheritable: u64,
    /// What is permitted is also effective from the beginning.
    pub effective: bool,
}

impl Capabilities {
    /// Reads the attribute, `struct vfs_cap_data`: a word with version and flag, then pairs of words.
    #[must_use]
    pub(crate) fn of_attribute(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |at: usize| words.get(at).map(|word| u32::from_le_bytes(*word));
        let magic = word(0)?;
        let pairs = match magic >> 24 {
            1 => 1,
            2 | 3 => 2,
            _ => return None,
        };
        let mut capabilities = Self { effective: magic & 1 != 0, ..Self::default() };
        for pair in 0..pairs {
            capabilities.permitted |= u64::from(word(1 + 2 * pair)?) << (32 * pair);
            capabilities.inheritable |= u64::from(word(2 + 2 * pair)?) << (32 * pair);
        }
        Some(capabilities)
    }

    /// Reads the form of cap_from_text(3), with names and the flags e, i and p. An empty text is none.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        let mut sets = [0_u64; 3];
        for clause in text.split_ascii_whitespace() {
            let start = clause.find(['=', '+', '-'])?;
            let names = match &clause[..start] {
                "" | "all" => (1 << CAPABILITIES.len()) - 1,
                names => names.split(',').try_fold(0, |set, name| Some(set | 1 << number(name)?))?,
            };
            let mut sign = b'=';
            for letter in clause.bytes().skip(start) {
                if matches!(letter, b'=' | b'+' | b'-') {
                    sign = letter;
                    if sign == b'=' {
                        sets.iter_mut().for_each(|set| *set &= !names);
                    }
                    continue;
                }
                let set = &mut sets[b"epi".iter().position(|known| *known == letter)?];
                if sign == b'-' { *set &= !names } else { *set |= names }
            }
        }
        let [effective, permitted, inheritable] = sets;
        Some(Self { permitted, inheritable, effective: effective != 0 })
    }

    /// The form that getcap(8) prints: `cap_net_raw=ep`; empty when there are none.
    #[must_use]
    pub fn text(self) -> String {
        let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
        for bit in 0..64 {
            let (permitted, inheritable) = (self.permitted >> bit & 1 != 0, self.inheritable >> bit & 1 != 0);
            let flags = match (permitted, inheritable) {
                (true, true) if self.effective => "eip",
                (true, true) => "ip",
                (true, false) if self.effective => "ep",
                (true, false) => "p",
                (false, true) if self.effective => "ei",
                (false, true) => "i",
                (false, false) => continue,
            };
            let name = CAPABILITIES.get(bit).map_or_else(|| bit.to_string(), |name| (*name).to_owned());
            match groups.iter_mut().find(|(known, _)| *known == flags) {
                Some((_, names)) => names.push(name),
                None => groups.push((flags, vec![name])),
            }
        }
        let groups = groups.iter().map(|(flags, names)| format!("{}={flags}", names.join(",")));
        groups.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
    }
}

fn number(name: &str) -> Option<u32> {
    let named = CAPABILITIES.iter().position(|known| *known == name.to_ascii_lowercase());
    let number = named.or_else(|| name.parse().ok()).filter(|number| *number < 64)?;
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_attribute_of_ping_is_read() {
        let attribute = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

        let capabilities = Capabilities::of_attribute(&attribute).unwrap();

        assert_eq!(capabilities.text(), "cap_net_raw=ep");
        assert_eq!(Capabilities::of_text("cap_net_raw+ep"), Some(capabilities));
        assert_eq!(Capabilities::of_text("= cap_net_raw+pe"), Some(capabilities));
        assert_eq!(Capabilities::of_text(""), Some(Capabilities::default()));
        for text in ["cap_nosuch=ep", "cap_net_raw", "cap_net_raw=x"] {
            assert_eq!(Capabilities::of_text(text), None);
        }
    }

    proptest! {
        #[test]
        fn a_text_means_the_same(permitted in any::<u64>(), inheritable in any::<u64>(), effective: bool) {
            let effective = effective && permitted | inheritable != 0;
            let capabilities = Capabilities { permitted, inheritable, effective };
            prop_assert_eq!(Capabilities::of_text(&capabilities.text()), Some(capabilities));
        }

        #[test]
        fn any_bytes_and_texts_are_capabilities_or_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..24), text in "[a-z_,=+ -]{0,20}",
        ) {
            let _ = (Capabilities::of_attribute(&bytes), Capabilities::of_text(&text));
        }
    }
}
