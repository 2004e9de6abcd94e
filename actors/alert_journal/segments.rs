//! The journal's files: segments of JSON lines, each named after the number of its first alert.
//!
//! A record is safe once `fdatasync` has returned. A crash can leave half a record at the end of the newest
//! segment; it was never acknowledged, so it is cut off. A damaged record elsewhere stays where it is, is
//! counted and reported, and hides no other record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read as _, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::room::{self, GivenUp};
use super::seen::{SeenIds, SeenSnapshot};
use vigie_config::model::JournalSection;
use vigie_protocol::control::AlertRecord;
use vigie_protocol::severity::Severity;

const SEEN_FILE: &str = "seen-ids.json";

const IDENTITY_FILE: &str = "identity";

/// Most files that thinning leaves behind.
const MAX_SEGMENTS: usize = 10_000;

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory cannot be made or read.
    #[error("cannot use the alert journal in {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A segment cannot be opened or read.
    #[error("cannot open the alert journal's segment {path:?}")]
    Segment {
        /// The segment.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What was found when the journal was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes of a half-written record that were cut off.
    pub cut_bytes: u64,
    /// Complete lines that are not records.
    pub damaged_lines: u64,
}

/// The files, open for appending.
#[derive(Debug)]
pub struct Segments {
    directory: PathBuf,
    section: JournalSection,
    /// First alert numbers of all segments, oldest first; the last one is open.
    first_seqs: Vec<u64>,
    file: File,
    /// Length of the open segment that is whole records.
    length: u64,
    /// Length of the closed segments together.
    closed_bytes: u64,
    next_seq: u64,
    /// The open segment was deleted by somebody else.
    deleted: bool,
    /// Number of the newest alert that the fleet has; absent when no fleet wants them.
    sent_through: Option<u64>,
    given_up: Option<GivenUp>,
}

fn segment_path(directory: &Path, first_seq: u64) -> PathBuf {
    directory.join(format!("alerts-{first_seq:020}.jsonl"))
}

/// First alert numbers of the segments in a directory, in order.
fn list_segments(directory: &Path) -> io::Result<Vec<u64>> {
    let mut first_seqs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix("alerts-"))
            .and_then(|name| name.strip_suffix(".jsonl"))
            .and_then(|digits| digits.parse().ok());
        first_seqs.extend(number);
    }
    first_seqs.sort_unstable();
    Ok(first_seqs)
}

fn open_segment(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)
}

fn make_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

