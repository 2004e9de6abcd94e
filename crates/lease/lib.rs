//! Read leases (fcntl(2), `F_SETLEASE`): the one way to learn whether anybody can still write to a file.
//!
//! The kernel gives a read lease only when no descriptor, and no shared writable mapping, can write to the file. While
//! it is held, an `open` for writing waits until the holder has let go, so hold it for as long as one reading takes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Which signal tells of events on a descriptor; `asm-generic/fcntl.h`, the same on every architecture of Linux.
const F_SETSIG: libc::c_int = 10;

/// What a lease says about the writers of a file.
#[derive(Debug)]
pub enum Writers<'a> {
    /// Nobody can write to it; see [`Lease::was_kept`] for the time since.
    None(Lease<'a>),
    /// Somebody has it open for writing, or has it mapped so.
    Some,
    /// The file system has no leases, or the file belongs to somebody else and `CAP_LEASE` is missing.
    Unknown,
}

/// A read lease; given back when it is dropped.
#[derive(Debug)]
pub struct Lease<'a>(&'a File);

/// Asks for a read lease on a file that is open for reading only.
#[must_use]
pub fn writers(file: &File) -> Writers<'_> {
    // The kernel tells of a break with SIGIO, which ends a process; SIGURG is ignored unless somebody wants it.
    if command(file, F_SETSIG, libc::SIGURG).is_err() {
        return Writers::Unknown;
    }
    match command(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(_) => Writers::None(Lease(file)),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Writers::Some,
        Err(_) => Writers::Unknown,
    }
}

impl Lease<'_> {
    /// Whether nobody has tried to open the file for writing since the lease was given.
    #[must_use]
    pub fn was_kept(&self) -> bool {
        command(self.0, libc::F_GETLEASE, 0).is_ok_and(|kind| kind == libc::F_RDLCK)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Closing the file gives the lease back as well.
        command(self.0, libc::F_SETLEASE, libc::F_UNLCK).ok();
    }
}

#[expect(unsafe_code, reason = "neither nix nor rustix has these commands of fcntl(2)")]
fn command(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and these commands take a plain integer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::num::NonZeroUsize;

    use nix::sys::mman::{MapFlags, ProtFlags};

    use super::*;

    /// A file in a file system that has leases.
    fn file() -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new().unwrap()
    }

    #[test]
    fn a_file_that_nobody_writes_gives_a_lease_that_a_writer_breaks() {
        let path = file().into_temp_path();
        let reader = File::open(&path).unwrap();

        let Writers::None(lease) = writers(&reader) else { panic!("no lease") };
        assert!(lease.was_kept());
        // Without waiting for the holder.
        let writing = OpenOptions::new()
            .write(true)
            .custom_flags_nonblocking()
            .open(&path)
            .map_err(|error| error.raw_os_error());

        assert_eq!(writing.err(), Some(Some(libc::EAGAIN)));
        assert!(!lease.was_kept());
    }

    trait NonBlocking {
        fn custom_flags_nonblocking(&mut self) -> &mut Self;
    }

    impl NonBlocking for OpenOptions {
        fn custom_flags_nonblocking(&mut self) -> &mut Self {
            use std::os::unix::fs::OpenOptionsExt as _;
            self.custom_flags(libc::O_NONBLOCK)
        }
    }

    #[test]
    fn an_open_writer_is_seen() {
        let writer = file();
        let reader = File::open(writer.path()).unwrap();

        assert!(matches!(writers(&reader), Writers::Some));
    }

    #[test]
    fn a_writable_mapping_without_a_descriptor_is_seen() {
        let writer = file();
        writer.as_file().set_len(4096).unwrap();
        let reader = File::open(writer.path()).unwrap();
        let length = NonZeroUsize::new(4096).unwrap();
        let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        #[expect(unsafe_code, reason = "the case is a mapping")]
        // SAFETY: a fresh mapping at an address of the kernel's choice, which nothing else uses.
        let mapping =
            unsafe { nix::sys::mman::mmap(None, length, flags, MapFlags::MAP_SHARED, writer.as_file(), 0) };
        let mapping = mapping.unwrap();
        let path = writer.into_temp_path();

        assert!(matches!(writers(&reader), Writers::Some));

        #[expect(unsafe_code, reason = "the case is a mapping")]
        // SAFETY: the mapping was made above with this length and is not used afterwards.
        let unmapped = unsafe { nix::sys::mman::munmap(mapping, 4096) };
        unmapped.unwrap();
        drop(path);
    }
}
