//! `vigie fleet backup` and `restore`: what the broker keeps, in one file of JSON lines, and back into a broker.
//!
//! A backup holds no secrets unless they are asked for. Restoring trusts the file no more than a broker: the root keys
//! of the fleet's file must have signed the policy, enrolment keys of the policy the enrolments, and enrolled keys all
//! that agents sent; what nobody signed is named and left out. Nothing that the broker has is replaced.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vigie_fleet::admission;
use vigie_fleet::answer::{Purpose, Sealed};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::{self, Cursor, StoredError};
use vigie_fleet::broker::streams;
use vigie_fleet::policy::{self, Policy, SignedPolicy};
use vigie_fleet::subjects::{
    self, ALERTS, AUDIT, ENROL, EVERY_ALERT, EVERY_ANSWER, EVERY_AUDIT, EVERY_ENROLMENT, EVERY_FACTS,
    EVERY_STANDING, FACTS, POLICY, POLICY_SUBJECT, RESULTS, STANDING,
};
use vigie_protocol::names::AgentId;
use walkdir::{DirEntry, WalkDir};

use super::files::{self, failed};
use super::inventory::{Inventory, newest_enrolment};
use super::policy::sizes;
use super::profile::Profile;
use super::verify;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// What is backed up, in the order in which it is restored: each is checked by those before it. Questions, and requests
/// to join, live for a day at most and are left out.
const STREAMS: [(&str, &str); 7] = [
    (POLICY, POLICY_SUBJECT),
    (ENROL, EVERY_ENROLMENT),
    (FACTS, EVERY_FACTS),
    (STANDING, EVERY_STANDING),
    (ALERTS, EVERY_ALERT),
    (AUDIT, EVERY_AUDIT),
    (RESULTS, EVERY_ANSWER),
];

/// Version of the file's form.
const VERSION: u8 = 1;

/// Longest line: a message of 1 MiB in base64, and what is around it.
const MAX_LINE_BYTES: u64 = 2 << 20;

/// Largest key file that is kept.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// `fleet backup`
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The file to create, with mode 0600
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Save only this stream; may be repeated [default: POLICY, ENROL, FACTS, STANDING, ALERTS, AUDIT,
    /// RESULTS]
    #[arg(long = "stream", value_name = "NAME", value_parser = STREAMS.map(|(name, _)| name))]
    streams: Vec<String>,

    /// Include the secret keys from the directory of `fleet init`; anyone who has the file can then admit any
    /// host
    #[arg(long)]
    keys: bool,
}

/// `fleet restore`
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Write only the secret keys, if the backup contains them, to this new directory; write nothing to the
    /// broker
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,

    /// Only check that the file is complete and which entries are valid under the broker's policy
    #[arg(long, conflicts_with = "keys")]
    dry_run: bool,
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    Backup {
        v: u8,
        org: String,
        made: String,
    },
    Message {
        stream: String,
        subject: String,
        /// When the broker stored it, in seconds since 1970.
        stored: i64,
        value: String,
    },
    Key {
        name: String,
        value: String,
    },
    End {
        /// Lines before this one, and the digest of them.
        lines: u64,
        sha256: String,
    },
}

const BROKER: &str =
    "check that the broker is running, and that this is an administrator's fleet file (--fleet)";

fn damaged(path: &Path, problem: &str) -> Failure {
    let message = format!("{}: {problem}", path.display());
    Failure::new(Exit::Usage, message, "take another backup; nothing was restored")
}

/// Writes a file and its digest.
struct Writer {
    path: PathBuf,
    file: io::BufWriter<File>,
    digest: Sha256,
    lines: u64,
}

impl Writer {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| Self::unwritable(path, &error))?;
        let file = io::BufWriter::new(file);
        Ok(Self { path: path.to_owned(), file, digest: Sha256::new(), lines: 0 })
    }

    fn unwritable(path: &Path, error: &io::Error) -> Failure {
        let message = format!("cannot write {}: {error}", path.display());
        Failure::new(
            Exit::Io,
            message,
            "existing files are not overwritten; give another file, or check the free space",
        )
    }

    fn write(&mut self, line: &Line) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| Failure::new(Exit::Internal, format!("cannot write a line: {error}"), ""))?;
        text.push(b'\n');
        self.digest.update(&text);
        self.lines += 1;
        self.file.write_all(&text).map_err(|error| Self::unwritable(&self.path, &error))
    }

    fn end(mut self) -> Result<(), Failure> {
        let sha256 = HEXLOWER.encode(&self.digest.clone().finalize());
        self.write(&Line::End { lines: self.lines, sha256 })?;
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(|error| Self::unwritable(&self.path, &error))
    }
}

