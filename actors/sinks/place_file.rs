//! Where a sink is, on disk.

use std::io;
use std::path::{Path, PathBuf};

use vigie_config::sinks::Begin;
use vigie_files::durable::{self, Durability};
use vigie_sinks::place::Place;

use crate::alert_journal::JournalView;
use crate::work_threads::{self, Lane};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 4096;

/// The file of a sink.
#[derive(Debug, Clone)]
pub(super) struct PlaceFile(PathBuf);

/// What was found.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) place: Place,
    /// There was no place of this journal.
    pub(super) is_new: bool,
    /// Why what was there does not count, for people.
    pub(super) problem: Option<&'static str>,
}

impl PlaceFile {
    pub(super) fn new(directory: &Path, sink: &str) -> Self {
        Self(directory.join(format!("{sink}.place")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The place of the sink; where there is none, it begins as it is configured.
    pub(super) async fn load(&self, view: &JournalView, begin: Begin) -> io::Result<Loaded> {
        let (path, directory, newest) = (self.0.clone(), view.directory.clone(), *view.recorded.borrow());
        let loading = work_threads::run(Lane::Sinks, move || {
            let names = vigie_journal::Names::of(&directory)?;
            let journal = names.current();
            if let Some(parent) = path.parent() {
                durable::make_directory(parent)?;
            }
            let found = match durable::read_bounded(&path, MAX_BYTES) {
                Ok(text) => Place::parse(&text, journal, |named, after| names.resume(named, after)),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("is damaged"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let after = match begin {
                        Begin::New => newest,
                        Begin::Oldest => 0,
                    };
                    return Ok(Loaded { place: Place::new(journal, after), is_new: true, problem: None });
                }
                Err(error) => return Err(error),
            };
            Ok(match found {
                Ok(place) => Loaded { place, is_new: false, problem: None },
                // The sink was somewhere, nobody knows where: what may have been sent is sent again, and marked.
                Err(problem) => {
                    let place = Place { tried: newest, ..Place::new(journal, 0) };
                    Loaded { place, is_new: true, problem: Some(problem) }
                }
            })
        });
        loading.await.map_err(io::Error::other)?
    }

    /// Returns when it is on disk.
    pub(super) async fn store(&self, place: &Place) -> io::Result<()> {
        let (path, text) = (self.0.clone(), place.to_json());
        let storing =
            work_threads::run(Lane::Sinks, move || durable::replace(&path, &text, Durability::Power));
        storing.await.map_err(io::Error::other)?
    }

    /// The sink is gone from the configuration: one of the same name that comes later begins anew.
    pub(super) async fn remove(&self) {
        let path = self.0.clone();
        work_threads::run(Lane::Sinks, move || durable::remove(&path).ok()).await.ok();
    }
}