impl Segments {
    /// Opens the journal in `directory`, creating it when it is not there, and repairs what a crash left.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open(
        directory: &Path,
        section: JournalSection,
    ) -> Result<(Self, SeenIds, Recovery), JournalError> {
        let directory_error = |source| JournalError::Directory { path: directory.to_owned(), source };
        make_directory(directory).map_err(directory_error)?;
        let mut first_seqs = list_segments(directory).map_err(directory_error)?;

        let snapshot = read_snapshot(directory);
        let through_seq = snapshot.as_ref().map_or(0, |snapshot| snapshot.through_seq);
        let mut seen = snapshot.map(SeenIds::from_snapshot).unwrap_or_default();
        let mut recovery = Recovery::default();
        let mut next_seq = through_seq + 1;
        let mut closed_bytes = 0;
        let mut length = 0;
        for (index, &first_seq) in first_seqs.iter().enumerate() {
            let is_open_one = index + 1 == first_seqs.len();
            next_seq = next_seq.max(first_seq);
            let path = segment_path(directory, first_seq);
            let segment_error = |source| JournalError::Segment { path: path.clone(), source };
            // Ids of older segments are in the snapshot.
            let known = first_seqs.get(index + 1).is_some_and(|&next| next <= through_seq + 1);
            if !is_open_one && known {
                closed_bytes += fs::metadata(&path).map_err(segment_error)?.len();
                continue;
            }
            let scan = scan_segment(&path, &mut seen).map_err(segment_error)?;
            next_seq = next_seq.max(scan.last_seq + 1);
            recovery.damaged_lines += scan.damaged_lines;
            if is_open_one {
                length = scan.whole_bytes;
                recovery.cut_bytes = scan.all_bytes - scan.whole_bytes;
            } else {
                closed_bytes += scan.all_bytes;
            }
        }
        if first_seqs.is_empty() {
            first_seqs.push(next_seq);
        }
        let path = segment_path(directory, *first_seqs.last().unwrap_or(&next_seq));
        let segment_error = |source| JournalError::Segment { path: path.clone(), source };
        let file = open_segment(&path).map_err(segment_error)?;
        if recovery.cut_bytes > 0 {
            file.set_len(length).and_then(|()| file.sync_data()).map_err(segment_error)?;
        }
        sync_directory(directory).map_err(directory_error)?;
        let segments = Self {
            directory: directory.to_owned(),
            section,
            first_seqs,
            file,
            length,
            closed_bytes,
            next_seq,
            deleted: false,
            sent_through: None,
            given_up: None,
        };
        Ok((segments, seen, recovery))
    }

    /// Number that the next alert gets.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Size of all segments in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.closed_bytes + self.length
    }

    /// Takes new sizes; they hold from the next append on.
    pub fn set_section(&mut self, section: JournalSection) {
        self.section = section;
    }

    /// Takes how far the fleet has the alerts; what it does not have yet is given up last.
    pub fn set_sent_through(&mut self, sent_through: Option<u64>) {
        self.sent_through = sent_through;
    }

    /// What was given up since the last call before the fleet had it.
    pub fn take_given_up(&mut self) -> Option<GivenUp> {
        self.given_up.take()
    }

    /// Whether the next append begins a new segment, and so needs the ids recorded until now.
    #[must_use]
    pub fn needs_snapshot(&self) -> bool {
        self.deleted || self.length >= self.section.segment_bytes
    }

    /// Appends whole records, `count` lines in `lines`, and returns when they are safe on disk. `snapshot` is
    /// there when [`Segments::needs_snapshot`] says so. After an error nothing of them is in the journal, and
    /// the same can be tried again.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn append(&mut self, lines: &[u8], count: u64, snapshot: Option<SeenSnapshot>) -> io::Result<()> {
        self.prepare(snapshot)?;
        if let Err(error) = self.file.write_all(lines).and_then(|()| self.file.sync_data()) {
            // A half-written batch would make a later record unreadable; what cannot even be cut off now is cut
            // off before the next append, because `length` still tells where it begins.
            self.file.set_len(self.length).ok();
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.next_seq += count;
        Ok(())
    }

    /// Makes sure that the open segment is there, whole and not full.
    fn prepare(&mut self, snapshot: Option<SeenSnapshot>) -> io::Result<()> {
        let metadata = self.file.metadata()?;
        self.deleted = metadata.nlink() == 0;
        match snapshot {
            Some(snapshot) => {
                make_directory(&self.directory)?;
                self.begin_segment(snapshot)?;
                self.make_room();
            }
            None if self.deleted => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the journal's file was deleted"));
            }
            None if metadata.len() != self.length => self.file.set_len(self.length)?,
            None => {}
        }
        Ok(())
    }

    fn begin_segment(&mut self, mut snapshot: SeenSnapshot) -> io::Result<()> {
        snapshot.through_seq = self.next_seq - 1;
        write_snapshot(&self.directory, &snapshot)?;
        let file = open_segment(&segment_path(&self.directory, self.next_seq))?;
        file.set_len(0)?;
        sync_directory(&self.directory)?;
        self.file = file;
        if !self.deleted {
            self.closed_bytes += self.length;
        }
        self.deleted = false;
        self.length = 0;
        if self.first_seqs.last() != Some(&self.next_seq) {
            self.first_seqs.push(self.next_seq);
        }
        Ok(())
    }

    /// Keeps the closed segments within their allowance. A segment of which the fleet has everything goes whole;
    /// where it waits for alerts, the least severe ones go first, the oldest of them before the others.
    fn make_room(&mut self) {
        let keep = self.section.keep_segments as usize;
        let sent_through = self.sent_through.unwrap_or(u64::MAX);
        while self.first_seqs.len() > keep
            && self.first_seqs.get(1).is_some_and(|&next| next - 1 <= sent_through)
        {
            self.delete_oldest();
        }
        let allowance = self.section.segment_bytes.saturating_mul(keep as u64 - 1);
        for severity in Severity::ALL {
            let closed: Vec<u64> = self.first_seqs.iter().rev().skip(1).rev().copied().collect();
            for first_seq in closed {
                if self.first_seqs.len() <= keep
                    || (self.closed_bytes <= allowance && self.first_seqs.len() <= MAX_SEGMENTS)
                {
                    return;
                }
                self.thin(first_seq, severity, sent_through);
            }
        }
    }

    fn thin(&mut self, first_seq: u64, severity: Severity, sent_through: u64) {
        let path = segment_path(&self.directory, first_seq);
        let before = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        // A file that cannot be thinned stays as it is; the next segment tries again.
        let Ok(thinned) = room::thin(&path, severity, sent_through) else { return };
        self.closed_bytes = self.closed_bytes.saturating_sub(before - thinned.bytes);
        if thinned.bytes == 0 {
            self.first_seqs.retain(|&first| first != first_seq);
        }
        GivenUp::join(&mut self.given_up, thinned.given_up);
    }

    fn delete_oldest(&mut self) {
        let path = segment_path(&self.directory, self.first_seqs.remove(0));
        if let Ok(metadata) = fs::metadata(&path)
            && fs::remove_file(&path).is_ok()
        {
            self.closed_bytes = self.closed_bytes.saturating_sub(metadata.len());
        }
    }
}

