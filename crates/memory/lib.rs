//! Giving back what only the start of a process needed: its heap, and its code, which comes back from the file when it is
//! needed again. On a host with many small processes of Vigie that is most of what they take.

use std::fs;
use std::ops::Range;

/// malloc_trim(3): gives free memory of the heap back to the system. Where the C library has no such call nothing happens.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "nothing safe wraps malloc_trim(3)")]
    // SAFETY: takes a number, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the pages of the program's own code that were used until now; those that are used again are mapped again from
/// the file. Where the system does not say where the code is, nothing happens.
pub fn give_back_code() {
    let here = give_back_code as *const () as usize;
    let Some(code) = fs::read_to_string("/proc/self/maps").ok().and_then(|maps| code_around(&maps, here))
    else {
        return;
    };
    #[expect(unsafe_code, reason = "nothing safe wraps madvise(2)")]
    // SAFETY: the range is one whole mapping of a file, private and without the right to write, as the kernel has just said,
    // so that its pages are the file's own and come back as they were: code has no relocations. Mappings of programs are
    // not changed while they run.
    unsafe {
        libc::madvise(code.start as *mut libc::c_void, code.len(), libc::MADV_DONTNEED);
    }
}

/// The mapping in which an address of code is, when it is one of a file that only reads and executes.
fn code_around(maps: &str, address: usize) -> Option<Range<usize>> {
    maps.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (from, to) = fields.next()?.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        let is_code =
            fields.next() == Some("r-xp") && fields.nth(3).is_some_and(|path| path.starts_with('/'));
        (is_code && range.contains(&address)).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of a field of a mapping in smaps, see proc_pid_smaps(5).
    fn resident_code() -> u64 {
        let here = give_back_code as *const () as usize;
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut is_ours = false;
        for line in smaps.lines() {
            if line.contains(" r-xp ") || line.contains("-p ") || line.contains("-s ") {
                is_ours = code_around(line, here).is_some();
            } else if is_ours && let Some(rest) = line.strip_prefix("Rss:") {
                return rest.trim().trim_end_matches(" kB").parse().unwrap();
            }
        }
        panic!("no mapping of our code in {smaps}");
    }

    #[test]
    fn code_that_is_not_used_again_is_not_in_memory_and_what_is_goes_on() {
        let before = resident_code();

        give_back_heap();
        give_back_code();

        let after = resident_code();
        assert!(after < before, "{after} of {before} kB");
    }

    #[test]
    fn only_a_mapping_of_a_file_that_nobody_can_write_is_code() {
        let address = 0x5500_0000_1000;
        let of = |line: &str| code_around(line, address);

        let code = "550000000000-550000002000 r-xp 00001000 fe:00 12 /usr/bin/vigie";
        assert_eq!(of(code), Some(0x5500_0000_0000..0x5500_0000_2000));
        for other in [
            "550000000000-550000002000 rwxp 00001000 fe:00 12 /usr/bin/vigie",
            "550000000000-550000002000 r--p 00001000 fe:00 12 /usr/bin/vigie",
            "550000000000-550000002000 r-xs 00001000 fe:00 12 /usr/bin/vigie",
            "550000000000-550000002000 r-xp 00000000 00:00 0 ",
            "550000000000-550000002000 r-xp 00000000 00:00 0 [vdso]",
            "550000000000-550000001000 r-xp 00001000 fe:00 12 /usr/bin/vigie",
            "x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
