//! `/proc/PID/stat`, proc_pid_stat(5): what is true of a process at one moment.

/// The flag of kernel threads in `flags`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The flag of a process that is ending.
const PF_EXITING: u64 = 0x4;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// The process or thread.
    pub pid: u32,
    /// Its name, at most 15 bytes, or 63 of a kernel thread; whatever the program says.
    pub name: Vec<u8>,
    /// One letter.
    pub state: u8,
    /// Its parent.
    pub parent: u32,
    /// Processor time in user and kernel mode, in clock ticks.
    pub processor_ticks: u64,
    /// Threads that live; a leader that has ended counts as long as others live.
    pub threads: u64,
    /// When it started, in clock ticks since the boot. Does not change at exec.
    pub start_ticks: u64,
    /// Pages of memory.
    pub resident_pages: u64,
    flags: u64,
    /// Where code, stack, data, arguments and environment lie: other addresses after each exec, and 0 in the middle of
    /// it.
    layout: [u64; 10],
}

impl Stat {
    /// Reads the file's content. A name may hold anything, also blanks, parentheses and line feeds.
    #[must_use]
    pub fn parse(content: &[u8]) -> Option<Self> {
        let open = content.iter().position(|byte| *byte == b'(')?;
        let close = content.iter().rposition(|byte| *byte == b')')?;
        let pid = number(content.get(..open)?.trim_ascii())?;
        let name = content.get(open + 1..close)?.to_vec();
        let fields: Vec<&[u8]> = content
            .get(close + 1..)?
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty())
            .collect();
        // Fields are counted from 1 in the manual, and the state is the third.
        let field = |nth: usize| number(fields.get(nth - 3)?);
        let mut layout = [0; 10];
        for (place, nth) in layout.iter_mut().zip([26, 27, 28, 45, 46, 47, 48, 49, 50, 51]) {
            *place = field(nth).unwrap_or(0);
        }
        Some(Self {
            pid: u32::try_from(pid).ok()?,
            name,
            state: *fields.first()?.first()?,
            parent: u32::try_from(field(4)?).ok()?,
            flags: field(9)?,
            processor_ticks: field(14)?.saturating_add(field(15)?),
            threads: field(20)?,
            start_ticks: field(22)?,
            resident_pages: field(24).unwrap_or(0),
            layout,
        })
    }

    /// Whether it is a thread of the kernel. Its name proves nothing: any program can take one in brackets.
    #[must_use]
    pub(crate) fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether it has ended, or is ending: it has no memory any more.
    #[must_use]
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X') || self.flags & PF_EXITING != 0
    }

    /// Whether the kernel shows where its memory lies. Without the right to trace a process it says 1, and 0 for the
    /// stack.
    #[must_use]
    pub(crate) fn is_traceable(&self) -> bool {
        self.layout[0] != 1
    }

    /// Whether it is in the middle of an exec: some of what is told is of the program before, some of the next.
    #[must_use]
    pub(crate) fn is_in_exec(&self) -> bool {
        let [code, _, stack, ..] = self.layout;
        let arguments = self.layout[6];
        !self.is_kernel_thread()
            && !self.has_ended()
            && self.is_traceable()
            && (code == 0 || stack == 0 || arguments == 0)
    }

    /// Whether both are of the same execution of a program: the same start, the same name, and memory at the same
    /// addresses.
    #[must_use]
    pub(crate) fn is_same_execution(&self, other: &Self) -> bool {
        self.start_ticks == other.start_ticks
            && self.name == other.name
            && self.layout == other.layout
            && self.has_ended() == other.has_ended()
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    // Some fields may be negative; none that is asked for here means anything then.
    text.parse().ok().or_else(|| text.parse::<i64>().ok().map(|_| 0))
}

/// The word for the letter of a state, as `ps` explains it.
#[must_use]
pub fn state_name(letter: u8) -> &'static str {
    match letter {
        b'R' => "running",
        b'S' => "sleeping",
        b'D' => "waiting",
        b'Z' => "zombie",
        b'T' => "stopped",
        b't' => "traced",
        b'X' | b'x' => "dead",
        b'I' => "idle",
        b'P' => "parked",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, code: u64, stack: u64, arguments: u64, flags: u64) -> Vec<u8> {
        let mut fields: Vec<String> = (3..=52).map(|nth| nth.to_string()).collect();
        fields[0] = "S".to_owned();
        fields[9 - 3] = flags.to_string();
        for (nth, value) in [(26, code), (28, stack), (48, arguments)] {
            fields[nth - 3] = value.to_string();
        }
        fields[40 - 3] = "-7".to_owned();
        format!("42 ({name}) {}\n", fields.join(" ")).into_bytes()
    }

    #[test]
    fn fields_are_where_the_manual_says() {
        let stat = Stat::parse(&line("a", 26, 28, 48, 0)).unwrap();

        assert_eq!((stat.pid, stat.parent, stat.threads, stat.start_ticks), (42, 4, 20, 22));
        assert_eq!((stat.processor_ticks, stat.resident_pages, stat.state), (29, 24, b'S'));
        assert_eq!(stat.layout, [26, 27, 28, 45, 46, 47, 48, 49, 50, 51]);
    }

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let stat = Stat::parse(&line("x) S 1\n(y", 26, 28, 48, 0)).unwrap();

        assert_eq!((&*stat.name, stat.parent), (&b"x) S 1\n(y"[..], 4));
    }

    #[test]
    fn the_middle_of_an_exec_shows() {
        let in_exec = |code, stack, arguments, flags| {
            Stat::parse(&line("a", code, stack, arguments, flags)).unwrap().is_in_exec()
        };

        assert!(in_exec(26, 28, 0, 0) && in_exec(0, 0, 0, 0) && in_exec(26, 0, 48, 0));
        assert!(!in_exec(26, 28, 48, 0));
        // Not ours to trace, a thread of the kernel, one that ends.
        assert!(!in_exec(1, 0, 0, 0) && !in_exec(0, 0, 0, PF_KTHREAD) && !in_exec(0, 0, 0, PF_EXITING));
    }

    #[test]
    fn another_execution_has_another_name_or_layout() {
        let stat = |name, stack| Stat::parse(&line(name, 26, stack, 48, 0)).unwrap();

        assert!(stat("a", 28).is_same_execution(&stat("a", 28)));
        assert!(!stat("a", 28).is_same_execution(&stat("a", 29)));
        assert!(!stat("a", 28).is_same_execution(&stat("b", 28)));
    }

    proptest! {
        #[test]
        fn any_content_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Stat::parse(&content);
        }

        #[test]
        fn any_name_is_read(name in "[^\u{0}]{0,15}") {
            prop_assert_eq!(Stat::parse(&line(&name, 1, 2, 3, 0)).unwrap().name, name.into_bytes());
        }
    }
}