/// The name of the journal in `directory`, which it gets when it is begun: numbers of alerts mean something only
/// within one journal. Blocking.
///
/// # Errors
/// When it can be neither read nor written.
pub fn identity(directory: &Path) -> io::Result<String> {
    let path = directory.join(IDENTITY_FILE);
    if let Ok(text) = fs::read_to_string(&path)
        && text.len() == 16
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(text);
    }
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let text = format!("{:016x}", u64::from_ne_bytes(random));
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(new, path)?;
    sync_directory(directory)?;
    Ok(text)
}

struct Scan {
    last_seq: u64,
    damaged_lines: u64,
    whole_bytes: u64,
    all_bytes: u64,
}

fn scan_segment(path: &Path, seen: &mut SeenIds) -> io::Result<Scan> {
    let file = File::open(path)?;
    let mut scan = Scan { last_seq: 0, damaged_lines: 0, whole_bytes: 0, all_bytes: file.metadata()?.len() };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(scan);
        }
        scan.whole_bytes += read as u64;
        match serde_json::from_slice::<AlertRecord>(&line) {
            Ok(record) => {
                scan.last_seq = scan.last_seq.max(record.seq);
                if let Some(id) = &record.id {
                    seen.insert(&record.module, id);
                }
            }
            Err(_) => scan.damaged_lines += 1,
        }
    }
}

fn read_snapshot(directory: &Path) -> Option<SeenSnapshot> {
    // Missing or unreadable: the segments are scanned instead.
    serde_json::from_slice(&fs::read(directory.join(SEEN_FILE)).ok()?).ok()
}

fn write_snapshot(directory: &Path, snapshot: &SeenSnapshot) -> io::Result<()> {
    let new = directory.join("seen-ids.json.new");
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(snapshot)?)?;
    file.sync_data()?;
    fs::rename(new, directory.join(SEEN_FILE))
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reads recorded alerts in order, and goes on where it stopped when more are recorded. Blocking.
#[derive(Debug)]
pub struct JournalReader {
    directory: PathBuf,
    /// Number of the newest alert that was returned.
    after: u64,
    open: Option<(u64, BufReader<File>)>,
}

impl JournalReader {
    /// Reads the alerts after number `after` from the journal in `directory`.
    #[must_use]
    pub fn new(directory: &Path, after: u64) -> Self {
        Self { directory: directory.to_owned(), after, open: None }
    }