/// Carries out `fleet backup`.
pub(super) fn backup(args: &BackupArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let counts = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        let mut writer = Writer::create(&args.file)?;
        let made = jiff::Timestamp::now().to_string();
        writer.write(&Line::Backup { v: VERSION, org: profile.org.to_string(), made })?;
        let mut counts = BTreeMap::new();
        for (stream, every) in STREAMS {
            if !args.streams.is_empty() && !args.streams.iter().any(|name| name == stream) {
                continue;
            }
            let count = counts.entry(stream.to_owned()).or_insert(0u64);
            let (mut cursor, mut failure) = (Cursor { next: 1 }, None);
            let reading = cursor.read(&connection.client, stream, every, |entry| {
                *count += 1;
                let value = BASE64.encode(&entry.value);
                let (stream, subject, stored) = (stream.to_owned(), entry.subject, entry.stored);
                let written = writer.write(&Line::Message { stream, subject, stored, value });
                failure = written.err();
                failure.is_none()
            });
            reading.await.map_err(|error| failed(Exit::Unavailable, BROKER)(&error))?;
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        if args.keys {
            counts.insert("keys".to_owned(), write_keys(profile, &mut writer)?);
        }
        writer.end()?;
        Ok(counts)
    })?;
    tell(&counts, &format!("{} holds", args.file.display()), printer)?;
    Ok(Exit::Ok)
}

fn write_keys(profile: &Profile, writer: &mut Writer) -> Result<u64, Failure> {
    let directory = profile.enrolling.authority.as_deref().ok_or_else(|| {
        let message = "the fleet file does not set authority, the directory with the keys";
        Failure::new(Exit::Config, message, "give the administrator's fleet file that `fleet init` wrote")
    })?;
    let mut count = 0;
    for place in [directory.to_owned(), directory.join("keys")] {
        let entries = WalkDir::new(place).min_depth(1).max_depth(1).sort_by_file_name();
        for path in entries.into_iter().flatten().map(DirEntry::into_path) {
            let is_key = path.extension().is_some_and(|end| end == "seed" || end == "key")
                || path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("_key"));
            let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| is_key) else {
                continue;
            };
            let mut value = Vec::new();
            let read = File::open(&path).and_then(|file| file.take(MAX_KEY_BYTES).read_to_end(&mut value));
            read.map_err(|error| {
                let message = format!("cannot read {}: {error}", path.display());
                Failure::new(Exit::Io, message, "run it as the user who owns the keys")
            })?;
            writer.write(&Line::Key { name: name.to_owned(), value: BASE64.encode(&value) })?;
            count += 1;
        }
    }
    Ok(count)
}

fn tell(counts: &BTreeMap<String, u64>, what: &str, printer: &mut Printer) -> Result<(), Failure> {
    if printer.is_json() {
        return printer.json(counts);
    }
    let counts: Vec<String> = counts.iter().map(|(stream, count)| format!("{stream} {count}")).collect();
    let counts = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    printer.line(&format!("{what}: {counts}"))
}

/// Reads the lines of a file whose end and digest were checked, and gives each to `each`.
fn read(path: &Path, mut each: impl FnMut(Line) -> Result<(), Failure>) -> Result<(), Failure> {
    let unreadable = |error: io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Io, message, "give a file written by `vigie fleet backup`")
    };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let (mut digest, mut lines, mut text) = (Sha256::new(), 0u64, Vec::new());
    loop {
        text.clear();
        (&mut file).take(MAX_LINE_BYTES).read_until(b'\n', &mut text).map_err(unreadable)?;
        let line = serde_json::from_slice(&text);
        match line
            .map_err(|error| damaged(path, &format!("line {} is not part of a backup: {error}", lines + 1)))?
        {
            Line::End { lines: wanted, sha256 } => {
                let found = HEXLOWER.encode(&digest.finalize());
                let whole = (lines, &found) == (wanted, &sha256);
                return if whole { Ok(()) } else { Err(damaged(path, "it was changed or truncated")) };
            }
            Line::Backup { v, .. } if v != VERSION => {
                return Err(damaged(path, &format!("it has format {v}, but this program knows {VERSION}")));
            }
            line => each(line)?,
        }
        digest.update(&text);
        lines += 1;
    }
}

