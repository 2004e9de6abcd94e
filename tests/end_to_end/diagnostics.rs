//! An archive of diagnostics has nothing in it that was not asked for: secrets are planted wherever something is collected.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::harness::{Host, Settings};

/// What must not leave the host.
const CANARY: &str = "canary7f3a";

fn unpacked(path: &std::path::Path) -> String {
    let mut bytes = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn secrets_that_are_planted_everywhere_are_not_in_the_archive() {
    // In names of tags, values, commands, environment, paths, conditions, the module's own file and its log.
    let rest = format!(
        "[tags]\nzone = \"{CANARY}\"\nx-{CANARY} = \"1\"\n[[module]]\nname = \"leaky\"\n\
         command = [\"/bin/sh\", \"-c\", \"echo {CANARY} >&2; exit 3\", \"{CANARY}\"]\n[module.env]\nTOKEN_{CANARY} = \"{CANARY}\"\n"
    );
    let settings = Settings { agent: "hostname = \"canary7f3a.example\"", ..Settings::default() };
    let host = Host::new(&settings, &rest);
    std::fs::write(host.path("modules.d/fswatch.cfg"), format!("[paths]\npath = /srv/{CANARY}\n")).unwrap();
    std::fs::write(host.path(&format!("modules.d/{CANARY}.cfg")), "; a file for no module\n").unwrap();
    let _agent = host.start();
    host.wait_log(CANARY);
    let (config, archive) = (host.path("vigie.toml"), host.path("d.tar.gz"));
    let words = ["diagnostics", "--config", config.to_str().unwrap(), "--out", archive.to_str().unwrap()];

    let ran = host.vigie(&words);

    assert_eq!(ran.code, 0, "{ran:?}");
    let text = unpacked(&archive);
    assert!(
        !text.contains(CANARY),
        "{}",
        text.split(CANARY).next().unwrap().lines().last().unwrap_or_default()
    );
    assert!(
        text.contains("\"files\"") && text.contains("vigie_health ") && text.contains("\"agent.stop_grace\"")
    );
    assert!(text.contains("\"leaky\"") && text.contains("the log: ask for it"), "{text}");
    // It is there when it is asked for.
    let all = host.path("all.tar.gz");
    let shared = [
        "diagnostics",
        "--config",
        config.to_str().unwrap(),
        "--out",
        all.to_str().unwrap(),
        "--include",
        "log",
    ];
    assert_eq!(host.vigie(&shared).code, 0);
    assert!(unpacked(&all).contains(CANARY));
    // An archive is not replaced.
    assert_eq!(host.vigie(&words).code, 74);
}
