//! Safe binding of fanotify(7) in the mode that names objects by file handle.
//!
//! A [`Group`] is told which file systems to watch and gives [`Event`]s: what happened, to which name in which
//! directory, to which object, and by which process. Directories and objects are named by [`Handle`]s, the same
//! that [`handle_of`] gives for what lies on the disk; nothing is opened by the kernel for the reader.
//!
//! | since Linux | what |
//! |---|---|
//! | 5.9 | names of entries, marks on file systems: the least that is needed |
//! | 5.15 | [`Options::pidfd`] |
//! | 5.16 | [`Mask::FS_ERROR`] |
//! | 5.17 | [`Options::target`], [`Mask::RENAME`]: the default |
//! | 6.5 | [`Identity::Comparable`] |
//!
//! What an older kernel does not know is refused with an error that says so; the caller asks for less then.
//!
//! `event.rs` parses without trusting a byte, `sys.rs` holds the system calls, `queue.rs` makes owned descriptors
//! of the numbers that the kernel wrote. No other file has unsafe code.

mod error;
mod event;
mod group;
mod handle;
mod mask;
mod queue;
mod sys;

pub use error::{GroupError, MarkError};
pub use event::{Entry, Event, FilesystemError, Malformed, Pidfd};
pub use group::{Group, Options};
pub use handle::{FilesystemId, Handle, HandleRef, Identity, handle_of, open_handle};
pub use mask::Mask;
pub use queue::{Buffer, Events};
pub use sys::set_idle_io_priority;
