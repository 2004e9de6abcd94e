//! Why a group cannot be had, and why it cannot watch something.

use std::io;

use crate::group::Options;

/// Why there is no group.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The capability is missing, or a filter of system calls (seccomp) is in the way.
    #[error(
        "cannot open a fanotify group: this needs CAP_SYS_ADMIN and a seccomp filter that permits fanotify_init"
    )]
    NotPermitted(#[source] io::Error),
    /// The kernel is too old for the options.
    #[error("cannot open a fanotify group: these options need Linux {needed} or newer")]
    KernelTooOld {
        /// The first version with all that was asked for.
        needed: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel was built without fanotify.
    #[error("cannot open a fanotify group: the kernel was built without CONFIG_FANOTIFY")]
    NotBuilt(#[source] io::Error),
    /// Too many groups of this user, or too many open files of this process.
    #[error(
        "cannot open a fanotify group: fs.fanotify.max_user_groups or the limit of open files is reached"
    )]
    LimitReached(#[source] io::Error),
    /// Anything else, such as a lack of memory.
    #[error("cannot open a fanotify group")]
    Failed(#[source] io::Error),
}

impl GroupError {
    /// Says what an error of fanotify_init(2) means.
    pub(crate) fn new(source: io::Error, options: Options) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::NotPermitted(source),
            Some(libc::EINVAL) => Self::KernelTooOld { needed: options.needed_kernel(), source },
            Some(libc::ENOSYS) => Self::NotBuilt(source),
            Some(libc::EMFILE) => Self::LimitReached(source),
            _ => Self::Failed(source),
        }
    }
}

/// Why a mark was not set or removed.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// Its objects have no handles or it has no identity: overlayfs, proc, sysfs, FUSE without export, a
    /// subvolume of btrfs. Another way of watching is needed.
    #[error("cannot watch the file system with fanotify: it has no persistent file handles")]
    FilesystemUnsupported(#[source] io::Error),
    /// The kernel does not know a kind of event or the kind of mark.
    #[error(
        "cannot add a fanotify mark: the kernel does not support the requested events; rename events need Linux 5.17, file system errors 5.16"
    )]
    KernelTooOld(#[source] io::Error),
    /// There is no such mark to remove.
    #[error("cannot remove a fanotify mark: there is none")]
    NotMarked(#[source] io::Error),
    /// Anything else: not a directory, no permission to read it, a lack of memory.
    #[error("cannot change a fanotify mark")]
    Failed(#[source] io::Error),
}

impl From<io::Error> for MarkError {
    /// Says what an error of fanotify_mark(2) means.
    fn from(source: io::Error) -> Self {
        match source.raw_os_error() {
            // EXDEV: a subvolume of btrfs, whose identity is not the one of the whole file system.
            Some(libc::EOPNOTSUPP | libc::ENODEV | libc::EXDEV) => Self::FilesystemUnsupported(source),
            Some(libc::EINVAL) => Self::KernelTooOld(source),
            Some(libc::ENOENT) => Self::NotMarked(source),
            _ => Self::Failed(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(errno: i32, options: Options) -> GroupError {
        GroupError::new(io::Error::from_raw_os_error(errno), options)
    }

    #[test]
    fn a_refused_group_says_what_is_missing() {
        let all = Options::default();
        assert!(matches!(refused(libc::EPERM, all), GroupError::NotPermitted(_)));
        assert!(matches!(refused(libc::ENOSYS, all), GroupError::NotBuilt(_)));
        assert!(matches!(refused(libc::EMFILE, all), GroupError::LimitReached(_)));
        assert!(matches!(refused(libc::ENOMEM, all), GroupError::Failed(_)));

        let needed = |options| match refused(libc::EINVAL, options) {
            GroupError::KernelTooOld { needed, .. } => needed,
            other => panic!("{other}"),
        };
        assert_eq!(needed(all), "5.17");
        assert_eq!(needed(Options { target: false, ..all }), "5.15");
        assert_eq!(needed(Options { target: false, pidfd: false, ..all }), "5.9");
    }

    #[test]
    fn a_refused_mark_tells_the_file_system_from_the_kernel() {
        let refused = |errno| MarkError::from(io::Error::from_raw_os_error(errno));
        for errno in [libc::EOPNOTSUPP, libc::ENODEV, libc::EXDEV] {
            assert!(matches!(refused(errno), MarkError::FilesystemUnsupported(_)));
        }
        assert!(matches!(refused(libc::EINVAL), MarkError::KernelTooOld(_)));
        assert!(matches!(refused(libc::ENOENT), MarkError::NotMarked(_)));
        assert!(matches!(refused(libc::EACCES), MarkError::Failed(_)));
    }
}
