//! Extended attributes as this kernel stores them, in the words of the tools that set them.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use vigie_fswatch::attributes::{acl, capabilities};

/// Runs a tool; its standard output, or nothing when it is not there or does not do it.
fn run(tool: &str, arguments: &[&str], path: &Path) -> Option<String> {
    let output = Command::new(tool).args(arguments).arg(path).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

fn extended(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 1024];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
    value[..length].to_vec()
}

#[test]
fn capabilities_read_as_getcap_shows_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    File::create(&path).unwrap();
    if !["setcap", "getcap"].into_iter().all(vigie_skipped::has) {
        return;
    }
    let set =
        ["cap_net_raw=ep", "cap_chown=i cap_kill+p", "=eip cap_sys_admin-eip", "cap_bpf,cap_perfmon=eip"];
    for wanted in set {
        if run("setcap", &[wanted], &path).is_none() {
            return vigie_skipped::skipped("this user may not set capabilities");
        }
        let shown = run("getcap", &["-n"], &path).unwrap();

        let decoded = capabilities(&extended(&path, "security.capability")).unwrap();

        assert_eq!(format!("{} {decoded}", path.display()), shown.trim_end());
    }
}

#[test]
fn an_acl_reads_as_getfacl_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    if !["setfacl", "getfacl"].into_iter().all(vigie_skipped::has) {
        return;
    }
    let entries = "u:1000:rwx,g:27:r,m::rx,d:u:7:-";
    if run("setfacl", &["-m", entries], directory.path()).is_none() {
        return vigie_skipped::skipped("the file system has no ACLs");
    }
    let arguments = ["--numeric", "--omit-header", "--no-effective", "--absolute-names"];
    let shown = run("getfacl", &arguments, directory.path()).unwrap();

    let access = acl(&extended(directory.path(), "system.posix_acl_access")).unwrap();
    let default = acl(&extended(directory.path(), "system.posix_acl_default")).unwrap();

    let default = default.into_iter().map(|entry| format!("default:{entry}"));
    assert_eq!(
        access.into_iter().chain(default).collect::<Vec<_>>(),
        shown.split_whitespace().collect::<Vec<_>>()
    );
}
