//! The threads that look at files, so that the engine never waits for a disk.
//!
//! They take jobs and leave reports in the engine's mailbox. What root alone can change has a thread that nobody else
//! uses, and is taken first by all others; users have their turns one after the other (`workers/queue.rs`). A job is a
//! directory to list and compare with what is known of it, or some paths to look at. A directory in which much has to
//! be read is cut into parts that all threads share.

mod desks;
mod listing;
mod queue;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::desks::Doing;
use self::desks::{Desk, Desks};
pub(crate) use self::listing::PORTION_NAMES;
pub use self::listing::ToRead;
use self::listing::{Listing, list, parts, read_part};
use self::queue::{Queue, Serves};
use crate::accounts::Story;
use crate::avoided::Avoided;
use crate::events::{Happened, Mailbox};
use crate::look::{Found, Plan, Scratch, is_missing, look_at};
use crate::object::{Content, Object};
use crate::packed::{log_of, unpacked_digest};
use crate::reading::{Reading, SLICE_BYTES, Step};
use crate::rules::{Coverage, Options};
use crate::transaction::PackageChange;
use crate::trust::{Lane, NOBODY};

/// How closely a directory is compared.
#[derive(Debug, Clone)]
pub enum Depth {
    /// By what can be told without reading: what differs, came or went is only named.
    Glance,
    /// By reading every file that was ever read.
    Prove,
}

/// What a listing goes by.
#[derive(Debug, Clone)]
pub struct ScanRules {
    /// Which rule a path has.
    pub coverage: Arc<Coverage>,
    /// Entries that were looked at once; what is new below others is read at once, to be learned.
    pub learned: Arc<BTreeSet<String>>,
    /// Whether all entries are in `learned`.
    pub all_learned: bool,
    /// How closely to compare.
    pub depth: Depth,
    /// Mounts in which nothing is looked at, and not at the mount either.
    pub avoided: Avoided,
}

/// A path to look at.
#[derive(Debug)]
pub struct Item {
    /// The path.
    pub path: PathBuf,
    /// What is known of it, or of the log of which it can be a new copy.
    pub known: Option<Object>,
    /// What to find out.
    pub plan: Plan,
    /// Why it is looked at.
    pub happened: Happened,
    /// It is being read on: a [`Report::Digested`] follows.
    pub reads: bool,
    /// Of a compressed log, the digest of what is in it.
    pub unpacked: Option<[u8; 32]>,
}

/// To whom the listing of a directory is accounted, and with how many bytes until it is taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Who can make names there.
    pub lane: Lane,
    /// About what it may take.
    pub bytes: usize,
}

/// What a thread is asked to do.
#[derive(Debug)]
pub enum Job {
    /// List a directory and compare it with what is known to be in it.
    List {
        /// The scan that it belongs to.
        scan: u64,
        /// The directory.
        directory: PathBuf,
        /// Only names after this one.
        after: Option<OsString>,
        /// What is known to be in it after that, in the order of names: all, or at least `PORTION_NAMES`.
        known: Vec<(OsString, Object)>,
        /// What to go by.
        rules: ScanRules,
        /// To whom it is accounted.
        charge: Charge,
    },
    /// Read some files of a directory.
    Part {
        /// The scan that it belongs to.
        scan: u64,
        /// The directory.
        directory: PathBuf,
        /// The files.
        files: Vec<ToRead>,
        /// To whom it is accounted; the bytes are with the listing.
        lane: Lane,
    },
    /// Look at some paths.
    Look {
        /// To whom it is accounted.
        lane: Lane,
        /// The round that they belong to.
        round: u64,
        /// The paths.
        items: Vec<Item>,
    },
    /// Read a file on.
    Read {
        /// To whom it is accounted.
        lane: Lane,
        /// Its path.
        path: PathBuf,
        /// How far it was read.
        reading: Box<Reading>,
    },
}

