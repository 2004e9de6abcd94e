//! What a process has open.

use rustix::io::Errno;
use serde::Serialize;
use vigie_host::shown;

use crate::executable::{FileState, View};
use crate::procfs;
use crate::remote::known_status;

/// Most descriptors of a process that are read.
const MAX_DESCRIPTORS: usize = 20_000;

/// A descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenFile {
    /// Its number.
    pub fd: u32,
    /// `file`, `directory`, `device`, `socket`, `pipe` or `other`.
    pub kind: &'static str,
    /// The path, or what the kernel calls it.
    pub path: String,
    /// What became of the file, when that is not that it lies there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<FileState>,
}

/// Reads the descriptors; says whether those were all.
///
/// # Errors
/// When they cannot be read.
pub fn read(view: &View<'_>) -> Result<(Vec<OpenFile>, bool), Errno> {
    let descriptors = procfs::numbers(view.directory, "fd")?;
    let whole = descriptors.len() <= MAX_DESCRIPTORS;
    let mut files = Vec::new();
    for fd in descriptors.into_iter().take(MAX_DESCRIPTORS) {
        let name = format!("fd/{fd}");
        // One that is closed meanwhile is none.
        let Ok(link) = procfs::link(view.directory, name.as_str()) else { continue };
        if !link.starts_with(b"/") {
            let kind = match link.split(|byte| *byte == b':').next() {
                Some(b"socket") => "socket",
                Some(b"pipe") => "pipe",
                _ => "other",
            };
            files.push(OpenFile { fd, kind, path: shown(&link), state: None });
            continue;
        }
        let status = match known_status(view.directory, name.as_str()) {
            Ok(status) => status,
            Err(Errno::NOENT) => continue,
            Err(_) => {
                let state = Some(FileState::Unknown);
                files.push(OpenFile { fd, kind: "other", path: shown(&link), state });
                continue;
            }
        };
        let (state, path) = view.state(&link, &status);
        let kind = match u32::from(status.stx_mode) & 0o170_000 {
            0o100_000 => "file",
            0o040_000 => "directory",
            0o020_000 | 0o060_000 => "device",
            0o010_000 => "pipe",
            0o140_000 => "socket",
            _ => "other",
        };
        let state = Some(state).filter(|state| *state != FileState::Present);
        files.push(OpenFile { fd, kind, path: shown(path), state });
    }
    Ok((files, whole))
}
