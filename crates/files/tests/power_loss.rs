//! A real power loss: a file system in a file is shut down without its log being written (`FS_IOC_SHUTDOWN`), after
//! random changes, and mounted again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vigie_files::durable::{self, Durability, DurableFile};
use vigie_skipped::{missing, skipped};

/// Where the process that makes changes makes them.
const PLACE: &str = "VIGIE_POWER_LOSS_PLACE";

/// Where it notes, on another file system, what it was promised.
const NOTES: &str = "VIGIE_POWER_LOSS_NOTES";

const SEED: &str = "VIGIE_POWER_LOSS_SEED";

/// Power losses on each kind of file system.
const LOSSES: u64 = 6;

/// Mounts, changes, cuts the power, mounts again and copies what is left. 77: it may not be mounted here.
const SCRIPT: &str = r#"
mount -o loop "$1" "$2" || exit 77
set -e
"$4" --ignored --exact child_that_changes_files_until_the_power_goes --nocapture >/dev/null
python3 -c 'import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", 2))' "$2"
umount "$2"
mount -o loop "$1" "$2"
cp -a "$2/." "$3"
umount "$2"
"#;

/// The same choices for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn text(&mut self, step: u64) -> Vec<u8> {
        format!("{step} ").repeat(usize::try_from(1 + self.below(3000)).unwrap()).into_bytes()
    }
}

/// Not a test by itself: makes changes, and notes each promise once it is given.
#[test]
#[ignore = "a child of the test below"]
fn child_that_changes_files_until_the_power_goes() {
    let place = std::env::var(PLACE).map(PathBuf::from).unwrap();
    let notes = std::env::var(NOTES).map(PathBuf::from).unwrap();
    let mut random = Random(std::env::var(SEED).unwrap().parse().unwrap());
    let mut log = DurableFile::create(&place.join("log")).unwrap();
    durable::sync_directory(&place).unwrap();
    let (mut written, mut synced) = (Vec::new(), 0);
    for step in 0..20 + random.below(60) {
        match random.below(6) {
            0 | 1 => {
                let (name, text) = (format!("power-{}", random.below(3)), random.text(step));
                durable::replace(&place.join(&name), &text, Durability::Power).unwrap();
                fs::write(notes.join(name), text).unwrap();
            }
            2 => {
                let (name, text) = (format!("process-{}", random.below(2)), random.text(step));
                durable::replace(&place.join(&name), &text, Durability::Process).unwrap();
                fs::create_dir_all(notes.join(&name)).unwrap();
                fs::write(notes.join(name).join(step.to_string()), text).unwrap();
            }
            3 | 4 => {
                let text = random.text(step);
                log.append(&text).unwrap();
                written.extend(text);
            }
            _ => {
                log.sync().unwrap();
                synced = written.len();
            }
        }
    }
    fs::write(notes.join("log"), &written[..synced]).unwrap();
}

/// Changes, a power loss, and what is left; false when such a file system cannot be mounted here.
fn lose_power(mkfs: &[&str], bytes: u64, seed: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["mount", "after", "notes"] {
        fs::create_dir(path(name)).unwrap();
    }
    File::create(path("image")).unwrap().set_len(bytes).unwrap();
    let made =
        Command::new(mkfs[0]).args(&mkfs[1..]).arg(path("image")).stdout(Stdio::null()).status().unwrap();
    assert!(made.success(), "{mkfs:?}");

    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .args([path("image"), path("mount"), path("after"), std::env::current_exe().unwrap()])
        .envs([(PLACE, path("mount")), (NOTES, path("notes"))])
        .env(SEED, seed.to_string())
        .output()
        .unwrap();
    if ran.status.code() == Some(77) {
        return false;
    }
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    judge(&path("notes"), &path("after"), seed);
    true
}

fn judge(notes: &Path, after: &Path, seed: u64) {
    for note in fs::read_dir(notes).unwrap().map(|entry| entry.unwrap().path()) {
        let name = note.file_name().unwrap().to_str().unwrap().to_owned();
        let left = fs::read(after.join(&name)).ok();
        match name.split('-').next().unwrap() {
            "power" => assert_eq!(left, fs::read(&note).ok(), "seed {seed}: {name}"),
            "log" => assert!(left.unwrap().starts_with(&fs::read(&note).unwrap()), "seed {seed}: {name}"),
            _ => {
                let is_one = |left: &Vec<u8>| {
                    fs::read_dir(&note).unwrap().any(|one| fs::read(one.unwrap().path()).unwrap() == *left)
                };
                assert!(left.is_none_or(|left| left.is_empty() || is_one(&left)), "seed {seed}: {name}");
            }
        }
    }
}

#[test]
fn what_survives_a_real_power_loss_is_what_the_durability_says() {
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() != 0 {
        return skipped("only root can mount a file system and shut it down");
    }
    let kinds: [(&[&str], u64); 2] =
        [(&["mkfs.ext4", "-q", "-F"], 48 << 20), (&["mkfs.xfs", "-q"], 320 << 20)];
    for (mkfs, bytes) in kinds {
        let is_there = |program: &str| Command::new(program).arg("-V").output().is_ok();
        if let Some(program) = [mkfs[0], "python3", "unshare"].into_iter().find(|program| !is_there(program))
        {
            missing(program);
            continue;
        }
        for seed in 0..LOSSES {
            if !lose_power(mkfs, bytes, seed) {
                skipped(format_args!("what {} makes cannot be mounted here", mkfs[0]));
                break;
            }
        }
    }
}
