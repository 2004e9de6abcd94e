//! A disk of its own for a test: a file system in a file, in a mount namespace, that can be frozen (fsfreeze(8)) or
//! filled.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Host, wait_until};

/// A mount namespace with an ext4 file system in it, kept by a process that ends with this one: it reads what never
/// comes.
pub(crate) struct Disk {
    keeper: Child,
    directory: PathBuf,
}

impl Disk {
    /// A disk of 32 MiB at a name in the host's directory. `None` where it cannot be made.
    pub(crate) fn mount(host: &Host, name: &str) -> Option<Self> {
        Self::mount_large(host, name, 32)
    }

    /// The same, of a size in MiB.
    pub(crate) fn mount_large(host: &Host, name: &str, mebibytes: u64) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let (image, directory) = (host.path(&format!("{name}.img")), host.path(name));
        fs::create_dir(&directory).unwrap();
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-qF", "-m", "0"]).arg(&image).status().unwrap();
        assert!(made.success());
        let ready = host.path("mounted");
        let script = "mount -o loop \"$1\" \"$2\" && echo > \"$3\" && exec cat";
        let keeper = Command::new("unshare")
            .args(["-m", "sh", "-c", script, "sh"])
            .args([&image, &directory, &ready])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut disk = Self { keeper, directory };
        wait_until("the disk is mounted or cannot be", || {
            (ready.exists() || disk.keeper.try_wait().unwrap().is_some()).then_some(())
        });
        ready.exists().then_some(disk)
    }

    /// What runs a command where the disk is.
    pub(crate) fn inside(&self) -> [String; 5] {
        let pid = self.keeper.id().to_string();
        ["nsenter".to_owned(), "-t".to_owned(), pid, "-m".to_owned(), "--".to_owned()]
    }

    fn fsfreeze(&self, order: &str) -> bool {
        let inside = self.inside();
        let mut command = Command::new(&inside[0]);
        command.args(&inside[1..]).args(["fsfreeze", order]).arg(&self.directory);
        command.stderr(Stdio::null()).status().unwrap().success()
    }

    pub(crate) fn freeze(&self) {
        assert!(self.fsfreeze("-f"));
    }

    pub(crate) fn thaw(&self) {
        self.fsfreeze("-u");
    }

    /// Takes all room that is left.
    pub(crate) fn fill(&self) {
        let script = "rest=$(stat -f -c '%a * %S' \"$1\"); fallocate -l $(($rest - 1048576)) \"$1/fill\"; \
            dd if=/dev/zero of=\"$1/rest\" bs=4k 2>/dev/null; sync -f \"$1\"; test -s \"$1/rest\"";
        assert!(self.run(&["sh", "-c", script, "sh"]));
    }

    /// Gives it back.
    pub(crate) fn empty(&self) {
        assert!(self.run(&["sh", "-c", "rm -f \"$1/fill\" \"$1/rest\"", "sh"]));
    }

    /// Whether a command succeeds where the disk is; its last argument is the disk's directory.
    pub(crate) fn run(&self, command: &[&str]) -> bool {
        let inside = self.inside();
        let ran = Command::new(&inside[0]).args(&inside[1..]).args(command).arg(&self.directory).status();
        ran.expect("nsenter runs").success()
    }

    /// A path on the disk, as it is seen from here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let root = Path::new("/proc").join(self.keeper.id().to_string()).join("root");
        let inside = self.directory.join(name);
        root.join(inside.strip_prefix("/").expect("the directory's path is absolute"))
    }

    /// A file on the disk.
    pub(crate) fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(name)).unwrap_or_default()).into_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        self.keeper.kill().ok();
        self.keeper.wait().ok();
    }
}
