//! Loop devices (loop(4)) over watched files: what is written to such a device is in the file, and no notification
//! tells of it. The kernel says when one is attached (its uevents, NETLINK_KOBJECT_UEVENT in netlink(7)), sysfs says to
//! which file.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use rustix::event::PollFlags;

use crate::ending::{Owner, ending};
use crate::events::Mailbox;

/// The kernel's own messages, as opposed to those that udev sends on.
const KERNEL_GROUP: u32 = 1;

/// A loop device that can be written, and the file behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attached {
    /// The device's name, such as `loop0`.
    pub device: String,
    /// The file, as the kernel says it.
    pub file: PathBuf,
}

/// The loop devices that have a file and can be written.
#[must_use]
pub fn attached() -> Vec<Attached> {
    attached_below(Path::new("/sys/block"))
}

fn attached_below(block: &Path) -> Vec<Attached> {
    let Ok(devices) = fs::read_dir(block) else { return Vec::new() };
    let of = |device: fs::DirEntry| {
        let name = device.file_name().into_string().ok().filter(|name| name.starts_with("loop"))?;
        let mut file = fs::read(device.path().join("loop/backing_file")).ok()?;
        let is_read_only = fs::read(device.path().join("ro")).is_ok_and(|text| text.trim_ascii() == b"1");
        if file.last() == Some(&b'\n') {
            file.pop();
        }
        (!is_read_only && !file.is_empty())
            .then(|| Attached { device: name, file: OsString::from_vec(file).into() })
    };
    let mut attached: Vec<Attached> = devices.flatten().filter_map(of).collect();
    attached.sort();
    attached
}

/// Whether a message of the kernel is about a loop device.
fn is_about_a_loop(message: &[u8]) -> bool {
    let path = message.split(|byte| *byte == 0).next().unwrap_or_default();
    path.windows(11).any(|part| part == b"/block/loop")
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// Tells when a loop device gets or loses its file.
///
/// # Errors
/// When the kernel gives no socket or no thread: in a container that may not listen to devices.
pub fn watch(mailbox: Mailbox) -> io::Result<Owner> {
    let socket = listen()?;
    let (owner, end) = ending()?;
    std::thread::Builder::new().name("loop devices".to_owned()).stack_size(64 * 1024).spawn(move || {
        let mut message = [0; 4096];
        while end.wait(socket.as_fd(), PollFlags::IN).unwrap_or(false) {
            match recv(socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(length) if is_about_a_loop(&message[..length]) => mailbox.open().loops_changed(),
                // Messages were lost: one of them may have been about a loop device.
                Err(nix::errno::Errno::ENOBUFS) => mailbox.open().loops_changed(),
                Ok(_) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    })?;
    Ok(owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_that_can_be_written_are_listed_with_their_files() {
        let block = tempfile::tempdir().unwrap();
        for (name, file, read_only) in
            [("loop0", "/srv/a b\n", "0\n"), ("loop1", "/srv/snap\n", "1\n"), ("vda", "/x\n", "0\n")]
        {
            fs::create_dir_all(block.path().join(name).join("loop")).unwrap();
            fs::write(block.path().join(name).join("loop/backing_file"), file).unwrap();
            fs::write(block.path().join(name).join("ro"), read_only).unwrap();
        }
        fs::create_dir(block.path().join("loop2")).unwrap();

        let file = PathBuf::from("/srv/a b");
        assert_eq!(attached_below(block.path()), [Attached { device: "loop0".to_owned(), file }]);
    }

    #[test]
    fn the_kernels_messages_name_the_device() {
        assert!(is_about_a_loop(b"change@/devices/virtual/block/loop0\0ACTION=change\0"));
        assert!(!is_about_a_loop(b"add@/devices/virtual/net/lo\0PATH=/block/loop0\0"));
        assert!(!is_about_a_loop(b""));
    }
}
