//! The search paths: where the walk begins, and begins again for those that it did not meet on its way.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;
use vigie_host::mounts::of_process;

use super::place::{FileName, Place};
use super::{Base, Directory, Interest, Job, Walk, Worker};
use crate::open;
use crate::pool::Pool;

/// A search path of some searches.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) searches: Vec<usize>,
    pub(super) reached: AtomicBool,
}

/// Whether it is the root of a process that has ended: then nobody knows what was there.
fn is_gone(path: &Path) -> bool {
    of_process(path).is_some_and(|(process, _)| !process.exists())
}

impl Walk {
    /// The search paths that were not met and do not lie below another one of them.
    pub(super) fn outermost_unreached(&self) -> Vec<usize> {
        let unreached: BTreeMap<&Path, usize> = (self.roots.iter().enumerate())
            .filter(|(_, root)| !root.reached.load(Ordering::Relaxed))
            .map(|(index, root)| (root.path.as_path(), index))
            .collect();
        let is_outermost =
            |path: &Path| path.ancestors().skip(1).all(|ancestor| !unreached.contains_key(ancestor));
        unreached.iter().filter(|(path, _)| is_outermost(path)).map(|(_, index)| *index).collect()
    }

    /// Begins at a search path, whatever is there.
    pub(super) fn root(&self, root: &Root, worker: &mut Worker, pool: &Pool<Job>) {
        root.reached.store(true, Ordering::Relaxed);
        let asked = root.path.as_os_str().as_bytes();
        worker.own.at_link(asked, b"");
        // When the path itself is a link: the investigator asked for this very one, as with find -H.
        let begun = open::real_path(&root.path).and_then(|real| {
            worker.own.at_directory(asked, real.as_os_str().as_bytes());
            match open::status_without_links(&real)?.kind {
                FileType::Directory => self.root_directory(root, &real, worker, pool)?,
                FileType::RegularFile => self.root_file(root, real, worker),
                _ => self.errors.add(asked, "is neither a file nor a directory, nor a link to one"),
            }
            Ok(())
        });
        if let Err(error) = begun {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let why = format!("cannot be opened: {error}");
            // A search path that does not exist proves that nothing is there.
            match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory if !is_gone(&root.path) => {
                    self.errors.add(asked, why)
                }
                _ => self.cannot(asked, why),
            }
        }
    }

    fn root_directory(
        &self,
        root: &Root,
        real: &Path,
        worker: &mut Worker,
        pool: &Pool<Job>,
    ) -> std::io::Result<()> {
        let (base, below) = open::begin(real)?;
        let directory = open::open_directory(base.as_fd(), below.as_os_str().as_bytes())?;
        let base = Base {
            directory,
            asked: root.path.as_os_str().as_bytes().to_owned(),
            real: real.as_os_str().as_bytes().to_owned(),
        };
        let mut interests = Vec::new();
        self.add_root(root, 1, &Arc::from(real), &mut interests);
        let directory =
            Directory { base: Arc::new(base), path: Vec::new(), depth: 1, interests: interests.into() };
        self.directory(&directory, worker, pool);
        Ok(())
    }

    fn root_file(&self, root: &Root, real: PathBuf, worker: &mut Worker) {
        let mut interests = Vec::new();
        self.add_root(root, 1, &Arc::from(real.as_path()), &mut interests);
        let place = root.path.parent().unwrap_or(&root.path).as_os_str().as_bytes().to_owned();
        let place = Arc::new(Place::elsewhere(place));
        let called = root.path.file_name().unwrap_or_default().as_bytes().into();
        self.files.fetch_add(1, Ordering::Relaxed);
        self.file(&place, &FileName::Elsewhere { called, real: real.into() }, &interests, true, worker);
    }

    /// Adds the searches whose path this is; one that is interested already goes as deep as it may from either.
    pub(super) fn add_root(&self, root: &Root, depth: u32, real: &Arc<Path>, interests: &mut Vec<Interest>) {
        for search in &root.searches {
            let deepest = depth.saturating_add(self.searches[*search].options.max_depth - 1);
            match interests.iter_mut().find(|interest| interest.search == *search) {
                Some(interest) => interest.deepest = interest.deepest.max(deepest),
                None => interests.push(Interest { search: *search, deepest, base: Arc::clone(real) }),
            }
        }
    }
}
