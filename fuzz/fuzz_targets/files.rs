//! Whole files: the agent's configuration in both notations, the journal, fswatch's baseline, databases of packages,
//! files of time services. The first byte chooses. They are written to a directory in memory.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use vigie_config::files::{LoadOptions, load};
use vigie_fleet::replay_log::ReplayLog;
use vigie_fswatch::store::Store;
use vigie_journal::{Portion, Reader};
use vigie_packagedb::installed::{FileRecord, Package, Visitor, Want, managers, visit};
use vigie_packagedb::owners::Manager;
use vigie_packagedb::sqlite::Database;
use vigie_tree::Root;

static PLACE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir_in("/dev/shm").expect("there is memory"));

struct Everything;

impl Visitor for Everything {
    fn want(&mut self, _: Manager, _: &Package) -> Want {
        Want::Files
    }

    fn take(&mut self, _: Manager, _: Package, _: Vec<FileRecord>) {}
}

fn write(path: &str, data: &[u8]) -> std::path::PathBuf {
    let path = PLACE.path().join(path);
    fs::create_dir_all(path.parent().expect("it is in a directory")).expect("there is memory");
    fs::write(&path, data).expect("there is memory");
    path
}

fn packages(path: &str, data: &[u8]) {
    let root = PLACE.path().join("root");
    write(&format!("root/{path}"), data);
    let opened = Root::open(&root).expect("it was made just now");
    for manager in managers(&opened) {
        visit(&opened, manager, &mut Everything);
    }
    fs::remove_dir_all(root).expect("it was made just now");
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 9 {
        0 => drop(load(&LoadOptions::at_start(Some(write("vigie.toml", data))), &[])),
        1 => drop(load(&LoadOptions::at_start(Some(write("mig-agent.cfg", data))), &[])),
        2 => {
            write("journal/alerts-00000000000000000001.jsonl", data);
            let mut reader = Reader::new(&PLACE.path().join("journal"), 0);
            let mut items = Vec::new();
            let _ = reader.read(u64::MAX, Portion { items: 100, bytes: 1 << 20 }, &mut items);
        }
        3 => {
            let directory = PLACE.path().join("fswatch");
            write("fswatch/fswatch.baseline", data);
            let _ = Store::open(&directory, b"host");
            fs::remove_dir_all(directory).expect("it was made just now");
        }
        4 => {
            let path = write("fleet/replay.log", data);
            let _ = ReplayLog::open(&path, 0);
            let _ = fs::remove_file(path);
        }
        5 => packages("var/lib/dpkg/status", data),
        6 => packages("lib/apk/db/installed", data),
        7 => {
            let path = write("rpmdb.sqlite", data);
            let Ok(database) = Database::open(&Root::host().place(path)) else { return };
            if let Ok(Some(table)) = database.table("Packages") {
                let _ = database.each_row(table, &mut |_, _| {});
            }
        }
        _ => {
            let root = Path::new("time");
            let names = ["ntp.conf", "chrony.conf", "systemd/timesyncd.conf", "ntpd.conf"];
            for name in names {
                write(&root.join("etc").join(name).to_string_lossy(), data);
            }
            drop(vigie_timedrift::sources::configured(&PLACE.path().join(root)));
        }
    }
});
