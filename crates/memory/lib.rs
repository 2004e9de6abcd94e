//! Giving back what only the start of a process needed: its heap, and its code, which comes back from the file when it
//! is needed again. On a host with many small processes of Vigie that is most of what they take.

use std::fs;
use std::ops::Range;

/// malloc_trim(3): gives free memory of the heap back to the system. Where the C library has no such call nothing
/// happens.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "nothing safe wraps malloc_trim(3)")]
    // SAFETY: takes a number, and touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back the pages of the program's own file, code and constants, that were used until now; those that are used
/// again are mapped again from it. Blocking: the kernel walks through all memory of the process for it. Where it does
/// not say what is where, nothing happens.
pub fn give_back_code() {
    let here = give_back_code as *const () as usize;
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in pages_of_file(&smaps, here) {
        #[expect(unsafe_code, reason = "nothing safe wraps madvise(2)")]
        // SAFETY: the range is one whole mapping of a file, private, without the right to write and without a page that
        // is not the file's own (relocations, a debugger's marks), as the kernel has just said: all of it comes back as
        // it was.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

/// A mapping, see proc_pid_smaps(5).
#[derive(Debug, Default)]
struct Mapping<'a> {
    range: Range<usize>,
    rights: &'a str,
    file: &'a str,
    /// It has no page of its own.
    is_as_file: bool,
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut found: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let mut fields = line.split_whitespace();
        let first = fields.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            Some(usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?)
        });
        match (range, found.last_mut()) {
            (Some(range), _) => {
                let rights = fields.next().unwrap_or_default();
                let file = fields.nth(3).filter(|path| path.starts_with('/')).unwrap_or_default();
                found.push(Mapping { range, rights, file, is_as_file: false });
            }
            (None, Some(last)) if first == "Anonymous:" => last.is_as_file = fields.next() == Some("0"),
            (None, _) => {}
        }
    }
    found
}

/// The mappings of the file in which an address of code is, of which nothing would be lost.
fn pages_of_file(smaps: &str, address: usize) -> Vec<Range<usize>> {
    let all = mappings(smaps);
    let ours = all.iter().find(|one| one.range.contains(&address) && !one.file.is_empty());
    let Some(file) = ours.map(|one| one.file) else { return Vec::new() };
    let is_kept =
        |one: &&Mapping<'_>| one.file == file && one.is_as_file && matches!(one.rights, "r-xp" | "r--p");
    all.iter().filter(is_kept).map(|one| one.range.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
550000000000-550000001000 r--p 00000000 fe:00 12 /usr/bin/vigie
Rss:                   4 kB
Anonymous:             0 kB
550000001000-550000003000 r-xp 00001000 fe:00 12 /usr/bin/vigie
Anonymous:             0 kB
550000003000-550000004000 r--p 00003000 fe:00 12 /usr/bin/vigie
Anonymous:             4 kB
550000004000-550000005000 rw-p 00004000 fe:00 12 /usr/bin/vigie
Anonymous:             0 kB
560000000000-560000001000 r--p 00000000 fe:00 13 /usr/lib/libc.so
Anonymous:             0 kB
570000000000-570000001000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_as_in_the_programs_file_and_cannot_be_written_is_given_back() {
        let given = pages_of_file(SMAPS, 0x5500_0000_1800);

        assert_eq!(given, [0x5500_0000_0000..0x5500_0000_1000, 0x5500_0000_1000..0x5500_0000_3000]);
        assert_eq!(pages_of_file(SMAPS, 0x5700_0000_0800), []);
        assert_eq!(pages_of_file("x\n\n-\nAnonymous: 0 kB", 0), []);
    }

    /// In a process of its own: what another test uses meanwhile comes into memory as well.
    #[test]
    fn code_that_is_not_used_again_is_not_in_memory_and_what_is_goes_on() {
        const ALONE: &str = "VIGIE_MEMORY_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let name = "tests::code_that_is_not_used_again_is_not_in_memory_and_what_is_goes_on";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            alone.args([name, "--exact", "--test-threads", "1"]).env(ALONE, "");
            let ran = alone.output().unwrap();
            assert!(
                ran.status.success() && String::from_utf8_lossy(&ran.stdout).contains("1 passed"),
                "{ran:?}"
            );
            return;
        }
        let resident = || {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            // Pages of files, see proc_pid_statm(5).
            statm.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
        };
        let before = resident();

        give_back_heap();
        give_back_code();

        assert!(resident() < before, "{} of {before} pages", resident());
        assert_eq!(mappings(SMAPS).len(), 6, "constants are still there");
    }
}