/// What a thread found.
#[derive(Debug)]
pub enum Report {
    /// A directory was listed.
    Listed {
        /// The scan.
        scan: u64,
        /// The directory.
        directory: PathBuf,
        /// What is in it.
        listed: Listed,
        /// To whom it is accounted.
        charge: Charge,
    },
    /// Some files were read.
    Read {
        /// The scan.
        scan: u64,
        /// The directory.
        directory: PathBuf,
        /// What was found.
        findings: Findings,
        /// Parts that were made of what was not read yet, and will be reported as well.
        parts: usize,
        /// To whom it is accounted.
        charge: Charge,
    },
    /// Some files were read again.
    Verified {
        /// How many.
        files: usize,
        /// Bytes that were read for it.
        bytes_read: u64,
        /// Those that are not as they are known.
        differing: Vec<PathBuf>,
    },
    /// A file without a name was made for a proof.
    Probed {
        /// In this directory.
        at: PathBuf,
        /// Its inode, or why none could be made.
        made: Result<u64, String>,
    },
    /// The canary was replaced, or why it could not be.
    Replaced(Result<(), String>),
    /// What became of accounts.
    Accounts(Story),
    /// Whether the process of a package manager runs.
    Running {
        /// Its id, and when it started.
        process: (i32, u64),
        /// It does.
        runs: bool,
    },
    /// What became of packages in a transaction that is over.
    Ended {
        /// The package manager's process: its id, and when it started.
        process: (i32, u64),
        /// The packages.
        packages: Vec<PackageChange>,
    },
    /// What packages say of some paths.
    Recorded {
        /// The round.
        round: u64,
        /// Which alert, and its package.
        answers: Vec<(usize, serde_json::Value)>,
    },
    /// A file that was looked at before was read to its end, or is not what it was any more.
    Digested {
        /// The path.
        path: PathBuf,
        /// It as it was when its reading began.
        before: Box<Object>,
        /// It with its content, and whether it is the known file with more at its end; nothing when it is not as
        /// `before`.
        found: io::Result<Option<(Object, bool)>>,
    },
    /// A directory whose listing was given up was listed after all, or cannot be.
    Responds(PathBuf),
    /// Some paths were looked at.
    Looked {
        /// The round.
        round: u64,
        /// The paths and what is there.
        outcomes: Vec<(Item, io::Result<Found>)>,
    },
}

/// A directory, or a portion of it.
#[derive(Debug)]
pub struct Listed {
    /// Its directories below which something may be watched, each with its device.
    pub directories: Vec<(OsString, u64)>,
    /// What was found in it.
    pub findings: Findings,
    /// Parts that were made of it, and will be reported as well.
    pub parts: usize,
    /// The last name that was compared, when there are more.
    pub rest_after: Option<OsString>,
    /// Why it could not be listed.
    pub error: Option<io::Error>,
}

/// What was found in a directory.
#[derive(Debug, Default)]
pub struct Findings {
    /// Names that are not as they are known, are new, or are gone.
    pub suspects: Vec<OsString>,
    /// Names whose content is not what it was, although nothing else says so.
    pub disproved: Vec<OsString>,
    /// Names of files that are too large to be read along with others.
    pub large: Vec<OsString>,
    /// New objects to learn.
    pub fresh: Vec<(OsString, Object)>,
    /// Files that have more than one name.
    pub linked: Vec<OsString>,
    /// Symbolic links that the rule of their path follows.
    pub links: Vec<OsString>,
    /// Names that cannot be looked at, and why.
    pub unreadable: Vec<(OsString, io::Error)>,
    /// Objects that were compared.
    pub compared: usize,
    /// Bytes that were read.
    pub bytes_read: u64,
}

impl Findings {
    /// Leaves at most so many names of each kind here; gives the others. New objects stay together: they are learned at
    /// once.
    pub fn split_off(&mut self, most: usize) -> Option<Self> {
        fn rest<T>(all: &mut Vec<T>, most: usize) -> Vec<T> {
            if all.len() > most { all.split_off(most) } else { Vec::new() }
        }
        let rest = Self {
            suspects: rest(&mut self.suspects, most),
            disproved: rest(&mut self.disproved, most),
            large: rest(&mut self.large, most),
            linked: rest(&mut self.linked, most),
            links: rest(&mut self.links, most),
            unreadable: rest(&mut self.unreadable, most),
            ..Self::default()
        };
        let lengths = [
            rest.suspects.len(),
            rest.disproved.len(),
            rest.large.len(),
            rest.linked.len(),
            rest.links.len(),
            rest.unreadable.len(),
        ];
        (lengths != [0; 6]).then_some(rest)
    }
}