/// Carries out `fleet restore`.
pub(super) fn restore(args: &RestoreArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    // Once to the end before anything comes of it.
    let mut org = None;
    read(&args.file, |line| {
        if let Line::Backup { org: found, .. } = line {
            org = Some(found);
        }
        Ok(())
    })?;
    if org.as_deref() != Some(profile.org.as_str()) {
        let problem = format!(
            "it belongs to the fleet {:?}, not to {:?}",
            org.unwrap_or_default(),
            profile.org.as_str()
        );
        return Err(damaged(&args.file, &problem));
    }
    if let Some(directory) = &args.keys {
        return restore_keys(&args.file, directory, printer);
    }
    let outcome = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        let restoring =
            Restoring { connection: &connection, profile, file: &args.file, dry_run: args.dry_run };
        restoring.run().await
    })?;
    for (what, example) in &outcome.refused {
        print::note(&format!("skipped, no valid signature: {what} ({example})"));
    }
    let counts: BTreeMap<String, u64> = outcome.restored.into_iter().collect();
    let what = if args.dry_run { "would be restored" } else { "restored" };
    tell(&counts, what, printer)?;
    if outcome.kept > 0 {
        print::note(&format!("{} messages are already on the broker, or it has newer ones", outcome.kept));
    }
    Ok(if outcome.refused.is_empty() { Exit::Ok } else { Exit::SomeFailed })
}

fn restore_keys(file: &Path, directory: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    files::directory(directory)?;
    let mut count = 0;
    read(file, |line| {
        let Line::Key { name, value } = line else { return Ok(()) };
        // A name is one file of this directory, whatever somebody wrote into the backup.
        let is_name = !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let value = BASE64.decode(value.as_bytes()).ok().filter(|_| is_name);
        let value = value.ok_or_else(|| damaged(file, &format!("{name:?} is not a key")))?;
        let path = directory.join(&name);
        let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        written
            .and_then(|mut file| file.write_all(&value).and_then(|()| file.sync_all()))
            .map_err(|error| Writer::unwritable(&path, &error))?;
        count += 1;
        Ok(())
    })?;
    tell(&BTreeMap::from([("keys".to_owned(), count)]), &directory.display().to_string(), printer)?;
    Ok(Exit::Ok)
}

#[derive(Default)]
struct Outcome {
    restored: BTreeMap<String, u64>,
    /// What the broker has already.
    kept: u64,
    /// What does not count, by stream and subject, and why.
    refused: BTreeMap<String, String>,
}

struct Restoring<'a> {
    connection: &'a Connection,
    profile: &'a Profile,
    file: &'a Path,
    dry_run: bool,
}

/// A message of the file.
struct Found {
    subject: String,
    stored: i64,
    value: Vec<u8>,
}