    /// Appends up to `limit` further records that are recorded up to number `through`; fewer mean that there
    /// are no more at present.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read(&mut self, through: u64, limit: usize, records: &mut Vec<AlertRecord>) -> io::Result<()> {
        self.read_some(through, limit, usize::MAX, records)
    }

    /// The same, and stops when the records together have `bytes` bytes in their file or more.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub fn read_some(
        &mut self,
        through: u64,
        limit: usize,
        bytes: usize,
        records: &mut Vec<AlertRecord>,
    ) -> io::Result<()> {
        let wanted = records.len() + limit;
        let mut read_bytes = 0;
        let mut line = Vec::new();
        while records.len() < wanted && self.after < through && read_bytes < bytes {
            if self.open.is_none() && !self.open_next(None)? {
                return Ok(());
            }
            let Some((first_seq, reader)) = &mut self.open else { return Ok(()) };
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if read == 0 {
                let finished = *first_seq;
                if !self.open_next(Some(finished))? {
                    return Ok(());
                }
            } else if line.last() != Some(&b'\n') {
                // Half a record: it is being written now, and is read again from its beginning later.
                reader.seek(SeekFrom::Current(-i64::try_from(read).unwrap_or(0)))?;
                return Ok(());
            } else if let Ok(record) = serde_json::from_slice::<AlertRecord>(&line)
                && record.seq > self.after
            {
                if record.seq > through {
                    reader.seek(SeekFrom::Current(-i64::try_from(read).unwrap_or(0)))?;
                    return Ok(());
                }
                self.after = record.seq;
                read_bytes += read;
                records.push(record);
            }
        }
        Ok(())
    }

    /// Opens the segment after the one that begins with `finished`, or the one that holds the next alert.
    fn open_next(&mut self, finished: Option<u64>) -> io::Result<bool> {
        let first_seqs = list_segments(&self.directory)?;
        let next = match finished {
            Some(finished) => first_seqs.iter().find(|&&first| first > finished),
            None => {
                first_seqs.iter().rev().find(|&&first| first <= self.after + 1).or_else(|| first_seqs.first())
            }
        };
        let Some(&first_seq) = next else { return Ok(false) };
        let file = File::open(segment_path(&self.directory, first_seq))?;
        self.open = Some((first_seq, BufReader::with_capacity(256 * 1024, file)));
        Ok(true)
    }
}

