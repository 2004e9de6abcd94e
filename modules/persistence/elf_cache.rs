//! `/etc/ld.so.cache`, in the form that glibc has written since 2.2.

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const HEADER_BYTES: usize = 48;
const ENTRY_BYTES: usize = 24;
/// Most libraries that are read.
const MAX_LIBRARIES: usize = 200_000;

/// The paths of all libraries in a cache; `None` when it has another form.
pub(crate) fn paths(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let start = if content.starts_with(MAGIC) {
        0
    } else if content.starts_with(OLD_MAGIC) {
        // An old table stands before the new one.
        content.windows(MAGIC.len()).position(|part| part == MAGIC)?
    } else {
        return None;
    };
    let cache = &content[start..];
    let count = usize::try_from(word(cache, 20)?).ok()?.min(MAX_LIBRARIES);
    let mut paths = Vec::new();
    for number in 0..count {
        let at = HEADER_BYTES + number * ENTRY_BYTES;
        let value = usize::try_from(word(cache, at + 8)?).ok()?;
        let text = cache.get(value..)?;
        let end = text.iter().take(4096).position(|byte| *byte == 0)?;
        paths.push(text[..end].to_vec());
    }
    Some(paths)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_hosts_cache_has_the_c_library() {
        let Ok(content) = std::fs::read("/etc/ld.so.cache") else {
            return vigie_skipped::skipped("this host has no /etc/ld.so.cache");
        };

        let paths = paths(&content).unwrap();

        assert!(paths.iter().any(|path| path.ends_with(b"/libc.so.6")), "{}", paths.len());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            paths(&[MAGIC, &bytes].concat());
        }
    }
}