impl Restoring<'_> {
    async fn run(&self) -> Result<Outcome, Failure> {
        let unavailable = |error: &StoredError| failed(Exit::Unavailable, BROKER)(error);
        let client = &self.connection.client;
        if !self.dry_run {
            let ensured = streams::ensure(client, &sizes(self.profile)).await;
            ensured.map_err(|error| failed(Exit::Unavailable, BROKER)(&error))?;
        }
        let mut outcome = Outcome::default();
        self.restore_policy(&mut outcome).await?;
        for (stream, every) in STREAMS.into_iter().skip(1) {
            // What is restored is checked by what was restored before.
            let inventory = Inventory::load(self.connection, self.profile).await?;
            let (mut there, mut subjects_there) = (HashSet::new(), BTreeSet::new());
            let mut cursor = Cursor { next: 1 };
            let reading = cursor.read(client, stream, every, |entry| {
                there.insert(digest(&entry.subject, &entry.value));
                subjects_there.insert(entry.subject);
                true
            });
            reading.await.map_err(|error| unavailable(&error))?;
            // An older enrolment or heartbeat after a newer one would take its place.
            let newest_counts = stream == ENROL || stream == FACTS;
            for found in self.messages(stream)? {
                let is_there = there.contains(&digest(&found.subject, &found.value))
                    || (newest_counts && subjects_there.contains(&found.subject));
                if is_there || !stored::matches(every, &found.subject) {
                    outcome.kept += u64::from(is_there);
                    continue;
                }
                match self.check(stream, &found, &inventory) {
                    Ok(true) => {
                        if !self.dry_run {
                            let stored = stored::store(client, &found.subject, &found.value).await;
                            stored.map_err(|error| unavailable(&error))?;
                        }
                        *outcome.restored.entry(stream.to_owned()).or_default() += 1;
                    }
                    Ok(false) => {}
                    Err(problem) => {
                        outcome.refused.insert(format!("{stream} {}", found.subject), problem);
                    }
                }
            }
        }
        Ok(outcome)
    }

    /// The messages of one stream. A stream at a time is in memory: what a broker keeps is bounded.
    fn messages(&self, wanted: &str) -> Result<Vec<Found>, Failure> {
        let mut found = Vec::new();
        read(self.file, |line| {
            if let Line::Message { stream, subject, stored, value } = line
                && stream == wanted
            {
                let value = BASE64.decode(value.as_bytes());
                let value = value.map_err(|error| damaged(self.file, &error.to_string()))?;
                found.push(Found { subject, stored, value });
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Puts the newest policy of the file in force that the root keys signed, unless the broker has a newer one.
    async fn restore_policy(&self, outcome: &mut Outcome) -> Result<(), Failure> {
        let found = self.messages(POLICY)?;
        let texts = found.iter().map(|found| &found.value[..]);
        let (newest, wrong) = policy::newest(texts, &self.profile.roots, self.profile.org.as_str());
        let current = super::policy::current(self.connection, self.profile).await?;
        if let (None, Some(error)) = (&newest, wrong.last()) {
            outcome.refused.insert(format!("{POLICY} {POLICY_SUBJECT}"), error.to_string());
        }
        let Some(newest) = newest else { return Ok(()) };
        if current.as_ref().is_some_and(|current| current.version() >= newest.version()) {
            outcome.kept += 1;
            return Ok(());
        }
        let is_it = |found: &&Found| {
            SignedPolicy::from_json(&found.value).is_ok_and(|signed| signed.policy == newest.text())
        };
        let Some(found) = found.iter().find(is_it) else { return Ok(()) };
        if !self.dry_run {
            let stored = stored::store(&self.connection.client, POLICY_SUBJECT, &found.value).await;
            stored.map_err(|error| failed(Exit::Unavailable, BROKER)(&error))?;
        }
        outcome.restored.insert(POLICY.to_owned(), 1);
        Ok(())
    }

    /// Whether a message is to be restored; an error when nobody signed it who may.
    fn check(&self, stream: &str, found: &Found, inventory: &Inventory) -> Result<bool, String> {
        let policy: &Policy = &inventory.policy;
        let org = self.profile.org.as_str();
        let agent: AgentId = subjects::last_name(&found.subject).ok_or("its subject names nobody")?;
        let purpose = match stream {
            ENROL => {
                let records = [found.value.clone().into()];
                let (counts, wrong) = newest_enrolment(&records, &agent, policy, org, None);
                return match counts {
                    Some(_) => Ok(true),
                    None => Err(wrong.join("; ")),
                };
            }
            STANDING => {
                let (_, action) =
                    admission::read(&found.value).map_err(|refused| refused.refusal.to_string())?;
                return match verify::refusal(&found.value, &action, policy, org, files::now()) {
                    None => Ok(true),
                    Some(refusal) if refusal.code() == "expired" => Ok(false),
                    Some(refusal) => Err(refusal.to_string()),
                };
            }
            FACTS => Purpose::Facts,
            ALERTS => Purpose::Alert,
            AUDIT => Purpose::Audit,
            _ => Purpose::Answer,
        };
        let sealed: Sealed = serde_json::from_slice(&found.value).map_err(|error| error.to_string())?;
        let opened = inventory.open(&agent, &sealed, purpose, found.stored);
        opened.map(|()| true).map_err(|problem| format!("the seal: {problem:?}"))
    }
}

/// To know a message again.
fn digest(subject: &str, value: &[u8]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update((subject.len() as u64).to_le_bytes());
    hash.update(subject.as_bytes());
    hash.update(value);
    let mut digest = [0; 16];
    digest.copy_from_slice(&hash.finalize()[..16]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_cut_or_changed_is_none() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("backup");
        let mut writer = Writer::create(&path).unwrap();
        writer.write(&Line::Backup { v: VERSION, org: "o".to_owned(), made: String::new() }).unwrap();
        for number in 0..3 {
            let (stream, subject) = (ALERTS.to_owned(), format!("vigie.alert.web-{number}"));
            writer.write(&Line::Message { stream, subject, stored: 0, value: BASE64.encode(b"{}") }).unwrap();
        }
        writer.end().unwrap();
        let count = |path: &Path| {
            let mut count = 0;
            read(path, |_| {
                count += 1;
                Ok(())
            })
            .map(|()| count)
        };
        assert_eq!(count(&path).unwrap(), 4);
        assert!(Writer::create(&path).is_err(), "existing files are not overwritten");

        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for bad in [
            lines[..4].join("\n"),
            text.replace("web-1", "web-9"),
            [lines[0], lines[1], lines[2], lines[4]].join("\n"),
            String::new(),
        ] {
            let changed = place.path().join("changed");
            fs::write(&changed, bad).unwrap();
            assert!(count(&changed).is_err());
        }
    }
}