/// Number after which the newest `count` of `module`'s alerts begin (any module's when absent). Blocking.
///
/// # Errors
/// When a segment cannot be read.
pub fn start_of_last(
    directory: &Path,
    through: u64,
    count: usize,
    wanted: impl Fn(&AlertRecord) -> bool,
) -> io::Result<u64> {
    let mut newest = std::collections::VecDeque::with_capacity(count.min(4096) + 1);
    let mut before_first = through;
    for &first_seq in list_segments(directory)?.iter().rev() {
        let mut reader = JournalReader::new(directory, first_seq.saturating_sub(1));
        let mut in_segment = Vec::new();
        let mut records = Vec::new();
        loop {
            records.clear();
            reader.read(before_first, 1024, &mut records)?;
            if records.is_empty() {
                break;
            }
            in_segment.extend(records.drain(..).filter(&wanted).map(|record| record.seq));
        }
        before_first = first_seq.saturating_sub(1);
        for seq in in_segment.into_iter().rev() {
            newest.push_front(seq);
            if newest.len() == count {
                return Ok(seq - 1);
            }
        }
    }
    Ok(newest.front().map_or(through, |first| first - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    fn section(segment_bytes: u64, keep_segments: u32) -> JournalSection {
        JournalSection { segment_bytes, keep_segments, ..JournalSection::default() }
    }

    fn line(seq: u64) -> Vec<u8> {
        let record = AlertRecord {
            seq,
            time: "2026-01-02T03:04:05Z".to_owned(),
            module: "watch".parse().unwrap(),
            id: Some(format!("e-{seq}")),
            message: format!("alert {seq}"),
        };
        let mut line = serde_json::to_vec(&record).unwrap();
        line.push(b'\n');
        line
    }

    fn append(segments: &mut Segments, seen: &mut SeenIds, count: u64) {
        for _ in 0..count {
            let seq = segments.next_seq();
            let snapshot = segments.needs_snapshot().then(|| seen.snapshot());
            segments.append(&line(seq), 1, snapshot).unwrap();
            seen.insert(&"watch".parse().unwrap(), &format!("e-{seq}"));
        }
    }

    fn read_all(directory: &Path, through: u64) -> Vec<u64> {
        let mut records = Vec::new();
        JournalReader::new(directory, 0).read(through, usize::MAX / 2, &mut records).unwrap();
        records.into_iter().map(|record| record.seq).collect()
    }

    #[test]
    fn what_was_appended_is_read_back_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, mut seen, _) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();
        append(&mut segments, &mut seen, 3);
        drop(segments);

        let (segments, seen, recovery) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();

        assert_eq!(segments.next_seq(), 4);
        assert_eq!(recovery, Recovery::default());
        assert!(seen.contains(&"watch".parse().unwrap(), "e-3"));
        assert_eq!(read_all(directory.path(), 3), [1, 2, 3]);
    }

    #[test]
    fn ids_are_known_after_their_segments_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, mut seen, _) = Segments::open(directory.path(), section(200, 2)).unwrap();
        append(&mut segments, &mut seen, 50);
        drop(segments);

        let (segments, seen, _) = Segments::open(directory.path(), section(200, 2)).unwrap();

        let module = "watch".parse().unwrap();
        assert!((1..=50).all(|seq| seen.contains(&module, &format!("e-{seq}"))));
        assert_eq!(segments.next_seq(), 51);
        assert_eq!(list_segments(directory.path()).unwrap().len(), 2);
        let on_disk: u64 = list_segments(directory.path())
            .unwrap()
            .iter()
            .map(|&first| fs::metadata(segment_path(directory.path(), first)).unwrap().len())
            .sum();
        assert_eq!(segments.bytes(), on_disk);
    }

    fn severe(seq: u64, severity: &str) -> Vec<u8> {
        let record = AlertRecord {
            seq,
            time: "2026-01-02T03:04:05Z".to_owned(),
            module: "watch".parse().unwrap(),
            id: None,
            message: serde_json::json!({ "severity": severity, "alert": "x" }).to_string(),
        };
        let mut line = serde_json::to_vec(&record).unwrap();
        line.push(b'\n');
        line
    }

    /// Appends alerts of which every tenth is critical and the others are low.
    fn append_severe(segments: &mut Segments, count: u64) {
        for _ in 0..count {
            let seq = segments.next_seq();
            let snapshot = segments.needs_snapshot().then(|| SeenIds::default().snapshot());
            let severity = if seq.is_multiple_of(10) { "critical" } else { "low" };
            segments.append(&severe(seq, severity), 1, snapshot).unwrap();
        }
    }

    #[test]
    fn alerts_that_the_fleet_waits_for_are_given_up_from_the_least_severe_one_on() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, ..) = Segments::open(directory.path(), section(2000, 4)).unwrap();
        segments.set_sent_through(Some(5));

        append_severe(&mut segments, 200);

        let left = read_all(directory.path(), 200);
        let given_up = segments.take_given_up().unwrap();
        assert!((1..=20).all(|number| left.contains(&(number * 10))), "every critical one stays: {left:?}");
        assert_eq!(given_up.counts[3], 0);
        // Those that the fleet has are no loss.
        assert_eq!(given_up.total(), 195 - left.iter().filter(|&&seq| seq > 5).count() as u64);
        assert!(segments.bytes() <= 2000 * 4 + 100, "{}", segments.bytes());
        let kept_low: Vec<_> = left.iter().filter(|&&seq| seq % 10 != 0).collect();
        assert!(kept_low.iter().all(|&&seq| seq > given_up.last_seq), "the oldest ones went");
        assert_eq!(segments.take_given_up(), None);
    }

    #[test]
    fn even_the_most_severe_ones_go_before_the_disk_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, ..) = Segments::open(directory.path(), section(1000, 3)).unwrap();
        segments.set_sent_through(Some(0));
        for _ in 0..200 {
            let seq = segments.next_seq();
            let snapshot = segments.needs_snapshot().then(|| SeenIds::default().snapshot());
            segments.append(&severe(seq, "critical"), 1, snapshot).unwrap();
        }

        let left = read_all(directory.path(), 200);
        let given_up = segments.take_given_up().unwrap();

        assert_eq!(given_up.counts[3] + left.len() as u64, 200);
        assert_eq!(left.first(), Some(&(given_up.last_seq + 1)));
        assert!(segments.bytes() <= 3 * 1000 + 200);
    }

    #[test]
    fn what_the_fleet_has_goes_whole_and_is_no_loss() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, ..) = Segments::open(directory.path(), section(1000, 3)).unwrap();
        for _ in 0..100 {
            segments.set_sent_through(Some(segments.next_seq() - 1));
            append_severe(&mut segments, 1);
        }

        assert_eq!(segments.take_given_up(), None);
        assert!(list_segments(directory.path()).unwrap().len() <= 4);
    }

    #[test]
    fn a_reader_goes_on_in_a_file_that_was_thinned() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, ..) = Segments::open(directory.path(), section(2000, 4)).unwrap();
        segments.set_sent_through(Some(0));
        append_severe(&mut segments, 30);
        let mut reader = JournalReader::new(directory.path(), 0);
        let mut records = Vec::new();
        reader.read(30, 5, &mut records).unwrap();

        append_severe(&mut segments, 170);
        reader.read(200, 1000, &mut records).unwrap();

        let seqs: Vec<u64> = records.into_iter().map(|record| record.seq).collect();
        assert!(seqs.is_sorted() && (1..=20).all(|number| seqs.contains(&(number * 10))), "{seqs:?}");
    }

    #[test]
    fn a_journal_has_one_name_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let name = identity(directory.path()).unwrap();

        assert_eq!(identity(directory.path()).unwrap(), name);
        fs::write(directory.path().join(IDENTITY_FILE), "damaged").unwrap();
        assert_ne!(identity(directory.path()).unwrap(), name);
    }

    #[test]
    fn a_deleted_directory_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let journal = directory.path().join("journal");
        let (mut segments, mut seen, _) = Segments::open(&journal, section(1 << 20, 4)).unwrap();
        append(&mut segments, &mut seen, 2);
        fs::remove_dir_all(&journal).unwrap();

        assert!(segments.append(&line(3), 1, None).is_err());
        append(&mut segments, &mut seen, 2);
        let (_, seen, _) = Segments::open(&journal, section(1 << 20, 4)).unwrap();

        assert_eq!(read_all(&journal, 4), [3, 4]);
        assert!(seen.contains(&"watch".parse().unwrap(), "e-1"));
    }

    #[test]
    fn a_damaged_line_hides_no_other_record() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, mut seen, _) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();
        append(&mut segments, &mut seen, 3);
        let path = segment_path(directory.path(), 1);
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let first = line(1).len() as u64;
        file.write_all_at(b"\0\0\0\0", first).unwrap();
        drop(segments);

        let (segments, _, recovery) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();

        assert_eq!(recovery.damaged_lines, 1);
        assert_eq!(segments.next_seq(), 4);
        assert_eq!(read_all(directory.path(), 3), [1, 3]);
    }

    #[test]
    fn the_newest_alerts_are_found_over_segments() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, mut seen, _) = Segments::open(directory.path(), section(300, 100)).unwrap();
        append(&mut segments, &mut seen, 20);

        for (count, expected) in [(1, 19), (5, 15), (20, 0), (100, 0)] {
            assert_eq!(
                start_of_last(directory.path(), 20, count, |_| true).unwrap(),
                expected,
                "last {count}"
            );
        }
        let even = start_of_last(directory.path(), 20, 3, |record| record.seq % 2 == 0).unwrap();
        assert_eq!(even, 15);
    }

    #[test]
    fn a_reader_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let (mut segments, mut seen, _) = Segments::open(directory.path(), section(300, 100)).unwrap();
        let mut reader = JournalReader::new(directory.path(), 0);
        let mut records = Vec::new();
        for round in 1..=10 {
            append(&mut segments, &mut seen, 3);
            reader.read(round * 3, 100, &mut records).unwrap();
        }

        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        assert_eq!(seqs, (1..=30).collect::<Vec<_>>());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// A crash at any byte loses at most the record that was being written, and never a number is given
        /// twice.
        #[test]
        fn a_crash_at_any_byte_keeps_every_whole_record(keep in 0usize..400) {
            let directory = tempfile::tempdir().unwrap();
            let (mut segments, mut seen, _) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();
            append(&mut segments, &mut seen, 4);
            drop(segments);
            let path = segment_path(directory.path(), 1);
            let whole = fs::read(&path).unwrap();
            let keep = keep.min(whole.len());
            fs::write(&path, &whole[..keep]).unwrap();
            let complete = whole[..keep].iter().filter(|&&byte| byte == b'\n').count() as u64;

            let (mut segments, mut seen, _) = Segments::open(directory.path(), section(1 << 20, 4)).unwrap();
            prop_assert_eq!(segments.next_seq(), complete + 1);
            append(&mut segments, &mut seen, 2);

            prop_assert_eq!(read_all(directory.path(), complete + 2), (1..=complete + 2).collect::<Vec<_>>());
        }
    }
}
