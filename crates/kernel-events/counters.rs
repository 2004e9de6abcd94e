//! What was told and what was lost, by kind.

/// Kinds as `bpf/events.bpf.c` numbers them; 0 is none.
pub(crate) const KINDS: usize = 5;

/// A kind of event that is counted on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Programs that were run.
    Exec = 1,
    /// Processes that ended.
    Exit = 2,
    /// Connections and listening sockets.
    Net = 3,
    /// Processes and threads that were made: counted only, never told one by one.
    Fork = 4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Exec, Self::Exit, Self::Net, Self::Fork];

    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Net => "net",
            Self::Fork => "fork",
        }
    }
}

/// Numbers since the source was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub(crate) sent: [u64; KINDS],
    pub(crate) lost: [u64; KINDS],
    /// Runs of the programs that the kernel left out because one was running on that processor already.
    pub recursion_misses: u64,
    /// Records without the form that they should have.
    pub not_understood: u64,
    /// Losses that the source cannot tell the kind of: a full socket, a gap in its numbers.
    pub lost_of_any_kind: u64,
}

impl Counters {
    /// How many were given to the reader, or counted where they are only counted.
    #[must_use]
    pub fn sent(&self, kind: Kind) -> u64 {
        self.sent[kind as usize]
    }

    /// How many found no room.
    #[must_use]
    pub fn lost(&self, kind: Kind) -> u64 {
        self.lost[kind as usize]
    }

    /// Everything that was lost, wherever.
    #[must_use]
    pub fn lost_in_all(&self) -> u64 {
        self.lost.iter().sum::<u64>() + self.recursion_misses + self.not_understood + self.lost_of_any_kind
    }
}