/// The threads. They end with it.
#[derive(Debug)]
pub(crate) struct Workers {
    queue: Arc<Queue>,
    threads: usize,
    desks: Desks,
    mailbox: Mailbox,
    avoided: Avoided,
}

impl Workers {
    /// Starts the threads; their reports go to `mailbox`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(mailbox: &Mailbox, avoided: &Avoided) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).clamp(1, 8);
        let (mailbox, avoided) = (mailbox.clone(), avoided.clone());
        let workers = Self { queue: Arc::default(), threads, desks: Desks::default(), mailbox, avoided };
        workers.start_thread("worker trusted".to_owned(), Serves::Trusted)?;
        for number in 0..threads {
            workers.start_thread(format!("worker {number}"), Serves::All)?;
        }
        Ok(workers)
    }

    fn start_thread(&self, name: String, serves: Serves) -> io::Result<()> {
        let (queue, mailbox, avoided) = (Arc::clone(&self.queue), self.mailbox.clone(), self.avoided.clone());
        let desk = self.desks.add();
        let thread = std::thread::Builder::new().name(name).stack_size(256 * 1024);
        thread.spawn(move || work(&queue, serves, &mailbox, &avoided, &desk)).map(drop)
    }

    /// Gives up listings that take longer than this and are meant, and puts other threads in the place of those that
    /// wait for them. Of each a [`Report::Responds`] follows if it comes to its end.
    pub(crate) fn give_up(
        &self,
        now: Instant,
        longest: Duration,
        is_meant: impl Fn(&Doing) -> bool,
    ) -> Vec<Doing> {
        let mut given_up = self.desks.give_up(now, longest, &is_meant);
        let lost = given_up.len();
        // Who takes the place of a thread must not come to wait for the same directory.
        let waiting: Vec<Job> =
            given_up.iter().flat_map(|doing| self.queue.take_listings(&doing.path)).collect();
        for job in waiting {
            match Doing::of(&job).filter(&is_meant) {
                Some(doing) => given_up.push(doing),
                None => self.put([job]),
            }
        }
        for _ in 0..lost {
            // Without another one the others do the work.
            self.start_thread("worker".to_owned(), Serves::All).ok();
        }
        given_up
    }

    /// Number of threads that list directories.
    #[must_use]
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// What the threads do now.
    pub(crate) fn doing(&self) -> impl Iterator<Item = Doing> {
        self.desks.doing().into_iter()
    }

    /// Hands over jobs.
    pub(crate) fn put(&self, jobs: impl IntoIterator<Item = Job>) {
        for dropped in self.queue.put(jobs) {
            drop(dropped);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn work(queue: &Queue, serves: Serves, mailbox: &Mailbox, avoided: &Avoided, desk: &Desk) {
    let mut scratch = Scratch::beside(avoided.clone());
    loop {
        desk.finish();
        let Some(job) = queue.next(serves) else { return };
        desk.begin(&job);
        scratch.slice = Some(SLICE_BYTES);
        match job {
            Job::List { scan, directory, after, known, rules, charge } => {
                let lane = charge.lane;
                let read_before = scratch.bytes_read;
                let mut listing = Listing {
                    device: 0,
                    findings: Findings::default(),
                    directories: Vec::new(),
                    to_read: Vec::new(),
                };
                let listed = list(&directory, after.as_deref(), known, &rules, &mut listing, &mut scratch);
                let (rest_after, mut error) = match listed {
                    Ok(rest_after) => (rest_after, None),
                    Err(error) => (None, Some(error)),
                };
                let Listing { mut findings, directories, to_read, .. } = listing;
                let mut parts = parts(to_read).peekable();
                let mut jobs = Vec::new();
                if let Some(first) = parts.next() {
                    let job = |files| Job::Part { scan, directory: directory.clone(), files, lane };
                    // A single part is read here and now.
                    if parts.peek().is_none() {
                        match read_part(&directory, first, &mut findings, &mut scratch) {
                            Ok(rest) => jobs.extend(rest.map(job)),
                            Err(failed) => _ = error.get_or_insert(failed),
                        }
                    } else {
                        jobs.push(job(first));
                        jobs.extend(parts.map(job));
                    }
                }
                findings.bytes_read = scratch.bytes_read - read_before;
                if !desk.finish() {
                    return mailbox.report(Report::Responds(directory));
                }
                // The report of the whole is there before those of its parts.
                let listed = Listed { directories, findings, parts: jobs.len(), rest_after, error };
                mailbox.report(Report::Listed { scan, directory, listed, charge });
                queue.put(jobs);
            }
            Job::Part { scan, directory, files, lane } => {
                let mut findings = Findings::default();
                let read_before = scratch.bytes_read;
                let rest = read_part(&directory, files, &mut findings, &mut scratch);
                let rest = rest.unwrap_or_else(|error| {
                    if !is_missing(&error) {
                        findings.unreadable.push((OsString::new(), error));
                    }
                    None
                });
                findings.bytes_read = scratch.bytes_read - read_before;
                if !desk.finish() {
                    return mailbox.report(Report::Responds(directory));
                }
                let job = rest.map(|files| Job::Part { scan, directory: directory.clone(), files, lane });
                let (parts, charge) = (job.iter().len(), Charge { lane, bytes: 0 });
                mailbox.report(Report::Read { scan, directory, findings, parts, charge });
                queue.put(job);
            }
            Job::Look { lane, round, items } => {
                let mut readings = Vec::new();
                let outcomes = items
                    .into_iter()
                    .map(|mut item| {
                        let found = look_at(&item.path, item.plan, item.known.as_ref(), &mut scratch);
                        if let Some(reading) = scratch.reading.take() {
                            item.reads = true;
                            let lane = lane_of(lane, reading.before());
                            readings.push(Job::Read { lane, path: item.path.clone(), reading });
                        }
                        if item.plan.growing
                            && log_of(&item.path).is_some()
                            && let Some(packed) = digest_of(&found)
                        {
                            // Of what is damaged nothing is known: it is told like any other file.
                            item.unpacked =
                                unpacked_digest(&item.path, packed, &scratch.avoided).ok().flatten();
                        }
                        (item, found)
                    })
                    .collect();
                // The report of what there is comes before the one of what is in it.
                mailbox.report(Report::Looked { round, outcomes });
                put_on(queue, readings, mailbox);
            }
            Job::Read { lane, path, mut reading } => {
                let found = match reading.advance(SLICE_BYTES, &mut scratch) {
                    Ok(Step::More) => {
                        put_on(queue, [Job::Read { lane, path, reading }], mailbox);
                        continue;
                    }
                    Ok(Step::Done(object, grown)) => Ok(Some((object, grown))),
                    Ok(Step::Changed) => Ok(None),
                    Err(error) => Err(error),
                };
                let before = Box::new(reading.before().clone());
                mailbox.report(Report::Digested { path, before, found });
            }
        }
    }
}

/// The digest of a file of which the content is known.
fn digest_of(found: &io::Result<Found>) -> Option<[u8; 32]> {
    match found {
        Ok(Found::Object { object: Object { content: Content::Digest(digest), .. }, .. }) => Some(*digest),
        _ => None,
    }
}

/// Reads on when it is their turn. Those that were overtaken, or that are too many, are as good as changed.
fn put_on(queue: &Queue, readings: impl IntoIterator<Item = Job>, mailbox: &Mailbox) {
    for dropped in queue.put(readings) {
        if let Job::Read { path, reading, .. } = dropped {
            let before = Box::new(reading.before().clone());
            mailbox.report(Report::Digested { path, before, found: Ok(None) });
        }
    }
}

/// To whom reading a file on is accounted: to whoever can write it, when that is not root alone.
fn lane_of(lane: Lane, object: &Object) -> Lane {
    match lane {
        Lane::Trusted if object.owner != 0 => Lane::Of(object.owner),
        Lane::Trusted if object.permissions & 0o022 != 0 => Lane::Of(NOBODY),
        lane => lane,
    }
}

/// What a rule asks to find out.
#[must_use]
pub fn plan(options: &Options) -> Plan {
    Plan {
        hash: options.hash,
        largest_hashed: options.largest_hashed,
        growing: options.growing,
        ..Plan::default()
    }
}
