//! fanotify(7) as a file watcher needs it: marks on whole file systems, and events with the name, the directory's
//! handle, the object's handle and a descriptor of the process.
//!
//! [`Group`] is a queue of events, [`Events`] what is read from it, a [`Handle`] names a directory or file for as
//! long as it exists, whatever happens to its path. Marks with names need Linux 5.9, [`Mask::RENAME`] 5.17.

mod event;
mod group;
mod handle;
mod sys;

pub use event::{Entry, Event, Events, Mask, Pidfd};
pub use group::{Buffer, Group, Options};
pub use handle::{FilesystemId, Handle, HandleRef, handle_of, open_handle};
pub use sys::set_idle_io_priority;
