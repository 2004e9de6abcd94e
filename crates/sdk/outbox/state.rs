//! Which alerts are not acknowledged, and the records that remember it: plain data without I/O.
//!
//! The file is a line of JSON for each fact, appended in the order of events:
//!
//! ```text
//! {"epoch":"1f3a…"}               the head
//! {"id":"1f3a…-5","message":"…"}  an alert
//! {"ack":"1f3a…-5"}               its acknowledgement
//! ```
//!
//! Every life of a module numbers its alerts in an epoch of its own. A power failure can take the end of the file
//! although the agent has those alerts on disk already; numbers that went on from what is left would be given
//! twice, and the agent would take the new alerts for old ones.
//!
//! The only damage that a killed process can leave is a torn last line, of a fact that nobody has been told.
//! Any other damage is survived too: what can be read is kept.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Acknowledged alerts in the file before it is worth rewriting.
const MIN_COMPACTION: usize = 1000;

/// Identifies an alert for ever: `EPOCH-SEQUENCE`. The epoch is random and belongs to one life of the module; the
/// sequence starts with 1 and has no gaps, so that the agent can remember what it has seen as ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlertId {
    /// Random number of the life that gave the id; another one for alerts that the file does not hold.
    pub epoch: u64,
    /// Number within the epoch, from 1.
    pub sequence: u64,
}

impl AlertId {
    /// Reads what [`AlertId`]'s `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, sequence) = text.split_once('-')?;
        let id = Self { epoch: u64::from_str_radix(epoch, 16).ok()?, sequence: sequence.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.sequence)
    }
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    Head { epoch: String },
    Alert { id: String, message: String },
    Acknowledgement { ack: String },
}

impl Record {
    fn write(&self, buffer: &mut Vec<u8>) {
        serde_json::to_writer(&mut *buffer, self).expect("a record is plain data and a Vec takes it all");
        buffer.push(b'\n');
    }
}

/// The alerts that the agent has not acknowledged.
#[derive(Debug, Clone)]
pub struct OutboxState {
    epoch: u64,
    next: u64,
    /// Ids for alerts that the file cannot hold; never written down, so never the file's epoch.
    volatile_epoch: u64,
    volatile_next: u64,
    /// By order of creation.
    pending: BTreeMap<u64, Pending>,
    order: HashMap<AlertId, u64>,
    created: u64,
    bytes: usize,
    /// Acknowledged alerts whose records are still in the file.
    acknowledged: usize,
}

#[derive(Debug, Clone)]
struct Pending {
    id: AlertId,
    message: Arc<str>,
    /// The file holds it.
    in_file: bool,
}

/// What an acknowledgement was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    /// No pending alert has this id.
    Unknown,
    /// An alert that the file does not hold.
    InMemory,
    /// An alert in the file; this record is to be appended.
    InFile(Vec<u8>),
}

/// What a file held.
#[derive(Debug)]
pub struct Recovered {
    /// The state to go on with.
    pub state: OutboxState,
    /// More than a torn last line was unreadable.
    pub damaged: bool,
}

impl OutboxState {
    /// An empty outbox. `epoch` is random.
    #[must_use]
    pub fn new(epoch: u64) -> Self {
        Self {
            epoch,
            next: 1,
            volatile_epoch: !epoch,
            volatile_next: 1,
            pending: BTreeMap::new(),
            order: HashMap::new(),
            created: 0,
            bytes: 0,
            acknowledged: 0,
        }
    }

