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

/// Whose what was lost is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Whose {
    /// Of the trusted ([`crate::Account::TRUSTED`]).
    Trusted,
    /// Of anybody else.
    Others,
}

impl Whose {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::Others];

    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Others => "others",
        }
    }
}

/// Numbers since the source was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub(crate) sent: [u64; KINDS],
    pub(crate) lost_of_trusted: [u64; KINDS],
    pub(crate) lost_of_others: [u64; KINDS],
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
        self.lost_of(kind, Whose::Trusted) + self.lost_of(kind, Whose::Others)
    }

    /// How many of these found no room.
    #[must_use]
    pub fn lost_of(&self, kind: Kind, whose: Whose) -> u64 {
        match whose {
            Whose::Trusted => self.lost_of_trusted[kind as usize],
            Whose::Others => self.lost_of_others[kind as usize],
        }
    }

    /// Everything that was lost, wherever.
    #[must_use]
    pub fn lost_in_all(&self) -> u64 {
        let lost = self.lost_of_trusted.iter().chain(&self.lost_of_others).sum::<u64>();
        lost + self.recursion_misses + self.not_understood + self.lost_of_any_kind
    }
}
