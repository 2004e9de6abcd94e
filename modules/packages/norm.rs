//! What files of Debian's packages should look like. dpkg records neither modes nor owners; packages bring files of
//! root with mode 0644 or 0755, and the exceptions that may raise privileges are few and known.

/// How a file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norm {
    /// Permissions.
    pub mode: u32,
    /// Name of the group; the owner is root.
    pub group: &'static str,
    /// Capabilities, as getcap(8) prints them.
    pub capabilities: &'static str,
}

const fn mode(mode: u32, group: &'static str) -> Norm {
    Norm { mode, group, capabilities: "" }
}

const fn capable(capabilities: &'static str) -> Norm {
    Norm { mode: 0o755, group: "root", capabilities }
}

/// By path without `/usr`, because `/bin/su` is `/usr/bin/su` on most hosts. Sorted.
const KNOWN: &[(&str, Norm)] = &[
    ("/bin/at", mode(0o6755, "daemon")),
    ("/bin/bsd-write", mode(0o2755, "tty")),
    ("/bin/chage", mode(0o2755, "shadow")),
    ("/bin/chfn", mode(0o4755, "root")),
    ("/bin/chsh", mode(0o4755, "root")),
    ("/bin/crontab", mode(0o2755, "crontab")),
    ("/bin/dotlockfile", mode(0o2755, "mail")),
    ("/bin/dumpcap", mode(0o754, "wireshark")),
    ("/bin/expiry", mode(0o2755, "shadow")),
    ("/bin/fping", capable("cap_net_raw=ep")),
    ("/bin/fusermount", mode(0o4755, "root")),
    ("/bin/fusermount3", mode(0o4755, "root")),
    ("/bin/gpasswd", mode(0o4755, "root")),
    ("/bin/lockfile", mode(0o2755, "mail")),
    ("/bin/mlocate", mode(0o2755, "mlocate")),
    ("/bin/mount", mode(0o4755, "root")),
    ("/bin/mtr-packet", capable("cap_net_raw=ep")),
    ("/bin/newgidmap", mode(0o4755, "root")),
    ("/bin/newgrp", mode(0o4755, "root")),
    ("/bin/newuidmap", mode(0o4755, "root")),
    ("/bin/ntfs-3g", mode(0o4755, "root")),
    ("/bin/passwd", mode(0o4755, "root")),
    ("/bin/ping", capable("cap_net_raw=ep")),
    ("/bin/pkexec", mode(0o4755, "root")),
    ("/bin/plocate", mode(0o2755, "plocate")),
    ("/bin/procmail", mode(0o6755, "mail")),
    ("/bin/ssh-agent", mode(0o2755, "_ssh")),
    ("/bin/su", mode(0o4755, "root")),
    ("/bin/sudo", mode(0o4755, "root")),
    ("/bin/sudoedit", mode(0o4755, "root")),
    ("/bin/umount", mode(0o4755, "root")),
    ("/bin/wall", mode(0o2755, "tty")),
    ("/bin/write.ul", mode(0o2755, "tty")),
    ("/etc/at.deny", mode(0o640, "daemon")),
    ("/etc/default/cacerts", mode(0o600, "root")),
    ("/etc/sudoers", mode(0o440, "root")),
    ("/etc/sudoers.d/README", mode(0o440, "root")),
    ("/lib/chromium/chrome-sandbox", mode(0o4755, "root")),
    ("/lib/dbus-1.0/dbus-daemon-launch-helper", mode(0o4754, "messagebus")),
    ("/lib/eject/dmcrypt-get-device", mode(0o4755, "root")),
    ("/lib/openssh/ssh-keysign", mode(0o4755, "root")),
    ("/lib/policykit-1/polkit-agent-helper-1", mode(0o4755, "root")),
    ("/lib/polkit-1/polkit-agent-helper-1", mode(0o4755, "root")),
    ("/lib/snapd/snap-confine", mode(0o4755, "root")),
    ("/lib/spice-gtk/spice-client-glib-usb-acl-helper", mode(0o4755, "root")),
    ("/lib/virtualbox/VBoxHeadless", mode(0o4755, "root")),
    (
        "/lib/x86_64-linux-gnu/gstreamer1.0/gstreamer-1.0/gst-ptp-helper",
        capable("cap_net_bind_service,cap_net_admin,cap_sys_nice=ep"),
    ),
    ("/lib/x86_64-linux-gnu/libexec/camel-lock-helper-1.2", mode(0o2755, "mail")),
    ("/lib/x86_64-linux-gnu/utempter/utempter", mode(0o2755, "utmp")),
    ("/lib/xorg/Xorg.wrap", mode(0o6755, "root")),
    ("/libexec/polkit-agent-helper-1", mode(0o4755, "root")),
    ("/sbin/exim4", mode(0o4755, "root")),
    ("/sbin/mount.cifs", mode(0o4755, "root")),
    ("/sbin/mount.ecryptfs_private", mode(0o4755, "root")),
    ("/sbin/mount.nfs", mode(0o4755, "root")),
    ("/sbin/pam_extrausers_chkpwd", mode(0o2755, "shadow")),
    ("/sbin/postdrop", mode(0o2755, "postdrop")),
    ("/sbin/postqueue", mode(0o2755, "postdrop")),
    ("/sbin/pppd", mode(0o4754, "dip")),
    ("/sbin/unix_chkpwd", mode(0o2755, "shadow")),
];

/// How a file of Debian's packages should be when it is an exception.
#[must_use]
pub fn known(path: &[u8]) -> Option<Norm> {
    let path = path.strip_prefix(b"/usr").filter(|rest| rest.starts_with(b"/")).unwrap_or(path);
    KNOWN.iter().find(|(known, _)| known.as_bytes() == path).map(|(_, norm)| *norm)
}

/// Whether permissions are those of a plain file: read by all, written by root alone or by nobody.
#[must_use]
pub fn is_plain(mode: u32) -> bool {
    matches!(mode, 0o644 | 0o755 | 0o444 | 0o555)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_both_names_of_its_place() {
        assert_eq!(known(b"/usr/bin/su").map(|norm| norm.mode), Some(0o4755));
        assert_eq!(known(b"/bin/su"), known(b"/usr/bin/su"));
        assert_eq!(known(b"/usr/bin/find"), None);
        assert_eq!(known(b"/usrbin/su"), None);
    }

    #[test]
    fn plain_files_are_written_by_root_alone() {
        assert!(is_plain(0o755) && !is_plain(0o775) && !is_plain(0o646) && !is_plain(0o4755) && !is_plain(0));
    }
}