    /// Reads a file back. `fresh_epoch` is random; the alerts of this life get their ids from it.
    #[must_use]
    pub fn recover(content: &[u8], fresh_epoch: u64) -> Recovered {
        let mut state = Self::new(fresh_epoch);
        let mut has_head = false;
        let mut damaged = false;
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            let torn = !line.ends_with(b"\n");
            match serde_json::from_slice(line) {
                // A whole record without its line feed is torn too: its writer had not come back from the
                // write, so nobody knows of it.
                _ if torn => {}
                Ok(Record::Head { .. }) if !has_head => has_head = true,
                Ok(Record::Alert { id, message }) => match AlertId::parse(&id) {
                    Some(id) if !state.order.contains_key(&id) => state.insert(id, message.into(), true),
                    _ => damaged = true,
                },
                Ok(Record::Acknowledgement { ack }) => {
                    if AlertId::parse(&ack).and_then(|id| state.remove(id)).is_none() {
                        damaged = true;
                    }
                }
                Ok(Record::Head { .. }) | Err(_) => damaged = true,
            }
        }
        damaged |= !has_head && !state.pending.is_empty();
        Recovered { state, damaged }
    }

    /// Adds an alert; returns its id and the record to append.
    pub fn push(&mut self, message: &Arc<str>) -> (AlertId, Vec<u8>) {
        let id = AlertId { epoch: self.epoch, sequence: self.next };
        self.next += 1;
        self.insert(id, Arc::clone(message), true);
        let mut record = Vec::with_capacity(message.len() + 64);
        Record::Alert { id: id.to_string(), message: message.as_ref().to_owned() }.write(&mut record);
        (id, record)
    }

    /// Adds an alert that the file cannot hold.
    pub fn push_volatile(&mut self, message: &Arc<str>) -> AlertId {
        let id = AlertId { epoch: self.volatile_epoch, sequence: self.volatile_next };
        self.volatile_next += 1;
        self.insert(id, Arc::clone(message), false);
        id
    }

    /// Adds an alert that the module itself keeps; `false` when it is pending already.
    pub fn push_kept(&mut self, id: AlertId, message: &Arc<str>) -> bool {
        let is_new = !self.order.contains_key(&id);
        if is_new {
            self.insert(id, Arc::clone(message), false);
        }
        is_new
    }

    /// Undoes the last [`OutboxState::push`], whose record could not be written.
    pub fn take_back(&mut self, id: AlertId) {
        if id.epoch == self.epoch && id.sequence + 1 == self.next && self.remove(id).is_some() {
            self.next -= 1;
        }
    }

    /// Forgets an alert.
    pub fn acknowledge(&mut self, id: AlertId) -> Acknowledged {
        match self.remove(id) {
            None => Acknowledged::Unknown,
            Some(Pending { in_file: false, .. }) => Acknowledged::InMemory,
            Some(_) => {
                self.acknowledged += 1;
                let mut record = Vec::with_capacity(64);
                Record::Acknowledgement { ack: id.to_string() }.write(&mut record);
                Acknowledged::InFile(record)
            }
        }
    }

    /// Whether the file is mostly acknowledged.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        self.acknowledged >= MIN_COMPACTION && self.acknowledged > self.pending.len()
    }

    /// The file that says what is pending and no more.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.bytes + 64 * (self.pending.len() + 1));
        Record::Head { epoch: format!("{:016x}", self.epoch) }.write(&mut content);
        for one in self.pending.values().filter(|one| one.in_file) {
            let record = Record::Alert { id: one.id.to_string(), message: one.message.as_ref().to_owned() };
            record.write(&mut content);
        }
        content
    }

    /// The snapshot is in the file's place.
    pub fn compacted(&mut self) {
        self.acknowledged = 0;
    }

    /// What is not acknowledged, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = (AlertId, Arc<str>)> {
        self.pending.values().map(|one| (one.id, Arc::clone(&one.message)))
    }

    /// How many alerts are not acknowledged.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether all alerts are acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Bytes of text that are not acknowledged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, id: AlertId, message: Arc<str>, in_file: bool) {
        self.bytes += message.len();
        self.order.insert(id, self.created);
        self.pending.insert(self.created, Pending { id, message, in_file });
        self.created += 1;
    }

    fn remove(&mut self, id: AlertId) -> Option<Pending> {
        let order = self.order.remove(&id)?;
        let removed = self.pending.remove(&order)?;
        self.bytes -= removed.message.len();
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn listed(state: &OutboxState) -> Vec<(String, String)> {
        state.pending().map(|(id, message)| (id.to_string(), message.to_string())).collect()
    }

    #[test]
    fn an_id_is_read_back_and_nothing_else_is_an_id() {
        let id = AlertId { epoch: 0xab, sequence: 7 };

        assert_eq!(id.to_string(), "00000000000000ab-7");
        assert_eq!(AlertId::parse("00000000000000ab-7"), Some(id));
        for text in ["", "-", "ab-7", "00000000000000ab-07", "00000000000000AB-7", "00000000000000ab-+7"] {
            assert_eq!(AlertId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_damaged_middle_keeps_what_is_readable() {
        let mut state = OutboxState::new(1);
        let mut file = state.snapshot();
        for text in ["a", "b", "c"] {
            let (_, record) = state.push(&text.into());
            file.extend_from_slice(&record);
        }
        let text = String::from_utf8(file).unwrap().replace("\"b\"", "b");

        let recovered = OutboxState::recover(text.as_bytes(), 2);

        assert!(recovered.damaged);
        assert_eq!(recovered.state.len(), 2);
        let mut state = recovered.state;
        assert_eq!(state.push(&"d".into()).0, AlertId { epoch: 2, sequence: 1 });
    }

    #[test]
    fn a_file_that_lost_its_end_gives_no_id_twice() {
        let mut before = OutboxState::new(1);
        let file = before.snapshot();
        let (lost, _) = before.push(&"on the agent's disk, not on ours".into());

        let mut after = OutboxState::recover(&file, 2).state;

        assert_ne!(after.push(&"another".into()).0, lost);
    }

    /// What a module and its agent do, one after the other.
    #[derive(Debug, Clone)]
    enum Step {
        Alert(String),
        /// The pending alert with this number, modulo how many there are.
        Acknowledge(usize),
        Compact,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => ".{0,12}".prop_map(Step::Alert),
            3 => (0usize..50).prop_map(Step::Acknowledge),
            1 => Just(Step::Compact),
        ]
    }

    proptest! {
        /// The process is killed while it appends: any byte of the last record may be the last one in the file.
        /// The next life has exactly what was sent and not acknowledged, in order, and repeats no id.
        #[test]
        fn a_crash_at_any_byte_loses_nothing_that_was_sent(
            lives in proptest::collection::vec((proptest::collection::vec(step(), 0..20), 0usize..200), 1..5),
        ) {
            let mut file = Vec::new();
            let mut expected: Vec<(String, String)> = Vec::new();
            let mut given = HashSet::new();
            for (number, (steps, torn_bytes)) in lives.into_iter().enumerate() {
                let recovered = OutboxState::recover(&file, 1000 + number as u64);
                prop_assert!(!recovered.damaged);
                let mut state = recovered.state;
                prop_assert_eq!(listed(&state), expected.clone());
                file = state.snapshot();
                for step in steps {
                    match step {
                        Step::Alert(text) => {
                            let (id, record) = state.push(&text.as_str().into());
                            file.extend_from_slice(&record);
                            prop_assert!(given.insert(id.to_string()), "id {} was given twice", id);
                            expected.push((id.to_string(), text));
                        }
                        Step::Acknowledge(which) if !expected.is_empty() => {
                            let (id, _) = expected.remove(which % expected.len());
                            let acknowledged = state.acknowledge(AlertId::parse(&id).unwrap());
                            let Acknowledged::InFile(record) = acknowledged else { panic!("{acknowledged:?}") };
                            file.extend_from_slice(&record);
                        }
                        Step::Acknowledge(_) => {}
                        Step::Compact => {
                            file = state.snapshot();
                            state.compacted();
                        }
                    }
                    prop_assert_eq!(listed(&state), expected.clone());
                }
                let (_, torn) = state.push(&"never sent".into());
                file.extend_from_slice(&torn[..torn_bytes.min(torn.len() - 1)]);
            }
            prop_assert_eq!(listed(&OutboxState::recover(&file, 1).state), expected);
        }

        #[test]
        fn any_file_is_survived(content in proptest::collection::vec(any::<u8>(), 0..400)) {
            let recovered = OutboxState::recover(&content, 5);

            prop_assert!(recovered.state.len() <= 400);
        }

        #[test]
        fn an_alert_that_could_not_be_written_leaves_no_gap(texts in proptest::collection::vec(".{0,5}", 1..20)) {
            let mut state = OutboxState::new(9);
            for (number, text) in texts.iter().enumerate() {
                let (lost, _) = state.push(&text.as_str().into());
                state.take_back(lost);
                let (id, _) = state.push(&text.as_str().into());
                prop_assert_eq!(id.sequence, number as u64 + 1);
            }
            prop_assert_eq!(state.len(), texts.len());
        }
    }
}
