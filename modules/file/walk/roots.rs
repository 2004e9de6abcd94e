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

/// What lies at a search path, as it was asked for.
fn named(root: &Root, real: PathBuf) -> (Arc<Place>, FileName<'_>) {
    let place = root.path.parent().unwrap_or(&root.path).as_os_str().as_bytes().to_owned();
    let called = root.path.file_name().unwrap_or_default().as_bytes().into();
    (Arc::new(Place::elsewhere(place)), FileName::Elsewhere { called, real: real.into() })
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
        self.root_link(root, worker);
        // When the path itself is a link: the investigator asked for this very one, as with find -H.
        let begun = open::real_path(&root.path).and_then(|real| {
            worker.own.at_directory(asked, real.as_os_str().as_bytes());
            let kind = open::status_without_links(&real)?.kind;
            let is_wanted = self.root_itself(root, &real, kind, worker);
            match kind {
                FileType::Directory => self.root_directory(root, &real, worker, pool)?,
                FileType::RegularFile => self.root_file(root, real, worker),
                _ if is_wanted => {}
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

    /// The search path itself, when it is a link and links are searched for.
    fn root_link(&self, root: &Root, worker: &mut Worker) {
        let Some((parent, name)) = root.path.parent().zip(root.path.file_name()) else { return };
        let Ok(parent) = open::real_path(parent) else { return };
        let link = parent.join(name);
        if open::status_without_links(&link).is_ok_and(|status| status.kind == FileType::Symlink) {
            self.root_itself(root, &link, FileType::Symlink, worker);
        }
    }

    /// The search path itself for those who search for what it is, if that is no file; whether anybody does. A link
    /// that is also met on the way from another search path is in the findings once.
    fn root_itself(&self, root: &Root, real: &Path, kind: FileType, worker: &mut Worker) -> bool {
        let wants =
            |search: &&usize| kind != FileType::RegularFile && self.searches[**search].kinds.contains(&kind);
        let base: Arc<Path> = Arc::from(real);
        let wanting = root.searches.iter().filter(wants);
        let wanting: Vec<Interest> =
            wanting.map(|search| Interest { search: *search, deepest: 1, base: Arc::clone(&base) }).collect();
        if !wanting.is_empty() {
            let (place, file) = named(root, real.to_owned());
            self.file(&place, &file, &wanting, false, worker);
        }
        !wanting.is_empty()
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
        let (place, file) = named(root, real);
        self.files.fetch_add(1, Ordering::Relaxed);
        self.file(&place, &file, &interests, true, worker);
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
