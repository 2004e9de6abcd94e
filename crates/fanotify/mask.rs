//! Which events are asked for, and which ones an event is.

bitflags::bitflags! {
    /// Kinds of events, with the kernel's names (fanotify_mark(2), `FAN_…`). Bits without a name here are kept.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
    pub struct Mask: u64 {
        /// Data was read.
        const ACCESS = libc::FAN_ACCESS;
        /// Data was written, or the file was truncated.
        const MODIFY = libc::FAN_MODIFY;
        /// Mode, owner, times, extended attributes or the number of links changed.
        const ATTRIB = libc::FAN_ATTRIB;
        /// A file that was open for writing was closed.
        const CLOSE_WRITE = libc::FAN_CLOSE_WRITE;
        /// A file that was open for reading only was closed.
        const CLOSE_NOWRITE = libc::FAN_CLOSE_NOWRITE;
        /// A file was opened.
        const OPEN = libc::FAN_OPEN;
        /// A name went away from a directory by rename(2).
        const MOVED_FROM = libc::FAN_MOVED_FROM;
        /// A name came into a directory by rename(2).
        const MOVED_TO = libc::FAN_MOVED_TO;
        /// A name came into a directory: new file, directory, link.
        const CREATE = libc::FAN_CREATE;
        /// A name was removed from a directory.
        const DELETE = libc::FAN_DELETE;
        /// The object itself is gone: no name and no open file is left.
        const DELETE_SELF = libc::FAN_DELETE_SELF;
        /// The object itself was renamed.
        const MOVE_SELF = libc::FAN_MOVE_SELF;
        /// A file was opened to be executed.
        const OPEN_EXEC = libc::FAN_OPEN_EXEC;
        /// Events were lost: the queue was full. Cannot be asked for, always comes.
        const Q_OVERFLOW = libc::FAN_Q_OVERFLOW;
        /// The file system found itself damaged. Only with marks on file systems.
        const FS_ERROR = libc::FAN_FS_ERROR;
        /// With the mark of a directory: also events of what lies directly in it.
        const EVENT_ON_CHILD = libc::FAN_EVENT_ON_CHILD;
        /// A rename, as one event with the old and the new name.
        const RENAME = libc::FAN_RENAME;
        /// In a mark: also events of directories. In an event: the object is a directory.
        const ONDIR = libc::FAN_ONDIR;

        const _ = !0;
    }
}
