//! The modules' restart histories on disk, so that they outlive the agent. Losing them costs a few starts, so they are
//! written without hurry and read without complaint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use vigie_files::durable::{self, Durability};
use vigie_protocol::module_name::ModuleName;

use super::restart::{KeptHistory, RestartHistory};
use crate::work_threads::{self, Lane};

/// The file in the state directory.
const FILE_NAME: &str = "restarts.json";

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// When it was written, in milliseconds since 1970.
    at_ms: u64,
    modules: BTreeMap<ModuleName, KeptHistory>,
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

/// Reads what an earlier agent kept; `most` deaths of a module count. Blocking, called before any module runs.
pub(super) fn load(state_dir: &Path, most: usize) -> BTreeMap<ModuleName, RestartHistory> {
    let read = durable::read_bounded(&file(state_dir), MAX_BYTES).ok();
    let kept = read.and_then(|bytes| serde_json::from_slice::<Kept>(&bytes).ok());
    let Some(kept) = kept else { return BTreeMap::new() };
    // A clock that was set back makes the deaths younger, never older than they are.
    let elapsed = Duration::from_millis(now_ms().saturating_sub(kept.at_ms));
    let now = Instant::now();
    let restore = |(name, history): (ModuleName, KeptHistory)| {
        (name, RestartHistory::restore(&history, elapsed, most, now))
    };
    kept.modules.into_iter().map(restore).collect()
}

/// Has the histories written. Never waits; on a disk that hangs they wait behind the alerts.
pub(super) fn store<'a>(
    state_dir: &Path,
    histories: impl Iterator<Item = (&'a ModuleName, &'a RestartHistory)>,
) {
    let now = Instant::now();
    let modules = histories.filter_map(|(name, history)| Some((name.clone(), history.keep(now)?))).collect();
    let (kept, path) = (Kept { at_ms: now_ms(), modules }, file(state_dir));
    drop(work_threads::run(Lane::Journal, move || {
        let content = serde_json::to_vec(&kept).unwrap_or_default();
        durable::replace(&path, &content, Durability::Process).ok();
    }));
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn what_is_stored_is_loaded_and_garbage_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let name: ModuleName = "watch".parse().unwrap();
        let mut history = RestartHistory::default();
        history.died(&vigie_config::model::RestartSection::default(), Instant::now(), Duration::ZERO, 0.0);

        store(directory.path(), [(&name, &history)].into_iter());
        while !file(directory.path()).exists() {
            tokio::task::yield_now().await;
        }

        assert!(load(directory.path(), 5).contains_key(&name));
        std::fs::write(file(directory.path()), "{").unwrap();
        assert!(load(directory.path(), 5).is_empty());
        assert!(load(Path::new("/nonexistent"), 5).is_empty());
    }
}
